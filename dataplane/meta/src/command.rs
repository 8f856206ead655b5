//! The journal's commands. They are stored for ever: variants and fields are only ever appended.

use crate::warmup::{WarmupEnd, WarmupSpec};
use bytes::Bytes;
use forebay_types::{Fingerprint, Ino, MountId, MountSpec, Name, SessionId};
use serde::{Deserialize, Serialize};

/// An entry of the journal: commands that take effect together. More than one only if all are
/// small ([`Change::is_small`]). Encoded with postcard, without the index.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it is in the journal.
    pub index: u64,
    /// Not empty.
    pub commands: Vec<Command>,
}

/// A command with all that the outcome depends on.
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
        /// Whether the masters' configuration names it; else somebody asked for it.
        configured: bool,
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
    /// Makes an empty file. This and all below: by a client, in a scratch mount; elsewhere they
    /// are refused with `ReadOnly`.
    Create {
        /// The directory.
        parent: Ino,
        /// Its name there.
        name: Name,
        /// Whose it is.
        access: Access,
    },
    /// Makes an empty directory.
    Mkdir {
        /// The directory above.
        parent: Ino,
        /// Its name there.
        name: Name,
        /// Whose it is.
        access: Access,
    },
    /// Gives an inode another name, in place of what has that name. Costs the same whatever is
    /// below.
    Rename {
        /// The directory.
        parent: Ino,
        /// Its name there.
        name: Name,
        /// The directory that it goes to; of the same mount.
        new_parent: Ino,
        /// Its name there.
        new_name: Name,
        /// Refuse to replace anything.
        no_replace: bool,
    },
    /// Takes the name of a file out of a directory.
    Remove {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// Takes an empty directory out of the one above.
    RemoveDir {
        /// The directory above.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// Sets attributes.
    SetAttr {
        /// The inode.
        ino: Ino,
        /// To what.
        set: SetAttr,
    },
    /// Begins a run of a warm-up, in place of another one of that name; nothing if it is the last
    /// one already.
    StartWarmup {
        /// Names the warm-up.
        name: String,
        /// Tells its runs apart.
        run: String,
        /// What is wanted.
        spec: WarmupSpec,
    },
    /// A run has ended.
    EndWarmup {
        /// Names the warm-up.
        name: String,
        /// Which run; nothing happens if another one has begun.
        run: String,
        /// How.
        end: WarmupEnd,
    },
    /// Drops a warm-up: one that may hold pins is only marked, until they are let go.
    RemoveWarmup {
        /// Names the warm-up.
        name: String,
        /// Its pins are let go.
        let_go: bool,
    },
}

impl Change {
    /// Whether it looks at single rows only, and at all of them before it writes any. Such
    /// changes can share an entry of the journal and a write to the store.
    pub fn is_small(&self) -> bool {
        matches!(
            self,
            Change::Create { .. }
                | Change::Mkdir { .. }
                | Change::Rename { .. }
                | Change::Remove { .. }
                | Change::RemoveDir { .. }
                | Change::SetAttr { .. }
        )
    }
}

/// Permissions and owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Permission bits (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Attributes to set; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits (`0o7777`).
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last change, nanoseconds since the Unix epoch.
    pub mtime_ns: Option<i64>,
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
