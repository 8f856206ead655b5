//! An ordered key-value store behind one trait.
//!
//! The metadata tables, the raft log and the worker's page index all lie in a [`Kv`]. Keys are
//! ordered bytewise. A batch is applied whole or not at all. This crate has the trait, an
//! in-memory implementation and the conformance suite that every implementation passes; it never
//! reaches RocksDB (`forebay-kv-rocksdb` does).

use std::{ops::Range, path::Path};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives the loss of power (fsync).
    Synced,
    /// Survives the death of the process.
    Logged,
    /// Survives nothing until [`Kv::flush`]: the caller has its own journal.
    Volatile,
}

/// One change within a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Vec<u8>),
    /// Removes all keys of a half-open range.
    DeleteRange(Range<Vec<u8>>),
}

/// Changes that are applied together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.ops.push(Op::Put(key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete(key.into()));
    }

    /// Removes all keys of a half-open range.
    pub fn delete_range(&mut self, range: Range<Vec<u8>>) {
        self.ops.push(Op::DeleteRange(range));
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Pairs in ascending order of keys.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + Send + 'a>;

/// Reading: of the live store, or of one moment ([`Kv::snapshot`]).
pub trait Read: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The pairs whose keys lie in the half-open `range`, as of the moment of the call.
    fn scan(&self, range: Range<&[u8]>) -> Scan<'_>;
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
