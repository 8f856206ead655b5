//! An ordered key-value store behind one trait.
//!
//! The metadata tables, the raft log and the worker's page index all lie in a [`Kv`]. Keys are
//! ordered bytewise. A batch is applied whole or not at all. This crate has the trait, an
//! in-memory implementation and the conformance suite that every implementation passes; it never
//! reaches RocksDB (`forebay-kv-rocksdb` does).

use std::{
    ops::{ControlFlow, Range},
    path::Path,
};

pub mod batch;
pub mod conformance;
pub mod mem;

pub use batch::{Batch, Op};
pub use mem::MemKv;

/// An error of the store. `Corrupt` stops the process that sees it; nothing skips over it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device is full.
    #[error("no space left on the device of the key-value store")]
    NoSpace(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Stored bytes are damaged.
    #[error("key-value store is corrupt")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else.
    #[error("key-value store failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The result of a store call.
pub type Result<T> = std::result::Result<T, Error>;

/// What must be true when [`Kv::write`] returns.
///
/// One store takes either only `Volatile` writes, or only `Logged` and `Synced` ones. Mixed, a
/// crash would keep a later logged write and lose an earlier volatile one, so that what is left is
/// no state that ever was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives the loss of power (fsync).
    Synced,
    /// Survives the death of the process.
    Logged,
    /// Survives nothing until [`Kv::flush`]: the caller has its own journal. After a crash the
    /// store is as it was after some earlier write, never in between.
    Volatile,
}

/// Pairs in ascending order of keys.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + Send + 'a>;

/// Sees a key and its value, and says whether to go on.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reading: of the live store, or of one moment ([`Kv::snapshot`]).
pub trait Read: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The values of `keys`, in their order. Cheaper than as many calls of [`Read::get`] where
    /// the store can share work between neighbours: hand the keys over in ascending order.
    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// The pairs whose keys lie in the half-open `range`, as of the moment of the call.
    fn scan(&self, range: Range<&[u8]>) -> Scan<'_>;

    /// Shows `visitor` the same pairs in the same order, without copies of them, until it has seen
    /// enough. Cheaper than [`Read::scan`] where many pairs are only passed by.
    fn visit(&self, range: Range<&[u8]>, visitor: &mut Visitor<'_>) -> Result<()> {
        for pair in self.scan(range) {
            let (key, value) = pair?;
            if visitor(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The store.
pub trait Kv: Read + 'static {
    /// Applies `batch` atomically.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<()>;

    /// The store as it is now, unaffected by later writes.
    fn snapshot(&self) -> Box<dyn Read + '_>;

    /// Makes everything written so far survive the loss of power. May take long; does not block
    /// writers.
    fn flush(&self) -> Result<()>;

    /// Makes a consistent copy in the new directory `dir` (hard links where the store can).
    fn checkpoint(&self, dir: &Path) -> Result<()>;
}
