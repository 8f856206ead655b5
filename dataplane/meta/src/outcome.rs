//! What a command did.

use forebay_types::{Attr, Code, Ino, MountId, Name, SessionId};
use serde::{Deserialize, Serialize};

/// The result of a command, the same on every replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What the proposer asked for, or why not.
    pub reply: Reply,
    /// What others must forget.
    pub invalidated: Invalidated,
}

/// The answer to the proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    #[default]
    Done,
    /// The new session.
    Session(SessionId),
    /// The mount's row.
    Mount(MountId),
    /// How many entries were added, changed and removed.
    Entries {
        /// New names.
        added: u64,
        /// Names that lead to a new inode, or whose attributes changed.
        changed: u64,
        /// Names gone.
        removed: u64,
    },
    /// Rows deleted by `Reap` or `ExpireSessions`; 0: nothing is left to do.
    Reaped(u64),
    /// The cluster's identity (of `InitCluster`).
    Cluster(String),
    /// Refused; nothing changed.
    Refused {
        /// The kind.
        code: Code,
        /// One line.
        reason: String,
    },
    /// What `Create`, `Mkdir` and `SetAttr` made.
    Attr(Attr),
}

/// Cached metadata that a command made wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidated {
    /// Names that now lead elsewhere or nowhere.
    pub entries: Vec<(Ino, Name)>,
    /// Inodes whose attributes changed, or directories whose listing did.
    pub inodes: Vec<Ino>,
    /// Everything must be forgotten: another directory took the place of the root, and any name
    /// may have been cached in the old one.
    pub all: bool,
}

impl Outcome {
    /// A refusal.
    pub fn refused(code: Code, reason: impl Into<String>) -> Outcome {
        let reply = Reply::Refused {
            code,
            reason: reason.into(),
        };
        Outcome {
            reply,
            invalidated: Invalidated::default(),
        }
    }
}
