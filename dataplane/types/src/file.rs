//! What names the bytes of a file, here and in the under store.

use crate::{ContentVersion, Ino, MountId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Names bytes that never change: the key of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// The inode.
    pub ino: Ino,
    /// The version of its content.
    pub version: ContentVersion,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ino, self.version)
    }
}

/// What an under store says to tell two contents of one key apart. Two contents are taken to be
/// the same if and only if their fingerprints are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes of content.
    pub size: u64,
    /// Last change, nanoseconds since the Unix epoch, as the store reports it. Left 0 where an
    /// etag says more: some stores list and answer with different precisions.
    pub mtime_ns: i64,
    /// The store's entity tag, exactly as it sent it, quotes included; empty if it has none.
    pub etag: String,
}

/// All that a worker needs to fetch a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// Names the bytes.
    pub id: FileId,
    /// The under store that has them.
    pub mount: MountId,
    /// The key within that under store: relative to the mount's URI, without a leading `/`.
    pub key: Bytes,
    /// What the under store must still say of the key (`fingerprint.size` is the file's size).
    pub fingerprint: Fingerprint,
}

impl FileRef {
    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.fingerprint.size
    }
}
