//! Executes what the node decides: the raft thread, and the threads it hands work to.
//!
//! ```text
//! propose, receive ─> raft thread ──jobs──> log writer ──persisted─┐
//!                      ^   │ └────work────> apply ────────applied──┤
//!                      │   └──────order───> flush ────────flushed──┤
//!                      └───────────────────────────────────────────┘
//! ```
//!
//! The raft thread owns the others: it ends last, and only then the node has ended.

#![expect(
    clippy::disallowed_methods,
    reason = "this is where the clock meets the node"
)]

use crate::{
    ChangeError, Fatal, ProposeError, StateMachine, Transport,
    apply::Work,
    barriers::Barriers,
    changes::{Changes, Reply},
    checkpoint::Live,
    conf::Change,
    log::entry_bytes,
    node::{Node, Output, Position},
    pull::{Incoming, Order},
    shared::{Event, Proposal, Shared, Waiter},
    waiting::{Claim, Waiting},
    wire::Wire,
    writer::Job,
};
use forebay_kv::Kv;
use forebay_types::error::chain;
use raft::eraftpb::{Entry, Message};
use shutdown::{Ending, Stopping};
use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

mod shutdown;
mod start;

pub(crate) use start::start;

/// Events taken in before the node is asked what to do.
const EVENTS_AT_ONCE: usize = 1024;

/// How long shutdown waits for commands in flight.
const LAST_COMMANDS: Duration = Duration::from_secs(5);

/// Ticks after which a checkpoint that nobody fetches is removed.
const CHECKPOINT_IDLE_TICKS: u64 = 600;

/// What a node works with.
pub(crate) struct Parts<S> {
    pub(crate) log: Arc<dyn Kv>,
    pub(crate) machine: Arc<S>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) shared: Arc<Shared>,
}

/// What a message costs in the inbox.
pub(crate) fn message_bytes(message: &Message) -> u64 {
    256 + message
        .entries
        .iter()
        .map(|entry| entry_bytes(entry) as u64)
        .sum::<u64>()
        + message.snapshot.as_ref().map_or(0, |s| s.data.len() as u64)
}

/// The raft thread's own.
struct Driver<S: StateMachine> {
    node: Node,
    queue: Receiver<Event<S::Outcome>>,
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    machine: Arc<S>,
    jobs: Sender<Job>,
    work: Sender<Work<S::Outcome>>,
    flush: SyncSender<()>,
    waiting: Waiting<Waiter<S::Outcome>>,
    checkpoints: SyncSender<()>,
    pulls: Sender<Order>,
    incoming: Incoming,
    barriers: Barriers,
    changes: Changes,
    position: Position,
    tick: Duration,
    next_tick: Instant,
    /// Ticks since the start.
    ticks: u64,
    flush_bytes: u64,
    /// Bytes of entries applied since the last flush began; at first, those of the journal.
    grown: u64,
    flushing: bool,
    /// The tick when the last flush began.
    flush_tick: u64,
    /// Last index of the journal at start: before it is applied, a flush would free little.
    replay_end: u64,
    /// What the last flush made durable.
    flushed: u64,
    /// The tick when the live checkpoint was last of use.
    checkpoint_used: u64,
    stopping: Stopping,
}

impl<S: StateMachine> Driver<S> {
    fn supervise(mut self, threads: Vec<JoinHandle<()>>) {
        let ending = Ending(Arc::clone(&self.shared));
        let result = self.run();
        if let Err(fatal) = &result {
            self.publish_fault(fatal);
        }
        if let Err(fatal) = self.finish(threads, result.is_ok()) {
            self.publish_fault(&fatal);
        }
        // The journal and the state machine are let go before anybody hears of the end.
        drop(self);
        drop(ending);
    }

    fn publish_fault(&self, fatal: &Fatal) {
        let reason = chain(fatal);
        tracing::error!(reason, "the journal's node stops");
        self.shared.fault.send_if_modified(|fault| {
            let first = fault.is_none();
            fault.get_or_insert(reason);
            first
        });
    }

    /// Until shutdown or a fault.
    fn run(&mut self) -> Result<(), Fatal> {
        while !self.has_stopped() {
            match self.queue.recv_timeout(self.patience()) {
                Ok(event) => self.take_in(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(died()),
            }
            let now = Instant::now();
            if now >= self.next_tick {
                // After a pause of the whole process one tick passes, not all that were missed:
                // the messages that would have prevented an election wait in the queue.
                self.next_tick = now + self.tick;
                self.on_tick();
            }
            self.execute()?;
        }
        Ok(())
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.node.tick();
        self.barriers.expire(self.ticks, self.position.leader);
        self.changes.expire(self.ticks);
        self.forget_idle_checkpoint();
        if self.shared.is_disk_full() {
            self.node.step_aside();
        }
    }

    fn forget_idle_checkpoint(&mut self) {
        let mut live = self.shared.checkpoint.lock();
        if live.as_ref().is_some_and(|live| live.take_used()) {
            self.checkpoint_used = self.ticks;
        } else if live.is_some() && self.ticks - self.checkpoint_used >= CHECKPOINT_IDLE_TICKS {
            self.node.forget_checkpoint();
            *live = None;
        }
    }

    /// How long nothing need happen. A lone leader has no use for ticks.
    fn patience(&self) -> Duration {
        let due = match self.stopping {
            Stopping::Finishing(by) => by.min(self.next_tick),
            Stopping::No if self.is_idle() => return Duration::MAX,
            _ => self.next_tick,
        };
        due.saturating_duration_since(Instant::now())
    }

    fn is_idle(&self) -> bool {
        let waiting = !self.barriers.is_empty() || !self.changes.is_empty();
        let serving = self.shared.checkpoint.lock().is_some();
        self.position.alone_from.is_some() && !waiting && !serving && !self.node.is_full()
    }

    /// Takes in an event and those that wait behind it. All commands among them are one proposal
    /// to raft: one entry in the journal each, one write.
    fn take_in(&mut self, first: Event<S::Outcome>) -> Result<(), Fatal> {
        let mut proposals = Vec::new();
        let mut barriers = Vec::new();
        let mut next = Some(first);
        let mut room = EVENTS_AT_ONCE;
        while let Some(event) = next {
            match event {
                Event::Propose(proposal) => proposals.push(proposal),
                Event::Barrier(reply) => barriers.push(reply),
                // What came before it is still taken.
                Event::Stop => {
                    self.propose(std::mem::take(&mut proposals));
                    if matches!(self.stopping, Stopping::No) {
                        self.stopping = Stopping::Finishing(Instant::now() + LAST_COMMANDS);
                    }
                }
                other => self.handle(other)?,
            }
            room -= 1;
            next = if room > 0 {
                self.queue.try_recv().ok()
            } else {
                None
            };
        }
        self.propose(proposals);
        self.read(barriers);
        Ok(())
    }

    fn handle(&mut self, event: Event<S::Outcome>) -> Result<(), Fatal> {
        match event {
            Event::Message(message) => {
                self.shared
                    .inbox
                    .fetch_sub(message_bytes(&message), Ordering::Relaxed);
                self.node.receive(*message)?;
            }
            Event::Persisted(number) => self.node.persisted(number),
            Event::Applied(index) => self.grown += self.node.applied(index),
            Event::Flushed(index) => {
                self.flushing = false;
                self.cut(index);
            }
            Event::Checkpointed(live) => self.checkpointed(live),
            Event::Pulled(id, whole) => self.node.pulled(&id, whole),
            Event::JournalFull(full) => {
                self.shared.journal_full.store(full, Ordering::Relaxed);
                if full {
                    self.fail_pending(&ProposeError::NoSpace);
                }
            }
            Event::StateFull => self.fail_pending(&ProposeError::NoSpace),
            Event::Fault(reason) => return Err(Fatal::new(reason)),
            Event::Transfer(to, reply) => self.transfer(to, reply),
            Event::Change(change, reply) => self.change(&change, reply),
            // Only at the end; else it is taken in as above.
            Event::Stop => {}
            Event::Propose(Proposal { waiter, .. }) => waiter.tell(Err(self.shared.closed())),
            Event::Barrier(reply) => drop(reply.send(Err(self.shared.closed()))),
        }
        Ok(())
    }

    fn propose(&mut self, proposals: Vec<Proposal<S::Outcome>>) {
        if proposals.is_empty() {
            return;
        }
        let (commands, waiters): (Vec<_>, Vec<_>) = proposals
            .into_iter()
            .map(|proposal| (proposal.command, proposal.waiter))
            .unzip();
        let refusal = if !matches!(self.stopping, Stopping::No) {
            self.shared.closed()
        } else if self.shared.is_disk_full() || self.node.is_full() {
            ProposeError::NoSpace
        } else {
            match self.node.propose(commands) {
                Ok(accepted) => {
                    self.waiting.begin(accepted, waiters);
                    return;
                }
                Err(leader) => ProposeError::NotLeader { leader },
            }
        };
        for waiter in waiters {
            waiter.tell(Err(refusal.clone()));
        }
    }

    /// One round of messages serves all barriers that came together.
    fn read(&mut self, replies: Vec<oneshot::Sender<Result<u64, ProposeError>>>) {
        if !replies.is_empty() {
            self.node
                .read_index(self.barriers.begin(replies, self.ticks));
        }
    }

    fn transfer(&mut self, to: u64, reply: Reply) {
        if self.position.leader == to {
            let _ = reply.send(Ok(()));
        } else if let Err(error) = self.node.transfer(to) {
            let _ = reply.send(Err(error));
        } else {
            self.changes.transfer(to, self.ticks, reply);
        }
    }

    fn change(&mut self, change: &Change, reply: Reply) {
        let outcome = if matches!(self.stopping, Stopping::No) {
            self.node.change(change)
        } else {
            Err(ChangeError::Closed(self.shared.closing()))
        };
        match outcome {
            Ok(Some(accepted)) => self.changes.change(accepted, reply),
            Ok(None) => drop(reply.send(Ok(()))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn checkpointed(&mut self, live: Option<Live>) {
        let taken = live
            .as_ref()
            .map(|live| (live.id.clone(), live.index, live.files.clone()));
        if self.node.checkpointed(taken) {
            self.checkpoint_used = self.ticks;
            // The former one goes: followers get the new one, and need fetch only what differs.
            *self.shared.checkpoint.lock() = live.map(Arc::new);
        }
    }

    /// Does what the node wants.
    fn execute(&mut self) -> Result<(), Fatal> {
        for output in self.node.outputs()? {
            match output {
                Output::Persist { number, batch } => {
                    let job = Job {
                        number: Some(number),
                        batch,
                    };
                    self.jobs.send(job).map_err(|_| self.why_a_thread_ended())?;
                }
                Output::Send(message) => {
                    self.transport.send(message.to, message.to_bytes().into());
                }
                Output::Apply(entries) => {
                    let work = entries.into_iter().map(|entry| {
                        let waiter = self.waiter_of(&entry);
                        (entry, waiter)
                    });
                    let work = work.collect();
                    self.work
                        .send(Work::Entries(work))
                        .map_err(|_| self.why_a_thread_ended())?;
                }
                Output::Install(manifest) => {
                    let (index, dir) = (manifest.index, self.incoming.files());
                    self.work
                        .send(Work::Install { index, dir })
                        .map_err(|_| self.why_a_thread_ended())?;
                }
                Output::Checkpoint => drop(self.checkpoints.try_send(())),
                Output::Pull(from, manifest) => {
                    let _ = self.pulls.send(Order::Pull(from, Box::new(manifest)));
                }
                Output::Discard(batch) => {
                    let job = Job {
                        number: None,
                        batch,
                    };
                    let _ = self.jobs.send(job);
                    let _ = self.pulls.send(Order::Discard);
                }
                Output::Configure(conf) => {
                    self.changes.configured(conf.index);
                    *self.shared.conf.lock() = conf;
                }
                Output::Read { token, index } => self.barriers.answer(token, index),
                Output::Report(position) => self.report(position),
            }
        }
        self.barriers.settle(self.position.committed);
        let applied = *self.shared.applied.borrow();
        // In a full journal even a little helps, but a flush that fails is not tried in a circle.
        let room_needed = self.node.is_full() && applied > self.flushed;
        // What was replayed may have had a tail that another leader replaced: its end may never
        // come, if the journal is too full for more.
        let due = self.grown >= self.flush_bytes && applied >= self.replay_end
            || room_needed && self.ticks > self.flush_tick;
        if due && !self.flushing {
            self.grown = 0;
            self.flush_tick = self.ticks;
            self.flushing = true;
            let _ = self.flush.try_send(());
        }
        Ok(())
    }

    /// A thread that ends before its queue is closed has said why, unless it panicked.
    fn why_a_thread_ended(&self) -> Fatal {
        let reason = self.queue.try_iter().find_map(|event| match event {
            Event::Fault(reason) => Some(Fatal::new(reason)),
            _ => None,
        });
        reason.unwrap_or_else(died)
    }

    /// Whoever proposed this very entry.
    fn waiter_of(&mut self, entry: &Entry) -> Option<Waiter<S::Outcome>> {
        match self.waiting.claim(entry) {
            Claim::Nobody => None,
            Claim::Proposer(waiter) => Some(waiter),
            Claim::Lost(waiter) => {
                waiter.tell(Err(lost_leadership()));
                None
            }
        }
    }

    fn report(&mut self, position: Position) {
        self.position = position;
        *self.shared.position.lock() = position;
        fail(self.waiting.report(position), &lost_leadership());
        self.changes.report(&position);
    }

    fn fail_pending(&mut self, error: &ProposeError) {
        fail(self.waiting.give_up(), error);
    }

    /// The state machine has made everything up to `index` durable.
    fn cut(&mut self, index: u64) {
        self.flushed = index;
        if let Some(batch) = self.node.cut(index) {
            let _ = self.jobs.send(Job {
                number: None,
                batch,
            });
        }
    }
}

fn died() -> Fatal {
    Fatal::new("a thread of the journal's node died")
}

fn fail<O>(waiters: Vec<Waiter<O>>, error: &ProposeError) {
    for waiter in waiters {
        waiter.tell(Err(error.clone()));
    }
}

fn lost_leadership() -> ProposeError {
    ProposeError::Closed(
        "this node lost the leadership before the command was committed".to_owned(),
    )
}
