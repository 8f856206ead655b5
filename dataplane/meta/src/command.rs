//! The journal's commands. They are stored for ever: variants and fields are only ever appended.

use bytes::Bytes;
use forebay_types::{Fingerprint, Ino, MountId, MountSpec, Name, SessionId};
use serde::{Deserialize, Serialize};

/// A command with all that the outcome depends on. Encoded with postcard in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Nanoseconds since the Unix epoch, from the proposing leader; time never runs backwards in
    /// the state (apply takes the maximum of this and the last one).
    pub now_ns: i64,
    /// Whose request it is, for exactly-once; absent for the masters' own work.
    pub request: Option<RequestId>,
    /// What to do.
    pub change: Change,
}

/// Identifies a client's request: the same id gets the first answer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestId {
    /// The session.
    pub session: SessionId,
    /// Counts up within the session.
    pub sequence: u64,
    /// Every request below this one has been answered: their outcomes may be forgotten.
    pub acknowledged: u64,
}

/// What a command changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Gives the cluster its identity; only the first one counts.
    InitCluster {
        /// A UUID.
        cluster: String,
    },
    /// Makes a session.
    OpenSession {
        /// For people.
        client: String,
    },
    /// Drops sessions not used since.
    ExpireSessions {
        /// Nanoseconds since the Unix epoch.
        unused_since_ns: i64,
    },
    /// Mounts an under store; makes missing directories of the path. An equal mount is kept as it
    /// is; one with the same path and URI gets the new options and policy; another URI at the
    /// same path is refused with `AlreadyExists`.
    Mount {
        /// What and where.
        spec: MountSpec,
    },
    /// Takes a mount and everything below it out of the tree.
    Unmount {
        /// Which.
        mount: MountId,
    },
    /// Sets entries of a directory to what its under store has. An entry that is there with the
    /// same kind and fingerprint stays; with another one it gets a new inode (the old one becomes
    /// an orphan until reaped); a mount point of the same name stays.
    UpsertEntries {
        /// The directory.
        parent: Ino,
        /// At most some thousands.
        entries: Vec<UfsEntry>,
    },
    /// Takes names out of a directory (with all below), mount points excepted.
    RemoveEntries {
        /// The directory.
        parent: Ino,
        /// The names.
        names: Vec<Name>,
    },
    /// The directory's listing is complete as of this moment.
    FinishSync {
        /// The directory.
        dir: Ino,
        /// When the listing began, nanoseconds since the Unix epoch.
        started_ns: i64,
    },
    /// Replaces the recorded problems of a key prefix.
    RecordProblems {
        /// The mount.
        mount: MountId,
        /// The directory's key prefix; problems with keys directly in it are replaced.
        prefix: Bytes,
        /// The new ones.
        problems: Vec<Problem>,
    },
    /// Pins or unpins an inode (a directory stands for all below it).
    SetPin {
        /// The inode.
        ino: Ino,
        /// To pin, or to unpin.
        pinned: bool,
    },
    /// Deletes up to `limit` orphaned or detached inodes that became so before the time.
    Reap {
        /// Nanoseconds since the Unix epoch.
        before_ns: i64,
        /// Most rows.
        limit: u32,
    },
}

/// One name as the under store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UfsEntry {
    /// The last segment of the key.
    pub name: Name,
    /// File or directory.
    pub kind: UfsKind,
}

/// File or directory, as the under store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UfsKind {
    /// A key.
    File {
        /// Tells contents apart.
        fingerprint: Fingerprint,
        /// Modification time for people.
        mtime_ns: i64,
    },
    /// A common prefix.
    Directory {
        /// Of the folder marker or the directory, if known; else 0.
        mtime_ns: i64,
    },
}

/// A key that a file system cannot show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The key, relative to the mount.
    pub key: Bytes,
    /// Why.
    pub reason: ProblemReason,
}

/// Why a key cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemReason {
    /// The key holds `//` or begins with `/`.
    EmptySegment,
    /// A segment is `.` or `..`.
    DotSegment,
    /// A segment is longer than 255 bytes.
    NameTooLong,
    /// A segment holds NUL.
    BadByte,
    /// There is also a "directory" of the same name, which is shown instead.
    HiddenByDirectory,
    /// A key that ends in `/` but has content.
    FolderMarkerWithContent,
    /// The name is a mount point.
    HiddenByMount,
}
