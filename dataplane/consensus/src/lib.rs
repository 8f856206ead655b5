//! Replicates the journal of commands with raft; the only crate that names raft, prost 0.11 and
//! slog.
//!
//! [`Raft::propose`] resolves when the command is on the disks of a majority and applied. The
//! journal lies in a [`Kv`](forebay_kv::Kv) of its own; group commit makes one fsync serve every
//! proposal that waits. Apply runs on its own thread, in order, exactly once per index.
//!
//! A follower that is too far behind gets a snapshot: files, fetched beside everything else.
//! The membership changes one node at a time; addresses are part of it.
//!
//! Not here: what commands mean ([`StateMachine`]), and how bytes travel between the masters
//! ([`Transport`]).
//!
//! # Invariants
//!
//! - An acknowledged command is in the journals of a majority, fsynced.
//! - The state is never ahead of the journal, and the journal is cut only up to what the state
//!   machine has made durable: state and journal together always hold everything.
//! - The decisions ([`node`]) see neither clock nor disk nor network; the driver executes them.

mod apply;
mod barriers;
mod changes;
mod checkpoint;
mod conf;
mod driver;
mod extent;
mod handle;
pub mod journal;
mod log;
mod logger;
mod node;
mod pull;
mod shared;
#[cfg(test)]
mod sim;
mod snapshot;
mod waiting;
mod wire;
mod writer;

pub use conf::{Bootstrap, Member};
pub use handle::Raft;
pub use snapshot::ChunkError;

use bytes::Bytes;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What the journal's commands are applied to. Called from one thread at a time, in the order of
/// indexes, without gaps.
pub trait StateMachine: Send + Sync + 'static {
    /// What a proposer gets back.
    type Outcome: Send + 'static;

    /// The last index whose effect is in the state (after a restart: possibly far behind the
    /// journal, which is then applied again from there).
    fn applied(&self) -> u64;

    /// Applies the command at `index`.
    fn apply(&self, index: u64, command: &[u8]) -> Result<Self::Outcome, ApplyError>;

    /// Applies the commands at the indexes from `first` on. After an error nothing says how many were
    /// applied; where that is [`ApplyError::NoSpace`], the same are handed over again later, and the
    /// state machine passes over those that it has.
    fn apply_run(&self, first: u64, commands: &[&[u8]]) -> Result<Vec<Self::Outcome>, ApplyError> {
        let indexed = (first..).zip(commands);
        indexed
            .map(|(index, command)| self.apply(index, command))
            .collect()
    }

    /// An index without a command (a new leader's first entry): only the applied index moves.
    fn skip(&self, index: u64) -> Result<(), ApplyError>;

    /// Makes everything applied so far survive the loss of power and returns the last index of
    /// it. The journal is cut up to there. Runs beside `apply`, on another thread. A full disk is
    /// no reason to stop: return the index of the last flush that succeeded.
    fn flush(&self) -> Result<u64, Fatal>;

    /// Makes a consistent copy of the state in the new directory `dir`: plain files, no
    /// directories, hard links where possible. Returns the last index whose effect is in it; all
    /// up to there must be. Runs beside `apply`, on another thread, and must not hold it up for
    /// more than an instant. An error is no reason to stop: it is tried again.
    fn checkpoint(&self, dir: &Path) -> Result<u64, Fatal>;

    /// Replaces the state by that of the checkpoint in `dir`, whose files it may link or move.
    /// Called in turn with `apply`. What is there afterwards survives the loss of power; if power
    /// is lost meanwhile, the state is either the old one or the new one. An error is fatal.
    fn install(&self, dir: &Path) -> Result<(), Fatal>;
}

/// The node cannot go on without risking wrong state.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// What and where, one line, with the remedy.
    pub message: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Fatal {
    /// A fault without a deeper cause.
    pub fn new(message: impl Into<String>) -> Fatal {
        Fatal {
            message: message.into(),
            source: None,
        }
    }

    /// A fault with its cause.
    pub fn caused(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Fatal {
        Fatal {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

/// Why a state machine does not apply what is committed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Its disk is full: it is tried again until there is space.
    #[error("no space left on the device of the state: {0}")]
    NoSpace(String),
    /// The node stops.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why a proposal or a barrier failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads (or nobody does); the command was not accepted here.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// The node is stopping, stopped on a fault, or lost the leadership meanwhile; whether the
    /// command took effect, or will, is unknown.
    #[error("the journal is closed: {0}")]
    Closed(String),
    /// The disk of the journal or of the state is full, or the journal has reached its bound: nothing
    /// can be changed until there is space again. A command that was just being written may still
    /// take effect then.
    #[error("no space left on the device of the journal or of the state")]
    NoSpace,
}

/// Why the leadership was not handed over, or the membership not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another node leads (or nobody does).
    #[error("not the leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// It makes no sense, and never will.
    #[error("{0}")]
    Refused(String),
    /// Not now; later it may be possible.
    #[error("{0}")]
    NotYet(String),
    /// The node is stopping or stopped; whether the change takes place is unknown.
    #[error("the journal is closed: {0}")]
    Closed(String),
}

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node; not 0.
    pub id: u64,
    /// What to do with an empty journal (ignored once it has a configuration).
    pub bootstrap: Bootstrap,
    /// A directory of the node's own: for the checkpoint that it serves, and for a snapshot that
    /// it fetches. On the file system of the state, so that both can be hard links.
    pub dir: PathBuf,
    /// Length of a raft tick; an election begins after 10 to 20 of them without a leader.
    pub tick: Duration,
    /// The state machine is flushed, and the journal cut, when entries of this many bytes were
    /// applied since the last time.
    pub flush_bytes: u64,
    /// Bytes of entries that stay in the journal of a group after a flush, for followers close
    /// behind. One that is further behind gets a snapshot.
    pub tail_bytes: u64,
    /// Bytes of entries in the journal beyond which it takes no more, until the state machine has
    /// applied and flushed: then no space is left. Several times the other two.
    pub max_bytes: u64,
}

/// Where this node stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads; 0: nobody known.
    pub leader: u64,
    /// Whether this node does.
    pub is_leader: bool,
    /// Raft term.
    pub term: u64,
    /// Last index on the disks of a majority.
    pub committed: u64,
    /// Last index applied here.
    pub applied: u64,
    /// The disk of the journal or of the state is full: nothing can be changed through this node until
    /// there is space.
    pub disk_full: bool,
    /// Fsyncs of the journal since the start.
    pub syncs: u64,
}

/// Carries raft messages between the masters, as opaque bytes. One voter needs none.
pub trait Transport: Send + Sync + 'static {
    /// Sends without waiting; may lose the message.
    fn send(&self, to: u64, message: Bytes);

    /// Asks the node `from` for its [`Raft::snapshot_chunk`], and waits for it, some seconds at
    /// most. Called on a thread of its own.
    fn fetch(
        &self,
        from: u64,
        snapshot: &str,
        file: &str,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, ChunkError>;
}
