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
    Bootstrap, Fatal, ProposeError, StateMachine, apply,
    barriers::Barriers,
    conf::Change,
    log::Log,
    node::{Node, Output, Position},
    snapshot::{Manifest, SnapshotFile},
    waiting::{Claim, Waiting},
    wire::Wire,
    writer::Job,
};
use forebay_kv::{Batch, Op};
use forebay_meta::Command;
use forebay_types::error::chain;
use parking_lot::Mutex;
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
    /// Id, index, bytes and checksum.
    Checkpointed(Option<(String, u64, SnapshotFile)>),
    Fetched(String, bool),
}

/// Id and rows of the last snapshot that was fetched whole; they are on disk.
type Fetched = Arc<Mutex<Option<(String, Arc<Batch>)>>>;

/// A snapshot that is being fetched.
struct Fetching {
    from: u64,
    manifest: Manifest,
    /// Pieces that are still to come.
    pieces: u64,
    failed: u64,
}

/// Attempts in a row after which a fetch is given up.
const ATTEMPTS: u64 = 10;

/// A checkpoint that nobody fetches from for so long is removed.
const CHECKPOINT_IDLE: Time = 500;

/// A write of the journal that is under way.
struct Writing {
    number: Option<u64>,
}

/// A read of a register: told the index that must be applied.
type Asked = (oneshot::Receiver<Result<u64, ProposeError>>, Ticket, u64);

/// A committed entry, with whoever waits for it.
enum Work {
    Entries(Vec<(Entry, Option<Ticket>)>),
    Install(Manifest),
}

/// A node's machine: its disks and clock outlive its processes.
pub(crate) struct Replica {
    id: u64,
    journal: Arc<Disk>,
    store: Arc<Disk>,
    fetched: Fetched,
    /// Counts processes.
    life: u64,
    /// It was removed from the group, and has heard of it.
    removed: bool,
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
            fetched: Fetched::default(),
            life: 0,
            removed: false,
            clock_offset: 0,
            process: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// A node that says it was removed from the group stops: that breaks no rule, if it was.
    fn unless_removed(&mut self, result: Step) -> Step {
        result.or_else(|violation| {
            if !violation.what.contains("was removed from the group") {
                return Err(violation);
            }
            self.process = None;
            self.removed = true;
            Ok(())
        })
    }

    /// A new process over what is on the disks.
    pub(crate) fn start(&mut self, world: &mut World) -> Step {
        if self.removed {
            return Ok(());
        }
        let result = self.try_start(world);
        self.unless_removed(result)
    }

    fn try_start(&mut self, world: &mut World) -> Step {
        self.life += 1;
        world.note("starts", self.id, self.store.checksum());
        let disks = (&self.journal, &self.store, &self.fetched);
        let mut process = Process::open(self.id, self.life, disks, world)
            .map_err(|fatal| stopped(self.id, &fatal))?;
        let checksum = self.store.checksum();
        world.invariants.state(self.id, process.applied, checksum)?;
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
        world.shelf.clear(self.id, |_, _| false);
        self.journal = Arc::new(self.journal.crash(percent));
        self.store = Arc::new(self.store.crash(percent));
    }

    pub(crate) fn jump(&mut self, seconds: i64) {
        self.clock_offset += seconds;
    }

    /// Flushes and cuts as soon as the driver may.
    pub(crate) fn want_flush(&mut self) {
        if let Some(process) = &mut self.process {
            process.grown = u64::MAX / 2;
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

    /// Whether it has heard that it was removed from the group.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed
    }

    /// Proposes a change of the membership, if it leads; whether it is made already.
    pub(crate) fn change(&mut self, change: &Change, world: &mut World) -> bool {
        let process = self.process.as_mut();
        let Some(process) = process.filter(|process| process.position.leading) else {
            return false;
        };
        let outcome = process.node.change(change);
        world.tell(format_args!("{} {change:?}: {outcome:?}", self.id));
        matches!(outcome, Ok(None))
    }

    pub(crate) fn inside(&mut self, life: u64, what: Inside, world: &mut World) -> Step {
        let result = self.try_inside(life, what, world);
        self.unless_removed(result)
    }

    fn try_inside(&mut self, life: u64, what: Inside, world: &mut World) -> Step {
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
            Inside::Checkpoint => process.checkpoint(world),
            Inside::Fetch => {
                process.fetch(world);
                Ok(())
            }
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
    fetched: Fetched,
    fetching: Option<Fetching>,
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

    fn request(&mut self, ticket: Ticket, wish: Wish, now_ns: i64, world: &mut World) -> Step {
        match (wish, wish.change(now_ns, world.padding)) {
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
    fn execute(&mut self, world: &mut World) -> Step {
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
        let due =
            self.grown >= world.flush_bytes || self.node.is_full() && self.applied > self.flushed;
        if due && !self.flushing && self.applied >= self.replay_end {
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

    fn apply_later(&mut self, work: Work, world: &mut World) {
        self.work.push_back(work);
        if self.work.len() > 1 {
            return;
        }
        let delay = world.conditions.apply_time(self.id);
        self.later(delay, Inside::Apply, world);
    }

    /// The apply thread applies all that waits: to be slow is to pause, not to fall behind for ever.
    fn apply(&mut self, world: &mut World) -> Step {
        for work in std::mem::take(&mut self.work) {
            match work {
                Work::Entries(entries) => self.apply_all(entries, world)?,
                Work::Install(manifest) => self.install(&manifest, world)?,
            }
        }
        let applied = self.applied;
        for (_, ticket, key) in self.parked.extract_if(.., |(index, ..)| *index <= applied) {
            serve(&self.machine, self.id, ticket, key, world)?;
        }
        self.post(Event::Applied(applied), world);
        Ok(())
    }

    fn apply_all(&mut self, entries: Vec<(Entry, Option<Ticket>)>, world: &mut World) -> Step {
        for (entry, waiter) in entries {
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

    fn checkpoint(&mut self, world: &mut World) -> Step {
        let index = self.machine.applied();
        world
            .invariants
            .state(self.id, index, self.store.checksum())?;
        let rows = self.store.copy();
        let file = SnapshotFile {
            name: "rows".to_owned(),
            size: rows.ops.len() as u64,
            crc: 0,
        };
        let id = world.shelf.put(self.id, rows, world.now);
        world.note("takes a checkpoint", self.id, index);
        self.post(Event::Checkpointed(Some((id, index, file))), world);
        Ok(())
    }

    fn checkpointed(&mut self, taken: Option<(String, u64, SnapshotFile)>, world: &mut World) {
        let id = taken.as_ref().map(|(id, ..)| id.clone());
        let taken = taken.map(|(id, index, file)| (id, index, vec![file]));
        if self.node.checkpointed(taken) {
            // The former one goes.
            world
                .shelf
                .clear(self.id, |kept, _| Some(kept) == id.as_deref());
        } else {
            world
                .shelf
                .clear(self.id, |kept, _| Some(kept) != id.as_deref());
        }
    }

    fn forget_idle_checkpoint(&mut self, world: &mut World) {
        if world.shelf.serves(self.id) {
            let since = world.now.saturating_sub(CHECKPOINT_IDLE);
            world.shelf.clear(self.id, |_, used| used >= since);
            if !world.shelf.serves(self.id) {
                self.node.forget_checkpoint();
            }
        }
    }

    fn begin_fetch(&mut self, from: u64, manifest: Manifest, world: &mut World) {
        world.note("fetches", self.id, manifest.index);
        // What is there is of another snapshot, and makes room.
        self.fetched.lock().take_if(|(id, _)| *id != manifest.id);
        let idle = self.fetching.is_none();
        self.fetching = Some(Fetching {
            from,
            manifest,
            pieces: world.threads.u64(1..20),
            failed: 0,
        });
        if idle {
            self.later(1, Inside::Fetch, world);
        }
    }

    /// A piece of a snapshot is here, or could not be had.
    fn fetch(&mut self, world: &mut World) {
        let Some(mut fetching) = self.fetching.take() else {
            return;
        };
        let id = &fetching.manifest.id;
        let there = world.conditions.between_nodes(self.id, fetching.from);
        let back = world.conditions.between_nodes(fetching.from, self.id);
        let mut whole = None;
        if there.is_empty() || back.is_empty() {
            fetching.failed += 1;
            whole = (fetching.failed == ATTEMPTS).then_some(false);
        } else if let Some(copy) = world.shelf.fetch(id, world.now) {
            fetching.pieces -= 1;
            if fetching.pieces == 0 {
                *self.fetched.lock() = Some((id.clone(), copy.rows));
                whole = Some(true);
            }
        } else {
            whole = Some(false);
        }
        if let Some(whole) = whole {
            let event = Event::Fetched(id.clone(), whole);
            self.post(event, world);
        } else {
            self.fetching = Some(fetching);
            let delay = world.threads.u64(2..20);
            self.later(delay, Inside::Fetch, world);
        }
    }

    /// The apply thread gives the state machine a snapshot.
    fn install(&mut self, manifest: &Manifest, world: &mut World) -> Step {
        self.machine = install_fetched(manifest, &self.fetched, &self.store)
            .map_err(|fatal| stopped(self.id, &fatal))?;
        self.applied = manifest.index;
        world.note("installs", self.id, manifest.index);
        world.installed += 1;
        world
            .invariants
            .state(self.id, manifest.index, self.store.checksum())
    }

    /// As the driver does.
    fn cut(&mut self, index: u64, world: &mut World) {
        self.flushed = index;
        if let Some(batch) = self.node.cut(index) {
            world.note("cuts", self.id, index);
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

/// Gives the state machine the snapshot that was fetched.
fn install_fetched(
    manifest: &Manifest,
    fetched: &Fetched,
    store: &Arc<Disk>,
) -> Result<Machine, Fatal> {
    let fetched = fetched.lock();
    let rows = fetched.as_ref().filter(|(id, _)| *id == manifest.id);
    let Some((_, rows)) = rows else {
        let what = format!("the files of the snapshot {} are not there", manifest.id);
        return Err(Fatal::new(what));
    };
    store.replace(rows);
    let machine = Machine::open(store)?;
    if machine.applied() == manifest.index {
        return Ok(machine);
    }
    let (there, index) = (machine.applied(), manifest.index);
    Err(Fatal::new(format!("a snapshot of {index} holds {there}")))
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
