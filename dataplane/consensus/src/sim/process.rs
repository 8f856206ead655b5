//! A node as a process: the simulated counterpart of the driver, around the real node, log,
//! bookkeeping of who waits, and metadata.

use super::{
    checker::Time,
    client::{self, Answer, Ticket, What, Wish},
    disk::Disk,
    invariant::{Appended, Step, Violation},
    machine::Machine,
    mutation::Mutation,
    world::{Happening, Inside, World},
};
use crate::{
    Bootstrap, Fatal, ProposeError, StateMachine,
    barriers::Barriers,
    log::Log,
    node::{Node, Output, Position},
    snapshot::SnapshotFile,
    waiting::{Claim, Waiting},
    wire::Wire,
    writer::Job,
};
use apply::Work;
use disks::{Writing, entries};
use forebay_kv::Batch;
use forebay_meta::Command;
use forebay_types::{Ino, error::chain};
use parking_lot::Mutex;
use raft::eraftpb::Message;
use snapshots::{Fetching, install_fetched};
use std::{collections::VecDeque, fmt, sync::Arc};
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

mod apply;
mod disks;
mod snapshots;

/// Election timeouts are of 10 to 19 ticks.
const ELECTION_WINDOW: u64 = 10;

/// What the raft thread finds in its queue.
enum Event {
    Propose(Ticket, Vec<u8>),
    Barrier(Ticket, u64),
    Message(Box<Message>),
    Persisted(u64),
    DiskFull(bool),
    Applied(u64),
    Flushed(u64),
    /// Id, index, bytes and checksum.
    Checkpointed(Option<(String, u64, SnapshotFile)>),
    Fetched(String, bool),
}

/// Id and rows of the last snapshot that was fetched whole; they are on disk.
pub(super) type Fetched = Arc<Mutex<Option<(String, Arc<Batch>)>>>;

/// A read of a register: told the index that must be applied.
type Asked = (oneshot::Receiver<Result<u64, ProposeError>>, Ticket, u64);

pub(super) fn stopped(id: u64, why: &dyn std::error::Error) -> Violation {
    Violation::new("no node stops", format!("{id}: {}", chain(why)))
}

pub(super) fn tell(ticket: Ticket, what: What, world: &mut World) {
    world.send_answer(ticket.client, &Answer { ticket, what });
}

/// A running node.
pub(super) struct Process {
    id: u64,
    life: u64,
    journal: Arc<Disk>,
    store: Arc<Disk>,
    fetched: Fetched,
    fetching: Option<Fetching>,
    machine: Machine,
    pub(super) node: Node,
    waiting: Waiting<Ticket>,
    barriers: Barriers,
    /// Reads of a register that wait for the leader's word.
    asked: Vec<Asked>,
    pub(super) position: Position,
    ticks: u64,
    queue: VecDeque<Event>,
    /// A [`Inside::Wake`] is on its way.
    awake: bool,
    jobs: VecDeque<Job>,
    writing: Option<Writing>,
    /// What batches that are not yet written put into the journal.
    appended: VecDeque<(u64, Appended)>,
    /// As the log writer, and as the raft thread has heard.
    writer_full: bool,
    disk_full: bool,
    work: VecDeque<Work>,
    pub(super) applied: u64,
    /// Reads of a register that wait for an index to be applied.
    parked: Vec<(u64, Ticket, u64)>,
    pub(super) grown: u64,
    flushing: bool,
    flush_tick: u64,
    replay_end: u64,
    flushed: u64,
}

impl Process {
    pub(super) fn open(
        id: u64,
        life: u64,
        (journal, store, fetched): (&Arc<Disk>, &Arc<Disk>, &Fetched),
        world: &mut World,
    ) -> Result<Process, Fatal> {
        let mut machine = Machine::open(store)?;
        let bootstrap = if world.founders.contains(&id) {
            Bootstrap::found(world.founders.iter().copied())
        } else {
            Bootstrap::Join
        };
        let (log, install) = Log::open(Arc::<Disk>::clone(journal), &bootstrap)?;
        if let Some(manifest) = install {
            if machine.applied() < manifest.index {
                machine = install_fetched(&manifest, fetched, store)?;
            }
            journal.put(&Log::installed());
            fetched.lock().take();
        }
        let replay_end = log.last();
        let applied = machine.applied();
        let node = Node::new(id, log, applied, world.bounds)?;
        Ok(Process {
            id,
            life,
            journal: Arc::clone(journal),
            store: Arc::clone(store),
            fetched: Arc::clone(fetched),
            fetching: None,
            grown: node.journal_bytes(),
            node,
            machine,
            waiting: Waiting::new(),
            barriers: Barriers::after(world.threads.u64(..) >> 1),
            asked: Vec::new(),
            position: Position::default(),
            ticks: 0,
            queue: VecDeque::new(),
            awake: false,
            jobs: VecDeque::new(),
            writing: None,
            appended: VecDeque::new(),
            writer_full: false,
            disk_full: false,
            work: VecDeque::new(),
            applied,
            parked: Vec::new(),
            flushing: false,
            flush_tick: 0,
            replay_end,
            flushed: 0,
        })
    }

    pub(super) fn later(&self, delay: Time, what: Inside, world: &mut World) {
        let (node, life) = (self.id, self.life);
        world.after(delay, Happening::Inside { node, life, what });
    }

    /// A message of another node has arrived.
    pub(super) fn receive(&mut self, message: Message, world: &mut World) {
        self.post(Event::Message(Box::new(message)), world);
    }

    /// Puts an event into the queue of the raft thread.
    fn post(&mut self, event: Event, world: &mut World) {
        self.queue.push_back(event);
        self.wake_up(world);
    }

    fn wake_up(&mut self, world: &mut World) {
        if !self.awake {
            self.awake = true;
            let delay = world.threads.u64(0..3);
            self.later(delay, Inside::Wake, world);
        }
    }

    pub(super) fn tick(&mut self, world: &mut World) -> Step {
        let next = world.conditions.tick(self.id);
        self.later(next, Inside::Tick, world);
        if world.conditions.clock_stands(self.id) {
            return Ok(());
        }
        self.set_election_timeout(world.setting.seed);
        self.ticks += 1;
        self.node.tick();
        self.barriers.expire(self.ticks, self.position.leader);
        self.forget_idle_checkpoint(world);
        if self.disk_full {
            self.node.step_aside();
        }
        self.execute(world)
    }

    /// The library draws it by chance, now and then; here it depends on the seed alone. Only
    /// ticks look at it.
    fn set_election_timeout(&mut self, seed: u64) {
        let raft = self.node.raft();
        let words = [seed, self.id, self.life, raft.term].map(u64::to_le_bytes);
        let ticks = ELECTION_WINDOW + xxh3_64(words.as_flattened()) % ELECTION_WINDOW;
        raft.set_randomized_election_timeout(ticks as usize);
    }

    /// Takes in events, as the driver does: proposals together, then reads together.
    pub(super) fn wake(&mut self, world: &mut World) -> Step {
        self.awake = false;
        let mut proposals = Vec::new();
        let mut barriers = Vec::new();
        for _ in 0..world.threads.u64(1..20) {
            match self.queue.pop_front() {
                None => break,
                Some(Event::Propose(ticket, command)) => proposals.push((ticket, command)),
                Some(Event::Barrier(ticket, key)) => barriers.push((ticket, key)),
                Some(event) => self.handle(event, world)?,
            }
        }
        self.propose(proposals, world);
        self.read(barriers);
        if !self.queue.is_empty() {
            self.wake_up(world);
        }
        self.execute(world)
    }

    fn handle(&mut self, event: Event, world: &mut World) -> Step {
        match event {
            Event::Message(message) => {
                world.note("receives", self.id, message.index);
                world.tell(format_args!("{} receives {}", self.id, Brief(&message)));
                self.node
                    .receive(*message)
                    .map_err(|fatal| stopped(self.id, &fatal))?;
            }
            Event::Persisted(number) => self.node.persisted(number),
            Event::Applied(index) => self.grown += self.node.applied(index),
            Event::Checkpointed(taken) => self.checkpointed(taken, world),
            Event::Fetched(id, whole) => self.node.pulled(&id, whole),
            Event::Flushed(index) => {
                self.flushing = false;
                self.cut(index, world);
            }
            Event::DiskFull(full) => {
                self.disk_full = full;
                if full {
                    for ticket in self.waiting.give_up() {
                        tell(ticket, What::Unavailable, world);
                    }
                }
            }
            Event::Propose(..) | Event::Barrier(..) => unreachable!("taken in before"),
        }
        Ok(())
    }

    pub(super) fn request(
        &mut self,
        ticket: Ticket,
        wish: Wish,
        now_ns: i64,
        world: &mut World,
    ) -> Step {
        let scratch = client::scratch(&self.machine.meta)
            .map_err(|error| Violation::new("views answer", format!("{}: {error}", self.id)))?;
        if wish.is_scratch() && scratch.is_none() {
            // A new leader may not have applied the mount yet.
            tell(ticket, What::Unavailable, world);
            return Ok(());
        }
        let scratch = scratch.unwrap_or(Ino::ROOT);
        match (wish, wish.change(now_ns, world.padding, scratch)) {
            (_, Some(change)) => {
                let request = ticket.id;
                let command = Command {
                    now_ns,
                    request: request.filter(|_| !world.mutated(Mutation::ForgetSessions)),
                    change,
                };
                let command = postcard::to_allocvec(&command).expect("a command has bytes");
                self.post(Event::Propose(ticket, command), world);
                Ok(())
            }
            (Wish::Read { key }, None) => {
                let position = self.position;
                if let Some(first) = position.alone_from {
                    self.park(position.committed.max(first), ticket, key, world)
                } else if position.leading && world.mutated(Mutation::ReadWithoutRound) {
                    self.serve(ticket, key, world)
                } else {
                    self.post(Event::Barrier(ticket, key), world);
                    Ok(())
                }
            }
            (wish, None) => unreachable!("{wish:?} is a change"),
        }
    }

    fn propose(&mut self, proposals: Vec<(Ticket, Vec<u8>)>, world: &mut World) {
        if proposals.is_empty() {
            return;
        }
        let (tickets, commands): (Vec<_>, Vec<_>) = proposals.into_iter().unzip();
        let refusal = if self.disk_full || self.node.is_full() {
            What::Unavailable
        } else {
            match self.node.propose(commands) {
                Ok(accepted) => {
                    world.note("accepts", self.id, accepted.first);
                    if world.mutated(Mutation::AcknowledgeBeforeCommit) {
                        for ticket in tickets.iter().filter(|ticket| ticket.id.is_some()) {
                            tell(*ticket, What::Done, world);
                        }
                    }
                    self.waiting.begin(accepted, tickets);
                    return;
                }
                Err(leader) => What::NotLeader(leader),
            }
        };
        for ticket in tickets {
            tell(ticket, refusal.clone(), world);
        }
    }

    fn read(&mut self, readers: Vec<(Ticket, u64)>) {
        let mut replies = Vec::new();
        for (ticket, key) in readers {
            let (reply, asked) = oneshot::channel();
            replies.push(reply);
            self.asked.push((asked, ticket, key));
        }
        if !replies.is_empty() {
            let token = self.barriers.begin(replies, self.ticks);
            self.node.read_index(token);
        }
    }

    /// What the callers of [`crate::Raft::read_barrier`] do with an answer.
    fn hear_barriers(&mut self, world: &mut World) -> Step {
        for (mut asked, ticket, key) in std::mem::take(&mut self.asked) {
            match asked.try_recv() {
                Err(_) => self.asked.push((asked, ticket, key)),
                Ok(Ok(_)) if world.mutated(Mutation::ReadBeforeApply) => {
                    self.serve(ticket, key, world)?;
                }
                Ok(Ok(index)) => self.park(index, ticket, key, world)?,
                Ok(Err(ProposeError::NotLeader { leader })) => {
                    tell(ticket, What::NotLeader(leader), world);
                }
                Ok(Err(_)) => tell(ticket, What::Unavailable, world),
            }
        }
        Ok(())
    }

    /// Does what the node wants.
    pub(super) fn execute(&mut self, world: &mut World) -> Step {
        let outputs = self.node.outputs();
        for output in outputs.map_err(|fatal| stopped(self.id, &fatal))? {
            match output {
                Output::Persist { number, batch } => {
                    world.note("persists", self.id, number);
                    let appended = Appended::new(&entries(&batch), self.node.raft());
                    self.appended.push_back((number, appended));
                    self.jobs.push_back(Job {
                        number: Some(number),
                        batch,
                    });
                    self.start_write(world);
                }
                Output::Send(message) => {
                    let bytes = message.to_bytes();
                    world.note("sends", self.id, xxh3_64(&bytes));
                    world.tell(format_args!("{} sends {}", self.id, Brief(&message)));
                    world.send_message(&message, &bytes);
                }
                Output::Apply(entries) => {
                    let mut work = Vec::new();
                    let term = self.node.raft().term;
                    for entry in entries {
                        world.invariants.committed(self.id, term, &entry)?;
                        let waiter = match self.waiting.claim(&entry) {
                            Claim::Nobody => None,
                            Claim::Proposer(ticket) => Some(ticket),
                            Claim::Lost(ticket) => {
                                tell(ticket, What::Unavailable, world);
                                None
                            }
                        };
                        work.push((entry, waiter));
                    }
                    self.apply_later(Work::Entries(work), world);
                }
                Output::Install(manifest) => self.apply_later(Work::Install(manifest), world),
                Output::Checkpoint => {
                    let delay = 2 * world.conditions.disk_time(self.id);
                    self.later(delay, Inside::Checkpoint, world);
                }
                Output::Pull(from, manifest) => self.begin_fetch(from, manifest, world),
                Output::Discard(batch) => {
                    self.jobs.push_back(Job {
                        number: None,
                        batch,
                    });
                    self.start_write(world);
                    self.fetching = None;
                    self.fetched.lock().take();
                }
                Output::Configure(conf) => {
                    world.note("is configured", self.id, conf.index);
                    if conf.index > world.conf.index {
                        world.changes += 1;
                        world.conf = conf;
                    }
                }
                Output::Read { token, index } => self.barriers.answer(token, index),
                Output::Report(position) => self.report(position, world)?,
            }
        }
        self.barriers.settle(self.position.committed);
        self.hear_barriers(world)?;
        let room_needed = self.node.is_full() && self.applied > self.flushed;
        let due = self.grown >= world.flush_bytes && self.applied >= self.replay_end
            || room_needed && self.ticks > self.flush_tick;
        if due && !self.flushing {
            self.flush_tick = self.ticks;
            self.grown = 0;
            self.flushing = true;
            let delay = 2 * world.conditions.disk_time(self.id);
            self.later(delay, Inside::Flush, world);
        }
        Ok(())
    }

    fn report(&mut self, position: Position, world: &mut World) -> Step {
        world.note("reports", self.id, position.committed);
        world.tell(format_args!("{} {position:?}", self.id));
        if position.leading {
            let raft = self.node.raft();
            // The report may be older than what the node has become since.
            if raft.term == position.term {
                world.invariants.leads(self.id, raft)?;
            }
        }
        self.position = position;
        for ticket in self.waiting.report(position) {
            tell(ticket, What::Unavailable, world);
        }
        Ok(())
    }
}

/// A message on one line.
struct Brief<'a>(&'a Message);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(
            f,
            "{:?} {}->{} term {} at {} of term {}, {} entries, commit {}{}",
            m.get_msg_type(),
            m.from,
            m.to,
            m.term,
            m.index,
            m.log_term,
            m.entries.len(),
            m.commit,
            if m.reject { ", reject" } else { "" }
        )
    }
}
