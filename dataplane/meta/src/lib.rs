//! The metadata state machine: one function, [`Meta::apply`], run alike by leader, follower and
//! recovery; and the views that answer reads.
//!
//! Pure: no clock, no randomness, no I/O but the [`Kv`] that it is given. Time and identity are in
//! the command; ids come from counters in the state; rows and applied index commit in one batch,
//! so applying an index again changes nothing.
//!
//! The tree is an edge table, (directory, name) to inode, and an inode table. Numbers are never
//! used again, and an inode never changes its content: a file that was replaced in the under store
//! is a new inode under the same name, and the old one an orphan, still readable by its number
//! until [`Change::Reap`] deletes it. Whatever leaves the tree leaves it at once, however much is
//! below: only its edge is deleted, and reaping follows in bounded steps.
//!
//! Mounts nest. Directories on the way to a mount point exist even if the under store around it
//! has none of that name, and they outlive its disappearance there.

use forebay_kv::{Durability, Kv};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

mod apply;
pub mod command;
mod counters;
mod edge;
mod entries;
mod etag;
mod inode;
mod mount;
mod orphan;
pub mod outcome;
mod pin;
mod problem;
mod schema;
mod session;
mod stamp;
mod tree;
mod txn;
mod view;

pub use command::{Change, Command, Problem, ProblemReason, RequestId, UfsEntry, UfsKind};
pub use outcome::{Invalidated, Outcome, Reply};
pub use view::DirState;

use counters::Counters;
use inode::{InodeCache, InodeRow};
use mount::Mounts;
use txn::{State, Txn};

/// An error of the store or damage in it: fatal to the node, never an answer to a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("metadata store failed")]
    Store(#[from] forebay_kv::Error),
    /// A row cannot be read.
    #[error("metadata row is damaged: {0}")]
    Damaged(String),
    /// The data was written by a newer version.
    #[error("metadata has format {found}, this version reads up to {known}: use a newer forebay")]
    Newer {
        /// In the data.
        found: u32,
        /// Known here.
        known: u32,
    },
}

/// The result of a view.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The state machine over its store. Writes are [`Durability::Volatile`]: the journal of commands
/// is the log, and [`Meta::flush`] says how much of it is no longer needed.
pub struct Meta {
    kv: Arc<dyn Kv>,
    cache: InodeCache,
    /// Held by whoever applies.
    state: Mutex<State>,
    // Copies of counters for views, set after each commit.
    applied: AtomicU64,
    root: AtomicU64,
    inodes: AtomicU64,
    pins: AtomicU64,
}

impl Meta {
    /// Opens the state in `kv`, making an empty root in an empty store. `cache_bytes` bounds the
    /// inode cache.
    pub fn open(kv: Arc<dyn Kv>, cache_bytes: u64) -> Result<Meta> {
        match kv.get(&schema::format_stamp())? {
            None => make_root(&*kv)?,
            Some(bytes) => {
                let found = schema::decode(&bytes, "format stamp")?;
                if found > schema::FORMAT {
                    return Err(Error::Newer {
                        found,
                        known: schema::FORMAT,
                    });
                }
            }
        }
        let cache = InodeCache::new(cache_bytes);
        let counters = Counters::load(&*kv)?;
        let problems = problem::load_totals(&*kv)?;
        let state = State {
            counters,
            mounts: Mounts::default(),
            problems,
        };
        let mut txn = Txn::new(&*kv, &cache, state);
        mount::load(&mut txn)?;
        let state = txn.state;
        let meta = Meta {
            kv,
            cache,
            state: Mutex::new(state.clone()),
            applied: AtomicU64::new(0),
            root: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            pins: AtomicU64::new(0),
        };
        meta.publish(&state);
        Ok(meta)
    }

    /// The last applied index.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Applies a command. An index that is already applied changes nothing (and the outcome says
    /// nothing). After an error the state is as before, and the same index can be applied again.
    pub fn apply(&self, index: u64, command: &Command) -> Result<Outcome> {
        let mut state = self.state.lock();
        if index <= state.counters.applied {
            return Ok(Outcome::default());
        }
        let mut txn = Txn::new(&*self.kv, &self.cache, state.clone());
        let outcome = apply::apply(&mut txn, index, command)?;
        *state = txn.commit()?;
        self.publish(&state);
        Ok(outcome)
    }

    /// Moves the applied index over an entry without a command.
    pub fn skip(&self, index: u64) -> Result<()> {
        let mut state = self.state.lock();
        if index > state.counters.applied {
            let mut txn = Txn::new(&*self.kv, &self.cache, state.clone());
            txn.state.counters.applied = index;
            *state = txn.commit()?;
            self.publish(&state);
        }
        Ok(())
    }

    /// Makes everything applied durable; returns the last index of it (read before the flush).
    pub fn flush(&self) -> Result<u64> {
        let applied = self.applied();
        self.kv.flush()?;
        Ok(applied)
    }

    fn publish(&self, state: &State) {
        self.root.store(state.counters.root.0, Ordering::Release);
        self.inodes.store(state.counters.inodes, Ordering::Release);
        self.pins.store(state.counters.pins, Ordering::Release);
        self.applied
            .store(state.counters.applied, Ordering::Release);
    }
}

/// The first rows of an empty store.
fn make_root(kv: &dyn Kv) -> Result<()> {
    let counters = Counters::first();
    let mut batch = forebay_kv::Batch::default();
    batch.put(schema::format_stamp(), schema::encode(&schema::FORMAT));
    batch.put(
        schema::inode(counters.root),
        schema::encode(&InodeRow::directory(None, 0, None)),
    );
    counters.put(&mut batch);
    Ok(kv.write(&batch, Durability::Volatile)?)
}
