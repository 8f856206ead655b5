//! Replicates the journal of commands with raft; the only crate that names raft, prost 0.11 and
//! slog.
//!
//! [`Raft::propose`] resolves when the command is on the disks of a majority and applied. The
//! journal lies in a [`Kv`] of its own; group commit makes one fsync serve every proposal
//! that waits. Apply runs on its own thread, in order, exactly once per index.

use bytes::Bytes;
use forebay_kv::Kv;
use std::{sync::Arc, time::Duration};

/// What the journal's commands are applied to. Called from one thread at a time, in the order of
/// indexes, without gaps.
pub trait StateMachine: Send + Sync + 'static {
    /// What a proposer gets back.
    type Outcome: Send + 'static;

    /// The last index whose effect is in the state (after a restart: possibly far behind the
    /// journal, which is then applied again from there).
    fn applied(&self) -> u64;

    /// Applies the command at `index`. An error is fatal: the node stops.
    fn apply(&self, index: u64, command: &[u8]) -> Result<Self::Outcome, Fatal>;

    /// An index without a command (a new leader's first entry): only the applied index moves.
    fn skip(&self, index: u64) -> Result<(), Fatal>;

    /// Makes everything applied so far survive the loss of power and returns the last index of
    /// it. The journal is cut up to there. Runs beside `apply`, on another thread.
    fn flush(&self) -> Result<u64, Fatal>;
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

/// Why a proposal or a barrier failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads (or nobody does); the command was not accepted here.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// The node is stopping, or stopped on a fault; whether the command took effect is unknown.
    #[error("the journal is closed: {0}")]
    Closed(String),
    /// The journal's disk is full: nothing can be changed until there is space again.
    #[error("no space left on the journal's device")]
    NoSpace,
}

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node; not 0.
    pub id: u64,
    /// The voters of a new group (ignored once the journal has a configuration).
    pub voters: Vec<u64>,
    /// Length of a raft tick.
    pub tick: Duration,
    /// The journal is flushed and cut when it has grown by this many bytes since the last time.
    pub flush_bytes: u64,
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
}

/// Carries raft messages between the masters, as opaque bytes. One voter needs none.
pub trait Transport: Send + Sync + 'static {
    /// Sends without waiting; may lose the message.
    fn send(&self, to: u64, message: Bytes);
}

/// A handle to the running node; cheap to clone.
pub struct Raft<O> {
    _todo: std::marker::PhantomData<fn() -> O>,
}

impl<O: Send + 'static> Raft<O> {
    /// Opens the journal in `log`, applies what `machine` has not seen, and starts the threads.
    pub fn start<S: StateMachine<Outcome = O>>(
        _options: Options,
        _log: Arc<dyn Kv>,
        _machine: Arc<S>,
        _transport: Arc<dyn Transport>,
    ) -> Result<Raft<O>, Fatal> {
        todo!()
    }

    /// Proposes a command; resolves with its outcome once it is committed and applied here.
    pub async fn propose(&self, _command: Bytes) -> Result<O, ProposeError> {
        todo!()
    }

    /// Resolves when everything that was committed before the call is applied here and this node
    /// was still the leader then: a read after it is linearizable.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        todo!()
    }

    /// Takes in a message from another node.
    pub fn receive(&self, _message: Bytes) {
        todo!()
    }

    /// Where this node stands; never blocks.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Resolves when the node has stopped by itself, with the reason.
    pub async fn stopped(&self) -> String {
        todo!()
    }

    /// Stops the threads and waits for them. Everything acknowledged is on disk.
    pub async fn shutdown(&self) {
        todo!()
    }
}
