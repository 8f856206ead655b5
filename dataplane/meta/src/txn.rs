//! One command's changes on their way into one batch.

use crate::{
    Error, Result,
    counters::Counters,
    edge::{self, Edge},
    inode::{self, InodeCache, InodeRow},
    mount::Mounts,
    outcome::Invalidated,
    problem::Totals,
    schema,
};
use forebay_kv::{Batch, Durability, Kv};
use forebay_types::{Code, Ino, MountId, Name};
use std::{collections::BTreeMap, sync::Arc};

/// Why a change did not take place.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The answer to the proposer; the same on every replica.
    Refused { code: Code, reason: String },
    /// The node cannot go on.
    Fatal(Error),
}

impl<E: Into<Error>> From<E> for Fault {
    fn from(error: E) -> Fault {
        Fault::Fatal(error.into())
    }
}

/// A refusal as the error of a function.
pub(crate) fn refused<T>(code: Code, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused {
        code,
        reason: reason.into(),
    })
}

/// What apply keeps in memory between commands; always what the rows say.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) counters: Counters,
    pub(crate) mounts: Mounts,
    pub(crate) problems: BTreeMap<MountId, Totals>,
}

/// Changes gathered from one command. Reads see them, except those put in bulk
/// ([`Txn::put_new`]).
pub(crate) struct Txn<'a> {
    pub(crate) kv: &'a dyn Kv,
    cache: &'a InodeCache,
    pub(crate) state: State,
    pub(crate) batch: Batch,
    inodes: BTreeMap<Ino, Option<Arc<InodeRow>>>,
    edges: BTreeMap<(Ino, Name), Option<Edge>>,
    pub(crate) invalidated: Invalidated,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(kv: &'a dyn Kv, cache: &'a InodeCache, state: State) -> Txn<'a> {
        Txn {
            kv,
            cache,
            state,
            batch: Batch::default(),
            inodes: BTreeMap::new(),
            edges: BTreeMap::new(),
            invalidated: Invalidated::default(),
        }
    }

    /// Now, for this command.
    pub(crate) fn now_ns(&self) -> i64 {
        self.state.counters.now_ns
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRow>>> {
        match self.inodes.get(&ino) {
            Some(row) => Ok(row.clone()),
            None => self.cache.load(self.kv, ino),
        }
    }

    /// The row of an inode to which another row leads.
    pub(crate) fn known_inode(&self, ino: Ino) -> Result<Arc<InodeRow>> {
        self.inode(ino)?
            .ok_or_else(|| Error::Damaged(format!("inode {ino} is missing")))
    }

    /// Reads rows that the command is about to need, together: cheaper than one by one.
    pub(crate) fn preload(&mut self, inos: &[Ino]) -> Result<()> {
        for (ino, row) in inos.iter().zip(inode::get_many(self.kv, inos)?) {
            self.inodes.entry(*ino).or_insert_with(|| row.map(Arc::new));
        }
        Ok(())
    }

    pub(crate) fn put_inode(&mut self, ino: Ino, row: InodeRow) {
        self.batch.put(schema::inode(ino), schema::encode(&row));
        self.inodes.insert(ino, Some(Arc::new(row)));
    }

    pub(crate) fn delete_inode(&mut self, ino: Ino) {
        self.batch.delete(schema::inode(ino));
        self.inodes.insert(ino, None);
        self.state.counters.inodes -= 1;
    }

    pub(crate) fn edge(&self, dir: Ino, name: &Name) -> Result<Option<Edge>> {
        match self.edges.get(&(dir, name.clone())) {
            Some(edge) => Ok(*edge),
            None => edge::get(self.kv, dir, name),
        }
    }

    pub(crate) fn put_edge(&mut self, dir: Ino, name: &Name, edge: Edge) {
        self.batch
            .put(schema::edge(dir, name.as_bytes()), schema::encode(&edge));
        self.edges.insert((dir, name.clone()), Some(edge));
    }

    pub(crate) fn delete_edge(&mut self, dir: Ino, name: &Name) {
        self.batch.delete(schema::edge(dir, name.as_bytes()));
        self.edges.insert((dir, name.clone()), None);
    }

    /// Puts a new inode and its edge, which this command will not read again.
    pub(crate) fn put_new(&mut self, dir: Ino, name: &Name, edge: Edge, row: &InodeRow) {
        self.batch.put(schema::inode(edge.ino), schema::encode(row));
        self.batch
            .put(schema::edge(dir, name.as_bytes()), schema::encode(&edge));
    }

    /// A name leads elsewhere, or nowhere, or somewhere for the first time.
    pub(crate) fn invalidate_entry(&mut self, dir: Ino, name: &Name) {
        let dir = self.state.counters.outer(dir);
        self.invalidated.entries.push((dir, name.clone()));
    }

    /// Attributes, or a listing, changed.
    pub(crate) fn invalidate_inode(&mut self, ino: Ino) {
        let ino = self.state.counters.outer(ino);
        if self.invalidated.inodes.last() != Some(&ino) {
            self.invalidated.inodes.push(ino);
        }
    }

    /// Forgets all changes; what is in `state` is the caller's to restore.
    pub(crate) fn clear(&mut self) {
        self.batch.ops.clear();
        self.inodes.clear();
        self.edges.clear();
        self.invalidated = Invalidated::default();
    }

    /// Writes the batch; returns the state after it.
    pub(crate) fn commit(mut self) -> Result<State> {
        self.state.counters.put(&mut self.batch);
        self.kv.write(&self.batch, Durability::Volatile)?;
        for ino in self.inodes.keys() {
            self.cache.forget(*ino);
        }
        Ok(self.state)
    }
}
