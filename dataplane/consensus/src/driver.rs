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
    ChangeError, Fatal, Options, ProposeError, StateMachine, Transport,
    apply::{self, Work},
    barriers::Barriers,
    log::{Log, entry_bytes},
    node::{ELECTION_TICKS, Node, Output, Position},
    shared::{Event, Proposal, Shared, Waiter},
    waiting::{Claim, Waiting},
    wire::Wire,
    writer::{self, Job},
};
use forebay_kv::Kv;
use forebay_types::error::chain;
use raft::eraftpb::{Entry, Message};
use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Events taken in before the node is asked what to do.
const EVENTS_AT_ONCE: usize = 1024;

/// How long shutdown waits for commands in flight.
const LAST_COMMANDS: Duration = Duration::from_secs(5);

/// Ticks that handing over the leadership may take.
const TRANSFER_TICKS: u64 = 2 * ELECTION_TICKS as u64;

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
    barriers: Barriers,
    transfers: Vec<Transfer>,
    position: Position,
    tick: Duration,
    next_tick: Instant,
    /// Ticks since the start.
    ticks: u64,
    flush_bytes: u64,
    /// Bytes by which the journal has grown since the last flush began.
    grown: u64,
    flushing: bool,
    /// Last index of the journal at start: before it is applied, a flush would free little.
    replay_end: u64,
    /// What the last flush made durable.
    flushed: u64,
    stopping: Stopping,
}

/// How far shutdown is.
#[derive(Clone, Copy)]
enum Stopping {
    No,
    /// Commands in flight are waited for, until then.
    Finishing(Instant),
    /// Another voter takes over the leadership, until this tick.
    HandingOver(u64),
    Done,
}

/// Somebody waits for `to` to lead, until the tick `until`.
struct Transfer {
    to: u64,
    until: u64,
    reply: oneshot::Sender<Result<(), ChangeError>>,
}

/// Opens the journal and starts the threads of a node.
pub(crate) fn start<S: StateMachine>(
    options: Options,
    parts: Parts<S>,
    events: Sender<Event<S::Outcome>>,
    queue: Receiver<Event<S::Outcome>>,
) -> Result<(), Fatal> {
    let Options {
        id,
        voters,
        tick,
        flush_bytes,
    } = options;
    let Parts {
        log: kv,
        machine,
        transport,
        shared,
    } = parts;
    let (log, grown) = Log::open(Arc::clone(&kv), &voters)?;
    let replay_end = log.last();
    let node = Node::new(id, log, machine.applied())?;

    // Bounded by what the node lets out: bytes being proposed, bytes being applied.
    let (jobs, jobs_queue) = mpsc::channel();
    let (work, work_queue) = mpsc::channel();
    let (flush, flush_queue) = mpsc::sync_channel(1);
    let mut threads = Vec::new();
    threads.push(spawn("raft-log", {
        let events = events.clone();
        move || writer::run(&*kv, &jobs_queue, &events)
    })?);
    threads.push(spawn("raft-apply", {
        let (machine, shared, events) = (Arc::clone(&machine), Arc::clone(&shared), events.clone());
        move || apply::run(&*machine, &work_queue, &shared, &events)
    })?);
    threads.push(spawn("raft-flush", {
        let machine = Arc::clone(&machine);
        move || run_flush(&*machine, &flush_queue, &events)
    })?);
    let mut driver = Driver {
        node,
        queue,
        shared,
        transport,
        machine,
        jobs,
        work,
        flush,
        waiting: Waiting::new(),
        barriers: Barriers::new(),
        transfers: Vec::new(),
        position: Position::default(),
        tick,
        next_tick: Instant::now() + tick,
        ticks: 0,
        flush_bytes,
        grown,
        flushing: false,
        replay_end,
        flushed: 0,
        stopping: Stopping::No,
    };
    // A lone voter leads from here on, before anybody has a handle.
    driver.execute()?;
    spawn("raft", move || driver.supervise(threads))?;
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fatal> {
    Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| Fatal::caused(format!("cannot start the thread {name}"), e))
}

fn run_flush<S: StateMachine>(
    machine: &S,
    orders: &Receiver<()>,
    events: &Sender<Event<S::Outcome>>,
) {
    while orders.recv().is_ok() {
        let event = match machine.flush() {
            Ok(index) => Event::Flushed(index),
            Err(fatal) => Event::Fault(chain(&fatal)),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// Says that the node has ended, however it did.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.room.close();
        self.0.position.lock().leading = false;
        self.0.position.lock().alone_from = None;
        self.0.ended.send_replace(true);
    }
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
        for transfer in self.transfers.extract_if(.., |t| t.until <= self.ticks) {
            let late = format!("node {} did not take over in time", transfer.to);
            let _ = transfer.reply.send(Err(ChangeError::NotYet(late)));
        }
        if self.shared.disk_full.load(Ordering::Relaxed) {
            self.node.step_aside();
        }
    }

    /// How long nothing need happen. A lone leader has no use for ticks.
    fn patience(&self) -> Duration {
        let due = match self.stopping {
            Stopping::Finishing(by) => by.min(self.next_tick),
            Stopping::No if self.position.alone_from.is_some() && self.barriers.is_empty() => {
                return Duration::MAX;
            }
            _ => self.next_tick,
        };
        due.saturating_duration_since(Instant::now())
    }

    /// Goes on with the shutdown, if one has begun: first the commands in flight, then the
    /// leadership.
    fn has_stopped(&mut self) -> bool {
        if let Stopping::Finishing(by) = self.stopping
            && (self.waiting.is_empty() || Instant::now() >= by)
        {
            self.stopping = if self.position.leading && !self.node.is_alone() {
                Stopping::HandingOver(self.ticks + TRANSFER_TICKS)
            } else {
                Stopping::Done
            };
        }
        if let Stopping::HandingOver(until) = self.stopping {
            if self.position.leading {
                self.node.retire();
            }
            // Not before the successor is known: it may need the vote of this node.
            let handed_over = !self.position.leading && self.position.leader != 0;
            if handed_over || self.ticks >= until {
                self.stopping = Stopping::Done;
            }
        }
        matches!(self.stopping, Stopping::Done)
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
            Event::Applied(index) => self.node.applied(index),
            Event::Flushed(index) => {
                self.flushing = false;
                self.cut(index);
            }
            Event::DiskFull(full) => {
                self.shared.disk_full.store(full, Ordering::Relaxed);
                if full {
                    self.fail_pending(&ProposeError::NoSpace);
                }
            }
            Event::Fault(reason) => return Err(Fatal::new(reason)),
            Event::Transfer(to, reply) => self.transfer(to, reply),
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
        } else if self.shared.disk_full.load(Ordering::Relaxed) {
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

    fn transfer(&mut self, to: u64, reply: oneshot::Sender<Result<(), ChangeError>>) {
        if self.position.leader == to {
            let _ = reply.send(Ok(()));
        } else if let Err(error) = self.node.transfer(to) {
            let _ = reply.send(Err(error));
        } else {
            let until = self.ticks + TRANSFER_TICKS;
            self.transfers.push(Transfer { to, until, reply });
        }
    }

    /// Does what the node wants.
    fn execute(&mut self) -> Result<(), Fatal> {
        for output in self.node.outputs()? {
            match output {
                Output::Persist {
                    number,
                    batch,
                    bytes,
                } => {
                    self.grown += bytes;
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
                        .send(work)
                        .map_err(|_| self.why_a_thread_ended())?;
                }
                Output::Read { token, index } => self.barriers.answer(token, index),
                Output::Report(position) => self.report(position),
            }
        }
        self.barriers.settle(self.position.committed);
        if self.grown >= self.flush_bytes
            && !self.flushing
            && *self.shared.applied.borrow() >= self.replay_end
        {
            self.grown = 0;
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
        for transfer in self
            .transfers
            .extract_if(.., |transfer| transfer.to == position.leader)
        {
            let _ = transfer.reply.send(Ok(()));
        }
    }

    fn fail_pending(&mut self, error: &ProposeError) {
        fail(self.waiting.give_up(), error);
    }

    /// The state machine has made everything up to `index` durable. With other voters the
    /// journal of one more flush stays: followers lag a little, always.
    fn cut(&mut self, index: u64) {
        let before = std::mem::replace(&mut self.flushed, index);
        let end = if self.node.is_alone() { index } else { before };
        if let Some(batch) = self.node.cut(end) {
            let _ = self.jobs.send(Job {
                number: None,
                batch,
            });
        }
    }

    /// Lets the threads finish what they have, flushes and cuts for the last time.
    fn finish(&mut self, threads: Vec<JoinHandle<()>>, orderly: bool) -> Result<(), Fatal> {
        self.shared.room.close();
        self.fail_pending(&self.shared.closed());
        self.barriers.close(&self.shared.closed());
        self.transfers.clear();
        let [writer, apply, flush] =
            <[_; 3]>::try_from(threads).expect("three threads were started");
        self.work = mpsc::channel().0;
        self.flush = mpsc::sync_channel(0).0;
        let applied = apply.join().map_err(|_| died());
        let flushed = flush.join().map_err(|_| died());
        let result = applied.and(flushed).and_then(|()| {
            if !orderly {
                return Ok(());
            }
            // Reports of the last work.
            while let Ok(event) = self.queue.try_recv() {
                self.handle(event)?;
            }
            let index = self.machine.flush()?;
            self.cut(index);
            Ok(())
        });
        self.jobs = mpsc::channel().0;
        writer.join().map_err(|_| died()).and(result)
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
