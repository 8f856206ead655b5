//! What is around the nodes and clients of a run: time, what happens next, the conditions, and
//! what was seen.

use super::{
    checker::Time,
    client::{Answer, Request, Timer},
    history::History,
    invariant::Invariants,
    mutation::Mutation,
    network::Conditions,
    schedule::Fault,
    shelf::Shelf,
};
use crate::{Bootstrap, conf::Conf, node::Bounds};
use raft::eraftpb::Message;
use std::{cmp::Reverse, collections::BinaryHeap, fmt};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Of the life `life` of node `node`: in another life it means nothing.
    Inside {
        node: u64,
        life: u64,
        what: Inside,
    },
    /// A message of another node arrives.
    Message {
        node: u64,
        bytes: Vec<u8>,
    },
    /// A client's request arrives.
    Request {
        node: u64,
        request: Request,
    },
    /// An answer arrives.
    Answer {
        client: u64,
        answer: Answer,
    },
    /// A client's own clock.
    Timer {
        client: u64,
        timer: Timer,
    },
    /// A fault begins, or is over.
    Begin(Fault),
    End(Fault),
    /// Somebody tries to make a change of the membership.
    Change(Fault),
    /// From here on all is well.
    Heal,
}

/// What happens inside a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inside {
    /// Its clock ticks.
    Tick,
    /// The raft thread looks into its queue.
    Wake,
    /// The journal's disk is done with a write.
    Written,
    /// Perhaps there is space on the journal's disk again.
    TryAgain,
    /// The apply thread takes the next batch.
    Apply,
    /// The state's disk is done with a flush.
    Flush,
    /// A checkpoint of the state is there.
    Checkpoint,
    /// A piece of a snapshot arrives, or does not.
    Fetch,
}

struct Scheduled {
    at: Time,
    number: u64,
    happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) mutation: Option<Mutation>,
    /// Print everything that happens.
    pub(crate) verbose: bool,
}

/// The surroundings.
pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) now: Time,
    next: BinaryHeap<Reverse<Scheduled>>,
    numbers: u64,
    pub(crate) conditions: Conditions,
    pub(crate) invariants: Invariants,
    pub(crate) history: History,
    /// For whatever the nodes' threads leave to chance.
    pub(crate) threads: fastrand::Rng,
    /// Hash of everything that happened.
    pub(crate) trace: u64,
    /// The checkpoints that nodes serve.
    pub(crate) shelf: Shelf,
    /// The newest configuration of the group that any node has reported.
    pub(crate) conf: Conf,
    /// Snapshots that took the place of a state.
    pub(crate) installed: u64,
    /// How often it changed.
    pub(crate) changes: u64,
    pub(crate) founders: Vec<u64>,
    /// The state is flushed when entries of so many bytes were applied.
    pub(crate) flush_bytes: u64,
    pub(crate) bounds: Bounds,
    /// Most bytes by which commands are longer than they need be.
    pub(crate) padding: u64,
}

impl World {
    pub(crate) fn new(setting: Setting, founders: Vec<u64>, rng: &mut fastrand::Rng) -> World {
        // The journal is cut in steps of 64 KiB: some runs must write much more.
        let padding = [0, 0, 4 << 10, 16 << 10][rng.usize(..4)];
        let flush_bytes = [2 << 10, 50 << 10, 200 << 10][rng.usize(..3)];
        World {
            setting,
            now: 0,
            next: BinaryHeap::new(),
            numbers: 0,
            conditions: Conditions::new(rng),
            invariants: Invariants::default(),
            history: History::default(),
            threads: rng.fork(),
            trace: setting.seed,
            shelf: Shelf::default(),
            conf: Conf::begin(&Bootstrap::found(founders.iter().copied())),
            installed: 0,
            changes: 0,
            founders,
            flush_bytes,
            bounds: Bounds {
                tail_bytes: [0, 100 << 10][rng.usize(..2)],
                max_bytes: 1 << 20,
            },
            padding,
        }
    }

    pub(crate) fn after(&mut self, delay: Time, happening: Happening) {
        self.numbers += 1;
        self.next.push(Reverse(Scheduled {
            at: self.now + delay,
            number: self.numbers,
            happening,
        }));
    }

    /// Time goes on to what happens next.
    pub(crate) fn advance(&mut self) -> Option<Happening> {
        let Reverse(scheduled) = self.next.pop()?;
        self.now = scheduled.at;
        Some(scheduled.happening)
    }

    /// Notes something in the trace.
    pub(crate) fn note(&mut self, what: &'static str, node: u64, detail: u64) {
        let words = [self.now, node, detail].map(u64::to_le_bytes);
        self.trace = xxh3_64_with_seed(what.as_bytes(), self.trace);
        self.trace = xxh3_64_with_seed(words.as_flattened(), self.trace);
        self.tell(format_args!("{node} {what} {detail:x}"));
    }

    /// Prints a line, if anybody wants to see it.
    pub(crate) fn tell(&self, line: fmt::Arguments<'_>) {
        if self.setting.verbose {
            eprintln!("{:>6} {line}", self.now);
        }
    }

    pub(crate) fn mutated(&self, mutation: Mutation) -> bool {
        self.setting.mutation == Some(mutation)
    }

    pub(crate) fn send_message(&mut self, message: &Message, bytes: &[u8]) {
        for delay in self.conditions.between_nodes(message.from, message.to) {
            let node = message.to;
            let bytes = bytes.to_vec();
            self.after(delay, Happening::Message { node, bytes });
        }
    }

    pub(crate) fn send_request(&mut self, node: u64, request: &Request) {
        for delay in self.conditions.with_clients() {
            let request = request.clone();
            self.after(delay, Happening::Request { node, request });
        }
    }

    pub(crate) fn send_answer(&mut self, client: u64, answer: &Answer) {
        for delay in self.conditions.with_clients() {
            let answer = answer.clone();
            self.after(delay, Happening::Answer { client, answer });
        }
    }
}
