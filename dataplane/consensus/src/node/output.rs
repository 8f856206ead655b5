//! What a node tells its driver.

use crate::{conf::Conf, snapshot::Manifest};
use forebay_kv::Batch;
use raft::eraftpb::{Entry, Message};

/// What the driver has to do, in order.
#[derive(Debug)]
pub(crate) enum Output {
    /// Write `batch` with fsync, after everything that was handed out before, then say so with
    /// [`super::Node::persisted`].
    Persist {
        /// Ascending.
        number: u64,
        /// What to write.
        batch: Batch,
    },
    /// Send to the node named in the message. May be lost.
    Send(Box<Message>),
    /// Apply these, then say so with [`super::Node::applied`].
    Apply(Vec<Entry>),
    /// Reads asked for up to this token are linearizable once `index` is applied.
    Read {
        /// As given to [`super::Node::read_index`].
        token: u64,
        /// What must be applied.
        index: u64,
    },
    /// The position changed.
    Report(Position),
    /// This is the group from now on.
    Configure(Conf),
    /// Take a checkpoint of the state machine, then call [`super::Node::checkpointed`].
    Checkpoint,
    /// Fetch the files of this snapshot from that node (dropping any other that is being
    /// fetched), then call [`super::Node::pulled`].
    Pull(u64, Manifest),
    /// Let the state machine take over the snapshot that was fetched; after everything that was
    /// handed out for apply before. Then call [`super::Node::applied`].
    Install(Manifest),
    /// What was fetched is not needed any more. The batch needs no fsync.
    Discard(Batch),
}

/// Where the node stands, as far as raft is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Who leads; 0: nobody known.
    pub(crate) leader: u64,
    /// Whether this node does.
    pub(crate) leading: bool,
    /// Raft term.
    pub(crate) term: u64,
    /// Commit index.
    pub(crate) committed: u64,
    /// The only voter leads: the first index of its term. Reads need no round of messages, only
    /// that this index and everything committed is applied.
    pub(crate) alone_from: Option<u64>,
}
