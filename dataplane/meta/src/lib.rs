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
//! Names and attributes below a scratch mount, which has no under store, are Forebay's own:
//! clients change them. All else is the under stores' to change.
//!
//! Mounts nest. Directories on the way to a mount point exist even if the under store around it
//! has none of that name, and they outlive its disappearance there.

use forebay_kv::{Durability, Kv};
use parking_lot::{Mutex, RwLock};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

mod apply;
pub mod command;
mod counters;
mod edge;
mod entries;
mod etag;
mod hint;
mod inode;
mod mount;
mod orphan;
pub mod outcome;
mod pin;
mod problem;
mod schema;
mod scratch;
mod session;
mod stamp;
mod tree;
mod txn;
mod usage;
mod view;
mod warmup;

pub use command::{
    Access, Change, Command, Entry, Problem, ProblemReason, RequestId, SetAttr, UfsEntry, UfsKind,
};
pub use outcome::{Invalidated, Outcome, Reply};
pub use usage::Usage;
pub use view::{DirState, Mount, Placed};
pub use warmup::{Warmup, WarmupEnd, WarmupSpec};

use counters::Counters;
use hint::Hints;
use inode::{InodeCache, InodeRow};
use mount::Mounts;
use session::Sessions;
use txn::{State, Txn};
use usage::Usages;

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
    hints: Hints,
    /// Changed by whoever applies.
    usages: Usages,
    /// Held by whoever applies.
    state: Mutex<Held>,
    // Copies for views, set after each commit.
    mounts: RwLock<Arc<Mounts>>,
    applied: AtomicU64,
    root: AtomicU64,
    inodes: AtomicU64,
    pins: AtomicU64,
}

/// What is in memory between batches.
struct Held {
    state: State,
    sessions: Sessions,
}

impl Meta {
    /// Opens the state in `kv`, making an empty root in an empty store. `cache_bytes` bounds the
    /// memory of inodes and names. Takes its time if [`Meta::must_count`].
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
        // So the names of ten times as many inodes are known as have their rows in memory.
        let cache = InodeCache::new(cache_bytes / 4 * 3);
        let hints = Hints::new(cache_bytes / 4);
        let counters = Counters::load(&*kv)?;
        let problems = problem::load_totals(&*kv)?;
        let state = State {
            counters,
            mounts: Arc::default(),
            problems: Arc::new(problems),
        };
        if !Counters::mounts_are_counted(&*kv)? {
            count_mounts(&*kv)?;
        }
        let usages = Usages::load(&*kv)?;
        let mut txn = Txn::new(&*kv, &cache, &usages, state, Sessions::default());
        mount::load(&mut txn)?;
        let Txn {
            state, sessions, ..
        } = txn;
        let meta = Meta {
            kv,
            cache,
            hints,
            usages,
            mounts: RwLock::default(),
            state: Mutex::new(Held {
                state: state.clone(),
                sessions,
            }),
            applied: AtomicU64::new(0),
            root: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            pins: AtomicU64::new(0),
        };
        meta.publish(&state);
        Ok(meta)
    }

    /// Whether opening the state in `kv` will read every inode, a few millions in a second, because
    /// an earlier version that kept no [`Usage`] has written to it; and how many there are.
    pub fn must_count(kv: &dyn Kv) -> Result<Option<u64>> {
        if kv.get(&schema::format_stamp())?.is_none() || Counters::mounts_are_counted(kv)? {
            return Ok(None);
        }
        Ok(Some(Counters::load(kv)?.inodes))
    }

    /// The last applied index.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Applies consecutive entries of the journal; the outcomes of each one's commands. An entry
    /// that is already applied changes nothing (and its outcomes say nothing). Each entry takes
    /// effect whole or not at all. After an error the state is as after some entry before the one
    /// that failed, and the same entries can be applied again.
    pub fn apply(&self, entries: &[Entry]) -> Result<Vec<Vec<Outcome>>> {
        let mut held = self.state.lock();
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let small = |entry: &&Entry| entry.commands.iter().all(|c| c.change.is_small());
            let run = if small(&first) {
                rest.iter().take_while(small).count()
            } else {
                1
            };
            let (now, later) = rest.split_at(run);
            self.together(&mut held, |txn| {
                for entry in now {
                    outcomes.push(if entry.index <= txn.state.counters.applied {
                        vec![Outcome::default(); entry.commands.len()]
                    } else {
                        apply::apply(txn, entry)?
                    });
                }
                Ok(())
            })?;
            rest = later;
        }
        Ok(outcomes)
    }

    /// Moves the applied index over an entry without a command.
    pub fn skip(&self, index: u64) -> Result<()> {
        self.together(&mut self.state.lock(), |txn| {
            let applied = &mut txn.state.counters.applied;
            *applied = index.max(*applied);
            Ok(())
        })
    }

    /// Makes the changes of `work` in one batch.
    fn together(&self, held: &mut Held, work: impl FnOnce(&mut Txn) -> Result<()>) -> Result<()> {
        // After an error the sessions are read again.
        let sessions = std::mem::take(&mut held.sessions);
        let state = held.state.clone();
        let mut txn = Txn::new(&*self.kv, &self.cache, &self.usages, state, sessions);
        work(&mut txn)?;
        (held.state, held.sessions) = txn.commit()?;
        self.publish(&held.state);
        Ok(())
    }

    /// Makes everything applied durable; returns the last index of it (read before the flush).
    pub fn flush(&self) -> Result<u64> {
        let applied = self.applied();
        self.kv.flush()?;
        Ok(applied)
    }

    /// Makes a consistent copy of everything applied in the new directory `dir`; returns the last
    /// index in it. Holds [`Meta::apply`] up only while it writes what came in the meantime.
    pub fn checkpoint(&self, dir: &Path) -> Result<u64> {
        // Nearly all of the work, beside apply.
        self.kv.flush()?;
        let held = self.state.lock();
        self.kv.checkpoint(dir)?;
        Ok(held.state.counters.applied)
    }

    fn publish(&self, state: &State) {
        if !Arc::ptr_eq(&self.mounts.read(), &state.mounts) {
            *self.mounts.write() = Arc::clone(&state.mounts);
        }
        self.root.store(state.counters.root.0, Ordering::Release);
        self.inodes.store(state.counters.inodes, Ordering::Release);
        self.pins.store(state.counters.pins, Ordering::Release);
        self.applied
            .store(state.counters.applied, Ordering::Release);
    }
}

/// Puts the figures of all mounts into a store that has none, or not those of its rows.
fn count_mounts(kv: &dyn Kv) -> Result<()> {
    let mut batch = forebay_kv::Batch::default();
    usage::count(kv)?.put(&mut batch);
    Counters::load(kv)?.put(&mut batch);
    Ok(kv.write(&batch, Durability::Volatile)?)
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
