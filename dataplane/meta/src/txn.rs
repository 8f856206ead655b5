//! The changes of a few commands on their way into one batch.

use crate::{
    Error, Result,
    counters::Counters,
    edge::{self, Edge},
    inode::{self, InodeCache, InodeRow},
    mount::Mounts,
    outcome::Invalidated,
    problem::Totals,
    schema,
    session::Sessions,
    usage::{Changes, Usages},
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
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) problems: Arc<BTreeMap<MountId, Totals>>,
}

/// An inode's row as the commands so far have left it.
struct Slot {
    row: Option<Arc<InodeRow>>,
    /// It differs from the store.
    changed: bool,
}

/// Changes gathered from the commands of one batch. Reads of single inodes, edges and sessions see
/// them, except those put in bulk ([`Txn::put_new`]); scans see the store before the batch.
pub(crate) struct Txn<'a> {
    pub(crate) kv: &'a dyn Kv,
    cache: &'a InodeCache,
    usages: &'a Usages,
    pub(crate) state: State,
    pub(crate) sessions: Sessions,
    pub(crate) batch: Batch,
    pub(crate) usage: Changes,
    inodes: BTreeMap<Ino, Slot>,
    /// Changed edges by their keys.
    edges: BTreeMap<Vec<u8>, Option<Edge>>,
    pub(crate) invalidated: Invalidated,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(
        kv: &'a dyn Kv,
        cache: &'a InodeCache,
        usages: &'a Usages,
        state: State,
        sessions: Sessions,
    ) -> Txn<'a> {
        Txn {
            kv,
            cache,
            usages,
            state,
            sessions,
            batch: Batch::default(),
            usage: Changes::default(),
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
            Some(slot) => Ok(slot.row.clone()),
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
            self.inodes.entry(*ino).or_insert_with(|| Slot {
                row: row.map(Arc::new),
                changed: false,
            });
        }
        Ok(())
    }

    /// Puts a row that counts for its mount as the one before did.
    pub(crate) fn put_inode(&mut self, ino: Ino, row: InodeRow) {
        self.set_inode(ino, Some(Arc::new(row)));
    }

    /// Puts the row of an inode that there was not before.
    pub(crate) fn add_inode(&mut self, ino: Ino, row: InodeRow) {
        self.usage.add(self.usages, &row);
        self.put_inode(ino, row);
    }

    /// Puts another row in the place of `old`, which may count otherwise for its mount.
    pub(crate) fn replace_inode(&mut self, ino: Ino, old: &InodeRow, row: InodeRow) {
        self.usage.subtract(self.usages, old);
        self.usage.add(self.usages, &row);
        self.put_inode(ino, row);
    }

    /// Deletes a row; `None`: it counts nowhere, so it need not be known.
    pub(crate) fn delete_inode(&mut self, ino: Ino, row: Option<&InodeRow>) {
        if let Some(row) = row {
            self.usage.subtract(self.usages, row);
        }
        self.set_inode(ino, None);
        self.state.counters.inodes -= 1;
    }

    fn set_inode(&mut self, ino: Ino, row: Option<Arc<InodeRow>>) {
        let changed = true;
        self.inodes.insert(ino, Slot { row, changed });
    }

    pub(crate) fn edge(&self, dir: Ino, name: &Name) -> Result<Option<Edge>> {
        let key = schema::edge(dir, name.as_bytes());
        match self.edges.get(&key) {
            Some(edge) => Ok(*edge),
            None => edge::at(self.kv, &key),
        }
    }

    pub(crate) fn put_edge(&mut self, dir: Ino, name: &Name, edge: Edge) {
        self.edges
            .insert(schema::edge(dir, name.as_bytes()), Some(edge));
    }

    pub(crate) fn delete_edge(&mut self, dir: Ino, name: &Name) {
        self.edges.insert(schema::edge(dir, name.as_bytes()), None);
    }

    /// Whether a directory has no names.
    pub(crate) fn is_empty(&self, dir: Ino) -> Result<bool> {
        let range = schema::edges(dir, None);
        let mut changed = self.edges.range(range.start.clone()..range.end.clone());
        if changed.any(|(_, edge)| edge.is_some()) {
            return Ok(false);
        }
        for row in self.kv.scan(range.start.as_slice()..range.end.as_slice()) {
            if !self.edges.contains_key(&row?.0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts a new inode and its edge, which this batch will not read again.
    pub(crate) fn put_new(&mut self, dir: Ino, name: &Name, edge: Edge, row: &InodeRow) {
        self.usage.add(self.usages, row);
        self.batch.put(schema::inode(edge.ino), schema::encode(row));
        self.batch
            .put(schema::edge(dir, name.as_bytes()), schema::encode(&edge));
    }

    /// Whether rows of a mount count for it.
    pub(crate) fn counts(&self, mount: MountId) -> bool {
        self.usage.counts(self.usages, mount)
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
        self.usage.clear();
        self.inodes.clear();
        self.edges.clear();
        self.invalidated = Invalidated::default();
    }

    /// Writes the batch; returns what is in memory after it.
    pub(crate) fn commit(mut self) -> Result<(State, Sessions)> {
        let batch = &mut self.batch;
        for (ino, slot) in self.inodes.iter().filter(|(_, slot)| slot.changed) {
            match &slot.row {
                Some(row) => batch.put(schema::inode(*ino), schema::encode(&**row)),
                None => batch.delete(schema::inode(*ino)),
            }
        }
        for (key, edge) in self.edges {
            match edge {
                Some(edge) => batch.put(key, schema::encode(&edge)),
                None => batch.delete(key),
            }
        }
        self.sessions.put(batch);
        self.usage.put(batch);
        self.state.counters.put(batch);
        self.kv.write(batch, Durability::Volatile)?;
        self.usages.take_over(self.usage);
        for (ino, slot) in self.inodes {
            match slot.row {
                // The next commands are likely to change the same directories.
                Some(row) if slot.changed && row.as_directory().is_some() => {
                    self.cache.renew(ino, row);
                }
                _ => self.cache.forget(ino),
            }
        }
        Ok((self.state, self.sessions))
    }
}
