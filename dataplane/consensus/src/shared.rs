//! What the threads of a node and its handles see of each other.

use crate::{
    ProposeError,
    changes::Reply,
    checkpoint::Live,
    conf::{Change, Conf},
    node::Position,
};
use parking_lot::Mutex;
use raft::eraftpb::Message;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Most bytes of proposals in flight, from the call to the outcome; more wait at the door.
pub(crate) const PROPOSAL_BYTES: u32 = 64 << 20;

/// What a proposal costs beside its own bytes.
pub(crate) const PROPOSAL_OVERHEAD: u32 = 512;

/// Most bytes of messages taken in and not yet looked at; more are dropped, as by a network.
pub(crate) const INBOX_BYTES: u64 = 64 << 20;

/// State that the threads publish.
pub(crate) struct Shared {
    /// Where raft stands.
    pub(crate) position: Mutex<Position>,
    /// Last index applied.
    pub(crate) applied: watch::Sender<u64>,
    /// Why the node stopped by itself.
    pub(crate) fault: watch::Sender<Option<String>>,
    /// No thread is left, and none holds the journal or the state machine.
    pub(crate) ended: watch::Sender<bool>,
    /// The group.
    pub(crate) conf: Mutex<Conf>,
    /// What is served to followers that are far behind.
    pub(crate) checkpoint: Mutex<Option<Arc<Live>>>,
    /// The journal's disk is full.
    pub(crate) journal_full: AtomicBool,
    /// That of the state: what is committed is not applied before there is space.
    pub(crate) state_full: watch::Sender<bool>,
    /// Fsyncs of the journal.
    pub(crate) syncs: AtomicU64,
    /// Bytes of messages in the queue.
    pub(crate) inbox: AtomicU64,
    /// Bounds the proposals in flight; closed when no more are taken.
    pub(crate) room: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            position: Mutex::default(),
            applied: watch::Sender::new(0),
            fault: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            conf: Mutex::default(),
            checkpoint: Mutex::default(),
            journal_full: AtomicBool::new(false),
            state_full: watch::Sender::new(false),
            syncs: AtomicU64::new(0),
            inbox: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(PROPOSAL_BYTES as usize)),
        }
    }

    /// Whether nothing can be changed for lack of space.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.journal_full.load(Ordering::Relaxed) || *self.state_full.borrow()
    }

    /// The error for whoever comes too late.
    pub(crate) fn closed(&self) -> ProposeError {
        ProposeError::Closed(self.closing())
    }

    /// Why the node is stopping or stopped.
    pub(crate) fn closing(&self) -> String {
        let fault = self.fault.borrow().clone();
        fault.unwrap_or_else(|| "the node is shutting down".to_owned())
    }
}

/// What wakes the raft thread. The queue has no bound of its own: each kind has one at its source.
pub(crate) enum Event<O> {
    /// A command; bounded by [`Shared::room`].
    Propose(Proposal<O>),
    /// A read barrier: answered with the index that must be applied. Its caller waits for it.
    Barrier(oneshot::Sender<Result<u64, ProposeError>>),
    /// Hand the leadership to this node. Its caller waits for it.
    Transfer(u64, Reply),
    /// Change the membership. Its caller waits for it.
    Change(Change, Reply),
    /// From another node; bounded by [`Shared::inbox`].
    Message(Box<Message>),
    /// From the log writer: the batch of this number is on disk.
    Persisted(u64),
    /// From the log writer: the journal's disk is full, or no longer.
    JournalFull(bool),
    /// From the apply thread: the disk of the state is full.
    StateFull,
    /// From the apply thread, once per batch.
    Applied(u64),
    /// From the flush thread: the last durable index.
    Flushed(u64),
    /// From the checkpoint thread: what was ordered, or none: it failed.
    Checkpointed(Option<Live>),
    /// From the pull thread: the snapshot of this id is here as a whole, or was given up.
    Pulled(String, bool),
    /// From any thread: it cannot go on.
    Fault(String),
    /// No more proposals; end when those in flight are done.
    Stop,
}

/// A command on its way.
pub(crate) struct Proposal<O> {
    /// Not empty.
    pub(crate) command: Vec<u8>,
    /// Who waits.
    pub(crate) waiter: Waiter<O>,
}

/// Who waits for the outcome of a command, and the room that the command takes meanwhile.
pub(crate) struct Waiter<O> {
    reply: oneshot::Sender<Result<O, ProposeError>>,
    _room: OwnedSemaphorePermit,
}

impl<O> Waiter<O> {
    pub(crate) fn new(
        reply: oneshot::Sender<Result<O, ProposeError>>,
        room: OwnedSemaphorePermit,
    ) -> Waiter<O> {
        Waiter { reply, _room: room }
    }

    /// Tells; a caller that went away is none of our business.
    pub(crate) fn tell(self, outcome: Result<O, ProposeError>) {
        let _ = self.reply.send(outcome);
    }
}
