//! The handle by which the rest of the process uses a node.

use crate::{
    ChangeError, ChunkError, Fatal, Member, Options, ProposeError, StateMachine, Status, Transport,
    changes::Reply,
    conf::Change,
    driver,
    shared::{Event, INBOX_BYTES, PROPOSAL_BYTES, PROPOSAL_OVERHEAD, Proposal, Shared, Waiter},
    wire::Wire,
};
use bytes::Bytes;
use forebay_kv::Kv;
use raft::eraftpb::Message;
use std::sync::{
    Arc,
    atomic::Ordering,
    mpsc::{self, Sender},
};
use tokio::sync::{Semaphore, oneshot};

/// A handle to the running node; cheap to clone. When the last one is dropped, the node stops as
/// after [`Raft::shutdown`], without anybody waiting for it.
pub struct Raft<O> {
    inner: Arc<Inner<O>>,
}

impl<O> Clone for Raft<O> {
    fn clone(&self) -> Raft<O> {
        Raft {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<O> {
    events: Sender<Event<O>>,
    shared: Arc<Shared>,
}

impl<O> Inner<O> {
    fn stop(&self) {
        self.shared.room.close();
        // If nobody listens, the node has stopped already.
        let _ = self.events.send(Event::Stop);
    }
}

impl<O> Drop for Inner<O> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<O: Send + 'static> Raft<O> {
    /// Opens the journal in `log` and starts the threads, which apply what `machine` has not
    /// seen: [`Raft::read_barrier`] resolves when they are done with that.
    pub fn start<S: StateMachine<Outcome = O>>(
        options: Options,
        log: Arc<dyn Kv>,
        machine: Arc<S>,
        transport: Arc<dyn Transport>,
    ) -> Result<Raft<O>, Fatal> {
        let shared = Arc::new(Shared::new());
        let (events, queue) = mpsc::channel();
        let parts = driver::Parts {
            log,
            machine,
            transport,
            shared: Arc::clone(&shared),
        };
        driver::start(options, parts, events.clone(), queue)?;
        Ok(Raft {
            inner: Arc::new(Inner { events, shared }),
        })
    }

    /// Proposes a command; resolves with its outcome once it is committed and applied here.
    /// Waits while too many bytes are in flight already. If the caller goes away, the command
    /// may take effect all the same.
    ///
    /// # Panics
    ///
    /// If the command is empty: that is how raft marks a leader's first entry.
    pub async fn propose(&self, command: Bytes) -> Result<O, ProposeError> {
        assert!(!command.is_empty(), "a command has at least one byte");
        let Inner { events, shared } = &*self.inner;
        let cost = u32::try_from(command.len())
            .unwrap_or(PROPOSAL_BYTES)
            .saturating_add(PROPOSAL_OVERHEAD)
            .min(PROPOSAL_BYTES);
        let room = Semaphore::acquire_many_owned(Arc::clone(&shared.room), cost)
            .await
            .map_err(|_| shared.closed())?;
        if shared.is_disk_full() {
            return Err(ProposeError::NoSpace);
        }
        let (reply, outcome) = oneshot::channel();
        // No copy if the command is not shared.
        let command = command.into();
        let proposal = Proposal {
            command,
            waiter: Waiter::new(reply, room),
        };
        events
            .send(Event::Propose(proposal))
            .map_err(|_| shared.closed())?;
        outcome.await.unwrap_or_else(|_| Err(shared.closed()))
    }

    /// Resolves when everything that was committed before the call is applied here: a read after
    /// it is linearizable. On every node of the group: followers ask the leader. Fails with
    /// [`ProposeError::NotLeader`] if no leader answers within some election timeouts.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        let Inner { events, shared } = &*self.inner;
        if *shared.ended.borrow() {
            return Err(shared.closed());
        }
        let position = *shared.position.lock();
        let index = if let Some(first) = position.alone_from {
            position.committed.max(first)
        } else {
            let (reply, index) = oneshot::channel();
            events
                .send(Event::Barrier(reply))
                .map_err(|_| shared.closed())?;
            index.await.unwrap_or_else(|_| Err(shared.closed()))?
        };
        if *shared.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = shared.applied.subscribe();
        let mut full = shared.state_full.subscribe();
        let mut ended = shared.ended.subscribe();
        tokio::select! {
            biased;
            _ = applied.wait_for(|applied| *applied >= index) => Ok(()),
            _ = full.wait_for(|full| *full) => {
                // Nobody else has seen what an only voter has committed and not applied in its own
                // term, and it has acknowledged none of it.
                let applied = *shared.applied.borrow();
                match shared.position.lock().alone_from {
                    Some(first) if applied >= first => Ok(()),
                    _ => Err(ProposeError::NoSpace),
                }
            }
            _ = ended.wait_for(|ended| *ended) => Err(shared.closed()),
        }
    }

    /// Hands the leadership to the voter `to`, and resolves when that leads. Proposals are refused
    /// meanwhile; those in flight may be lost. Gives up after about an election timeout.
    pub async fn transfer(&self, to: u64) -> Result<(), ChangeError> {
        self.ask(|reply| Event::Transfer(to, reply)).await
    }

    async fn ask(&self, event: impl FnOnce(Reply) -> Event<O>) -> Result<(), ChangeError> {
        let Inner { events, shared } = &*self.inner;
        let closed = || ChangeError::Closed(shared.closing());
        let (reply, outcome) = oneshot::channel();
        events.send(event(reply)).map_err(|_| closed())?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The nodes of the group, as far as this one knows; empty on a node that waits to join.
    pub fn members(&self) -> Vec<Member> {
        self.inner.shared.conf.lock().members()
    }

    /// Adds a node that receives the journal and does not count. It starts with an empty
    /// directory and [`Bootstrap::Join`](crate::Bootstrap::Join), before or after this call; the
    /// others know it by `context` (its address). Like all changes of the membership only on the
    /// leader, and one at a time; what is so already is no error.
    pub async fn add_learner(&self, id: u64, context: Bytes) -> Result<(), ChangeError> {
        self.ask(|reply| Event::Change(Change::AddLearner(id, context), reply))
            .await
    }

    /// Makes a learner count. [`ChangeError::NotYet`] until it has caught up: otherwise the group
    /// could stand still until it does.
    pub async fn promote(&self, id: u64) -> Result<(), ChangeError> {
        self.ask(|reply| Event::Change(Change::Promote(id), reply))
            .await
    }

    /// Removes a node, for good: it stops, and its id is not used again. A leader that is to
    /// remove itself hands over, and names its successor in [`ChangeError::NotLeader`].
    pub async fn remove(&self, id: u64) -> Result<(), ChangeError> {
        self.ask(|reply| Event::Change(Change::Remove(id), reply))
            .await
    }

    /// A part of a file of the snapshot that this node serves: up to `len` bytes, fewer at the
    /// end of the file and where `len` is very large. Reads from disk: not to be called on a
    /// thread that must not wait.
    pub fn snapshot_chunk(
        &self,
        snapshot: &str,
        file: &str,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, ChunkError> {
        let live = self.inner.shared.checkpoint.lock().clone();
        let live = live.filter(|live| live.id == snapshot);
        live.ok_or(ChunkError::Gone)?.read(file, offset, len)
    }

    /// Takes in a message from another node.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the transport has no further use for it"
    )]
    pub fn receive(&self, message: Bytes) {
        let Inner { events, shared } = &*self.inner;
        let bytes = message.len() as u64;
        if shared.inbox.load(Ordering::Relaxed) + bytes > INBOX_BYTES {
            // Raft sends again what matters.
            tracing::debug!("inbox full: message dropped");
            return;
        }
        match Message::from_bytes(&message) {
            Ok(message) => {
                shared
                    .inbox
                    .fetch_add(driver::message_bytes(&message), Ordering::Relaxed);
                // If nobody listens, the node has stopped.
                let _ = events.send(Event::Message(Box::new(message)));
            }
            Err(error) => tracing::warn!(%error, "unreadable message dropped"),
        }
    }

    /// Where this node stands; never blocks.
    pub fn status(&self) -> Status {
        let shared = &self.inner.shared;
        let applied = *shared.applied.borrow();
        let position = *shared.position.lock();
        Status {
            leader: position.leader,
            is_leader: position.leading,
            term: position.term,
            // The two are read one after the other.
            committed: position.committed.max(applied),
            applied,
            disk_full: shared.is_disk_full(),
            syncs: shared.syncs.load(Ordering::Relaxed),
        }
    }

    /// Resolves when the node has stopped by itself, with the reason; never after an orderly
    /// shutdown.
    pub async fn stopped(&self) -> String {
        let mut fault = self.inner.shared.fault.subscribe();
        let fault = fault
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|fault| fault.clone());
        match fault {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Stops the threads and waits for them. Everything acknowledged is on disk; commands still
    /// in flight are finished first, if that is possible within some seconds, and a leader hands
    /// over to another voter, if one takes it within an election timeout. Afterwards nothing
    /// of the node holds the journal or the state machine.
    pub async fn shutdown(&self) {
        self.inner.stop();
        let mut ended = self.inner.shared.ended.subscribe();
        // Fails only if the sender, which this handle keeps alive, were gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
