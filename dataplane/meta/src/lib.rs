//! The metadata state machine: one function, [`Meta::apply`], run alike by leader, follower and
//! recovery; and the views that answer reads.
//!
//! Pure: no clock, no randomness, no I/O but the [`Kv`] that it is given. Time and identity are in
//! the command; ids come from counters in the state; rows and applied index commit in one batch,
//! so applying an index again changes nothing.

use bytes::Bytes;
use forebay_kv::Kv;
use forebay_types::{Attr, FileRef, Ino, MountId, MountSpec, Name};
use std::sync::Arc;

pub mod command;
pub mod outcome;

pub use command::{Change, Command, Problem, ProblemReason, RequestId, UfsEntry, UfsKind};
pub use outcome::{Invalidated, Outcome, Reply};

/// The state machine over its store.
pub struct Meta {}

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
pub type Result<T> = std::result::Result<T, Error>;

/// Where a directory's entries come from, and how fresh they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirState {
    /// The under store; `None`: a directory made only to hold mount points.
    pub mount: Option<MountId>,
    /// Its key there: empty, or ending in `/`.
    pub prefix: Bytes,
    /// When the last complete listing began (`FinishSync`), nanoseconds since the Unix epoch; `None`: never
    /// listed.
    pub synced_ns: Option<i64>,
}

impl Meta {
    /// Opens the state in `kv`, making an empty root in an empty store. `cache_bytes` bounds the
    /// inode cache.
    pub fn open(_kv: Arc<dyn Kv>, _cache_bytes: u64) -> Result<Meta> {
        todo!()
    }

    /// The last applied index.
    pub fn applied(&self) -> u64 {
        todo!()
    }

    /// Applies a command. An index that is already applied changes nothing.
    pub fn apply(&self, _index: u64, _command: &Command) -> Result<Outcome> {
        todo!()
    }

    /// Moves the applied index over an entry without a command.
    pub fn skip(&self, _index: u64) -> Result<()> {
        todo!()
    }

    /// Makes everything applied durable; returns the last index of it (read before the flush).
    pub fn flush(&self) -> Result<u64> {
        todo!()
    }

    /// The cluster's identity, once given.
    pub fn cluster(&self) -> Result<Option<String>> {
        todo!()
    }

    /// Attributes of an inode (orphans included).
    pub fn attr(&self, _ino: Ino) -> Result<Option<Attr>> {
        todo!()
    }

    /// A name in a directory.
    pub fn lookup(&self, _parent: Ino, _name: &Name) -> Result<Option<Attr>> {
        todo!()
    }

    /// Up to `limit` entries after a name, in the order of names.
    pub fn read_dir(
        &self,
        _dir: Ino,
        _after: Option<&Name>,
        _limit: usize,
    ) -> Result<Vec<(Name, Attr)>> {
        todo!()
    }

    /// Of a directory; `None` if there is no such directory.
    pub fn dir_state(&self, _dir: Ino) -> Result<Option<DirState>> {
        todo!()
    }

    /// Of a file (orphans included); `None` if there is no such file.
    pub fn file_ref(&self, _ino: Ino) -> Result<Option<FileRef>> {
        todo!()
    }

    /// Parent and name; `None` for the root, orphans and unknown inodes.
    pub fn parent(&self, _ino: Ino) -> Result<Option<(Ino, Name)>> {
        todo!()
    }

    /// Absolute path of an inode in the tree; `None` for orphans and unknown inodes.
    pub fn path(&self, _ino: Ino) -> Result<Option<Vec<u8>>> {
        todo!()
    }

    /// Whether the inode or a directory above it is pinned.
    pub fn is_pinned(&self, _ino: Ino) -> Result<bool> {
        todo!()
    }

    /// The mount table.
    pub fn mounts(&self) -> Result<Vec<(MountId, MountSpec)>> {
        todo!()
    }

    /// Up to `limit` recorded problems, and how many there are in all.
    pub fn problems(&self, _limit: usize) -> Result<(Vec<(MountId, Problem)>, u64)> {
        todo!()
    }

    /// Inodes in the tree.
    pub fn inode_count(&self) -> Result<u64> {
        todo!()
    }
}
