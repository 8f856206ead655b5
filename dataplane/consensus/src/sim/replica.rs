//! A node as a process: the simulated counterpart of the driver and its threads, around the real
//! node, log, bookkeeping of who waits, and metadata.

use super::{
    checker::Time,
    client::{self, Answer, Request, Ticket, What, Wish},
    disk::Disk,
    invariant::{Appended, Step, Violation},
    machine::Machine,
    mutation::Mutation,
    world::{Happening, Inside, World},
};
use crate::{
    Fatal, ProposeError, StateMachine, apply,
    barriers::Barriers,
    log::Log,
    node::{Node, Output, Position},
    waiting::{Claim, Waiting},
    wire::Wire,
    writer::Job,
};
use forebay_kv::{Batch, Op};
use forebay_meta::Command;
use forebay_types::error::chain;
use raft::eraftpb::{Entry, Message};
use std::{collections::VecDeque, fmt, sync::Arc};
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

/// Time between attempts on a full disk.
const FULL_DISK_PAUSE: Time = 20;

/// Unit of time in nanoseconds of the wall clock, and what the clocks show at first.
const UNIT_NS: i64 = 10_000_000;
const EPOCH_NS: i64 = 1_700_000_000 * 1_000_000_000;

/// Election timeouts are of 10 to 19 ticks.
const ELECTION_WINDOW: u64 = 10;

/// How the log begins the keys of entries.
const ENTRY: u8 = b'e';

/// What the raft thread finds in its queue.
enum Event {
    Propose(Ticket, Vec<u8>),
    Barrier(Ticket, u64),
    Message(Box<Message>),
    Persisted(u64),
    DiskFull(bool),
    Applied(u64),
    Flushed(u64),
}

/// A write of the journal that is under way.
struct Writing {
    number: Option<u64>,
}

/// A read of a register: told the index that must be applied.
type Asked = (oneshot::Receiver<Result<u64, ProposeError>>, Ticket, u64);

/// A committed entry, with whoever waits for it.
type Work = Vec<(Entry, Option<Ticket>)>;

/// A node's machine: its disks and clock outlive its processes.
pub(crate) struct Replica {
    id: u64,
    journal: Arc<Disk>,
    store: Arc<Disk>,
    /// Counts processes.
    life: u64,
    /// How far the wall clock is off, in seconds.
    clock_offset: i64,
    process: Option<Process>,
}

impl Replica {
    pub(crate) fn new(id: u64) -> Replica {
        Replica {
            id,
            journal: Arc::default(),
            store: Arc::default(),
            life: 0,
            clock_offset: 0,
            process: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// A new process over what is on the disks.
    pub(crate) fn start(&mut self, world: &mut World) -> Step {
        self.life += 1;
        world.note("starts", self.id, self.store.checksum());
        let mut process = Process::open(self.id, self.life, &self.journal, &self.store, world)
            .map_err(|fatal| stopped(self.id, &fatal))?;
        let found = Appended::found(process.node.raft());
        world.invariants.persisted(self.id, &found)?;
        process.execute(world)?;
        process.later(1, Inside::Tick, world);
        self.process = Some(process);
        Ok(())
    }

    /// The process is gone, and what was not synced is lost but for so many percent of it.
    pub(crate) fn crash(&mut self, percent: u64, world: &mut World) {
        world.note("dies", self.id, percent);
        self.process = None;
        self.journal = Arc::new(self.journal.crash(percent));
        self.store = Arc::new(self.store.crash(percent));
    }

    pub(crate) fn jump(&mut self, seconds: i64) {
        self.clock_offset += seconds;
    }

    /// Flushes and cuts as soon as the driver may.
    pub(crate) fn want_flush(&mut self) {
        if let Some(process) = &mut self.process {
            process.grown = u64::MAX;
        }
    }

    /// If it leads: hands over to another node; 0: to whomever it likes.
    pub(crate) fn hand_over(&mut self, to: u64) {
        let process = self.process.as_mut();
        if let Some(process) = process.filter(|process| process.position.leading) {
            if to == 0 {
                process.node.retire();
            } else {
                // Refused to itself.
                let _ = process.node.transfer(to);
            }
        }
    }

    pub(crate) fn inside(&mut self, life: u64, what: Inside, world: &mut World) -> Step {
        if life != self.life {
            return Ok(());
        }
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if let Some(until) = world.conditions.paused_until(self.id) {
            process.later(until.saturating_sub(world.now), what, world);
            return Ok(());
        }
        match what {
            Inside::Tick => process.tick(world),
            Inside::Wake => process.wake(world),
            Inside::Written => process.written(world),
            Inside::TryAgain => {
                process.start_write(world);
                Ok(())
            }
            Inside::Apply => process.apply(world),
            Inside::Flush => process.flush(world),
        }
    }

    pub(crate) fn message(&mut self, bytes: &[u8], world: &mut World) {
        if let Some(process) = &mut self.process {
            let message = Message::from_bytes(bytes).expect("it was sent like this");
            process.post(Event::Message(Box::new(message)), world);
        }
    }

    pub(crate) fn request(&mut self, request: &Request, world: &mut World) -> Step {
        let Request { ticket, wish } = request;
        let Some(process) = &mut self.process else {
            // Nobody listens at this address.
            tell(*ticket, What::Unavailable, world);
            return Ok(());
        };
        let now_ns = EPOCH_NS + world.now as i64 * UNIT_NS + self.clock_offset * 1_000_000_000;
        process.request(*ticket, *wish, now_ns, world)
    }

    /// Applied index and checksum of the state.
    pub(crate) fn state(&self) -> (u64, u64) {
        let applied = self.process.as_ref().map_or(0, |process| process.applied);
        (applied, self.store.checksum())
    }

    /// If it leads: those that lack, as far as it knows, what it has cut off.
    pub(crate) fn left_behind(&mut self) -> Vec<u64> {
        let process = self.process.as_mut();
        let Some(process) = process.filter(|process| process.position.leading) else {
            return Vec::new();
        };
        let raft = process.node.raft();
        let cut = raft.store().cut_index();
        let progress = raft.prs().iter();
        let behind = progress.filter(|(_, progress)| progress.matched < cut);
        behind.map(|(id, _)| *id).collect()
    }
}

fn stopped(id: u64, fatal: &Fatal) -> Violation {
    Violation::new("no node stops", format!("{id}: {}", chain(fatal)))
}

fn tell(ticket: Ticket, what: What, world: &mut World) {
    world.send_answer(ticket.client, &Answer { ticket, what });
}

/// A running node.
struct Process {
    id: u64,
    life: u64,
    journal: Arc<Disk>,
    store: Arc<Disk>,
    machine: Machine,
    node: Node,
    waiting: Waiting<Ticket>,
    barriers: Barriers,
    /// Reads of a register that wait for the leader's word.
    asked: Vec<Asked>,
    position: Position,
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
    applied: u64,
    /// Reads of a register that wait for an index to be applied.
    parked: Vec<(u64, Ticket, u64)>,
    grown: u64,
    flushing: bool,
    replay_end: u64,
    flushed: u64,
}

impl Process {
    fn open(
        id: u64,
        life: u64,
        journal: &Arc<Disk>,
        store: &Arc<Disk>,
        world: &mut World,
    ) -> Result<Process, Fatal> {
        let machine = Machine::open(store)?;
        let (log, grown) = Log::open(Arc::<Disk>::clone(journal), &world.voters)?;
        let replay_end = log.last();
        let applied = machine.applied();
        Ok(Process {
            id,
            life,
            journal: Arc::clone(journal),
            store: Arc::clone(store),
            node: Node::new(id, log, applied)?,
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
            grown,
            flushing: false,
            replay_end,
            flushed: 0,
        })
    }

    fn later(&self, delay: Time, what: Inside, world: &mut World) {
        let (node, life) = (self.id, self.life);
        world.after(delay, Happening::Inside { node, life, what });
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

    fn tick(&mut self, world: &mut World) -> Step {
        let next = world.conditions.tick(self.id);
        self.later(next, Inside::Tick, world);
        if world.conditions.clock_stands(self.id) {
            return Ok(());
        }
        self.set_election_timeout(world.setting.seed);
        self.ticks += 1;
        self.node.tick();
        self.barriers.expire(self.ticks, self.position.leader);
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
    fn wake(&mut self, world: &mut World) -> Step {
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
            Event::Applied(index) => self.node.applied(index),
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

    fn request(&mut self, ticket: Ticket, wish: Wish, now_ns: i64, world: &mut World) -> Step {
        match (wish, wish.change(now_ns)) {
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
        let refusal = if self.disk_full {
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
    fn execute(&mut self, world: &mut World) -> Step {
        let outputs = self.node.outputs();
        for output in outputs.map_err(|fatal| stopped(self.id, &fatal))? {
            match output {
                Output::Persist {
                    number,
                    batch,
                    bytes,
                } => {
                    world.note("persists", self.id, number);
                    let appended = Appended::new(&entries(&batch), self.node.raft());
                    self.appended.push_back((number, appended));
                    self.grown = self.grown.saturating_add(bytes);
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
                    let mut work = Work::new();
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
                    self.work.push_back(work);
                    if self.work.len() == 1 {
                        self.apply_later(world);
                    }
                }
                Output::Read { token, index } => self.barriers.answer(token, index),
                Output::Report(position) => self.report(position, world)?,
            }
        }
        self.barriers.settle(self.position.committed);
        self.hear_barriers(world)?;
        if self.grown >= world.flush_bytes && !self.flushing && self.applied >= self.replay_end {
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

    /// The log writer begins with all that waits.
    fn start_write(&mut self, world: &mut World) {
        if self.writing.is_some() || self.jobs.is_empty() {
            return;
        }
        if world.conditions.disk_full(self.id) {
            if !self.writer_full {
                self.writer_full = true;
                self.post(Event::DiskFull(true), world);
            }
            self.later(FULL_DISK_PAUSE, Inside::TryAgain, world);
            return;
        }
        let mut number = None;
        let mut joined = Batch::default();
        for job in self.jobs.drain(..) {
            number = job.number.or(number);
            joined.ops.extend(job.batch.ops);
        }
        self.journal.put(&joined);
        self.writing = Some(Writing { number });
        if let Some(number) = number
            && world.mutated(Mutation::PersistTooEarly)
        {
            self.post(Event::Persisted(number), world);
        }
        let delay = number.map_or(0, |_| world.conditions.disk_time(self.id));
        self.later(delay, Inside::Written, world);
    }

    fn written(&mut self, world: &mut World) -> Step {
        let number = self.writing.take().and_then(|writing| writing.number);
        if self.writer_full {
            self.writer_full = false;
            self.post(Event::DiskFull(false), world);
        }
        if let Some(number) = number {
            world.note("has written", self.id, number);
            while let Some((_, appended)) = self.appended.pop_front_if(|(n, _)| *n <= number) {
                world.invariants.persisted(self.id, &appended)?;
            }
            if !(world.mutated(Mutation::SkipFsync) && world.threads.bool()) {
                self.journal.sync();
            }
            if !world.mutated(Mutation::PersistTooEarly) {
                self.post(Event::Persisted(number), world);
            }
        }
        self.start_write(world);
        Ok(())
    }

    fn apply_later(&mut self, world: &mut World) {
        let delay = world.conditions.apply_time(self.id);
        self.later(delay, Inside::Apply, world);
    }

    /// The apply thread applies all that waits: to be slow is to pause, not to fall behind for ever.
    fn apply(&mut self, world: &mut World) -> Step {
        for (entry, waiter) in self.work.drain(..).flatten() {
            let outcome = apply::apply(&self.machine, self.applied + 1, &entry)
                .map_err(|fatal| stopped(self.id, &fatal))?;
            self.applied = entry.index;
            let words = [
                self.store.last_batch(),
                xxh3_64(format!("{outcome:?}").as_bytes()),
            ];
            let effect = xxh3_64(words.map(u64::to_le_bytes).as_flattened());
            world.note("applies", self.id, effect);
            world.invariants.applied(self.id, entry.index, effect)?;
            if let (Some(ticket), Some(outcome)) = (waiter, outcome) {
                tell(ticket, What::Outcome(outcome), world);
            }
        }
        let applied = self.applied;
        for (_, ticket, key) in self.parked.extract_if(.., |(index, ..)| *index <= applied) {
            serve(&self.machine, self.id, ticket, key, world)?;
        }
        self.post(Event::Applied(applied), world);
        Ok(())
    }

    /// The flush thread is done with the disk.
    fn flush(&mut self, world: &mut World) -> Step {
        self.store.set_full(world.conditions.disk_full(self.id));
        let flushed = if world.mutated(Mutation::CutTooFar) {
            Ok(self.applied)
        } else {
            self.machine.flush()
        };
        let index = flushed.map_err(|fatal| stopped(self.id, &fatal))?;
        world.note("has flushed", self.id, index);
        self.post(Event::Flushed(index), world);
        Ok(())
    }

    /// As the driver does.
    fn cut(&mut self, index: u64, world: &mut World) {
        let before = std::mem::replace(&mut self.flushed, index);
        let end = if self.node.is_alone() { index } else { before };
        if let Some(batch) = self.node.cut(end) {
            world.note("cuts", self.id, end);
            self.jobs.push_back(Job {
                number: None,
                batch,
            });
            self.start_write(world);
        }
    }

    /// Serves a read once `index` is applied.
    fn park(&mut self, index: u64, ticket: Ticket, key: u64, world: &mut World) -> Step {
        if self.applied >= index {
            return self.serve(ticket, key, world);
        }
        self.parked.push((index, ticket, key));
        Ok(())
    }

    fn serve(&self, ticket: Ticket, key: u64, world: &mut World) -> Step {
        serve(&self.machine, self.id, ticket, key, world)
    }
}

fn serve(machine: &Machine, id: u64, ticket: Ticket, key: u64, world: &mut World) -> Step {
    let value = client::value(&machine.meta, key);
    let value = value.map_err(|error| {
        Violation::new("views answer", format!("{id}, register {key}: {error}"))
    })?;
    tell(ticket, What::Value(value), world);
    Ok(())
}

/// The entries that a batch puts into the journal.
fn entries(batch: &Batch) -> Vec<Entry> {
    let values = batch.ops.iter().filter_map(|op| match op {
        Op::Put(key, value) if key.first() == Some(&ENTRY) => Some(value),
        _ => None,
    });
    values
        .map(|value| Entry::from_bytes(value).expect("it was encoded like this"))
        .collect()
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
