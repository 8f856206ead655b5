//! The namespace as a FUSE host sees it: the masters' metadata behind a cache with leases.
//!
//! An answer is kept for as long as the master granted and only while the `Watch` stream lives; when
//! the stream breaks, everything is forgotten, also in the kernel.

use crate::Result;
use bytes::Bytes;
use forebay_types::{Address, Attr, FileRef, Ino, Name};
use std::{sync::Arc, time::Duration};
use tokio::sync::broadcast;

/// Something with the time for which it may be kept.
#[derive(Clone, Debug)]
pub struct Leased<T> {
    /// The thing.
    pub value: T,
    /// How long the kernel may keep it from now on.
    pub valid: Duration,
}

/// A whole directory at one moment, in the order of names.
#[derive(Debug)]
pub struct Listing {
    /// The directory.
    pub directory: Attr,
    /// Its parent (the root is its own).
    pub parent: Ino,
    /// Names and attributes.
    pub entries: Vec<(Name, Attr)>,
}

/// What somebody else's kernel must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// A name in a directory, and the directory's listing.
    Entry(Ino, Name),
    /// An inode's attributes and data.
    Inode(Ino),
    /// Everything that was ever handed out.
    All,
}

/// The namespace; cheap to clone.
#[derive(Clone)]
pub struct Namespace {}

impl Namespace {
    /// Connects, opens a session, and starts to watch. `cache_bytes` bounds the metadata cache.
    pub async fn connect(
        _master: &Address,
        _cache_bytes: u64,
        _shutdown: tokio_util::sync::CancellationToken,
    ) -> Result<Namespace> {
        todo!()
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> &str {
        todo!()
    }

    /// A name in a directory; `None` (also leased) if there is no such name. Ready at the first poll
    /// when cached.
    pub async fn lookup(&self, _parent: Ino, _name: &Name) -> Result<Leased<Option<Attr>>> {
        todo!()
    }

    /// Attributes. Ready at the first poll when cached.
    pub async fn attr(&self, _ino: Ino) -> Result<Leased<Attr>> {
        todo!()
    }

    /// A directory, whole. Ready at the first poll when cached.
    pub async fn read_dir(&self, _dir: Ino) -> Result<Leased<Arc<Listing>>> {
        todo!()
    }

    /// What a worker needs to fetch the file. Ready at the first poll when cached.
    pub async fn file_ref(&self, _ino: Ino) -> Result<FileRef> {
        todo!()
    }

    /// Tells the master that the under store has another content.
    pub async fn report_stale(&self, _file: &FileRef) -> Result<()> {
        todo!()
    }

    /// Changes from now on; a receiver that lags must treat it as [`Invalidation::All`].
    pub fn invalidations(&self) -> broadcast::Receiver<Invalidation> {
        todo!()
    }
}

/// Reads files of other nodes: pages streamed from their home workers, with read-ahead.
pub struct RemoteReader {}

impl RemoteReader {
    /// A reader whose read-ahead holds at most `budget` bytes in all.
    pub fn new(_master: &Address, _budget: u64) -> RemoteReader {
        todo!()
    }

    /// The bytes of a range (cut at the end of the file), from the best home that answers.
    pub async fn read(&self, _file: &FileRef, _range: std::ops::Range<u64>) -> Result<Bytes> {
        todo!()
    }

    /// The file is no longer open: its read-ahead may go.
    pub fn forget(&self, _file: &FileRef) {
        todo!()
    }
}
