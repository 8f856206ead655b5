//! The network and the other things that faults act on, as they are at a moment.

use super::{
    checker::Time,
    schedule::{Fault, Kind, TICK},
};

/// Delays of a message that is neither lost nor late.
const USUAL_DELAY: Time = 4;

/// Units of time that a disk takes for a write with sync, when it is well.
const USUAL_DISK: Time = 6;

/// What is wrong now.
pub(crate) struct Conditions {
    active: Vec<Fault>,
    /// Percent of messages lost or doubled even when no fault says so.
    background_loss: u64,
    /// Units of time that a healthy apply thread takes at most.
    usual_apply: Time,
    network: fastrand::Rng,
    disk: fastrand::Rng,
    clock: fastrand::Rng,
}

impl Conditions {
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Conditions {
        Conditions {
            active: Vec::new(),
            background_loss: [0, 0, 1, 3][rng.usize(..4)],
            usual_apply: [2, 2, 10, 40][rng.usize(..4)],
            network: rng.fork(),
            disk: rng.fork(),
            clock: rng.fork(),
        }
    }

    pub(crate) fn begin(&mut self, fault: Fault) {
        self.active.push(fault);
    }

    pub(crate) fn end(&mut self, fault: Fault) {
        if let Some(at) = self.active.iter().position(|active| *active == fault) {
            self.active.remove(at);
        }
    }

    /// No fault any more, and none of the usual losses.
    pub(crate) fn heal(&mut self) {
        self.active.clear();
        self.background_loss = 0;
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Fault> {
        self.active.iter().filter(move |fault| fault.kind == kind)
    }

    fn worst(&self, kind: Kind) -> u64 {
        self.of(kind).map(|fault| fault.a).max().unwrap_or(0)
    }

    /// Whether messages of `from` get to `to` at all.
    pub(crate) fn hears(&self, from: u64, to: u64) -> bool {
        !self.active.iter().any(|fault| match fault.kind {
            Kind::Partition => (fault.a >> (from - 1)) & 1 != (fault.a >> (to - 1)) & 1,
            Kind::OneWay => (fault.a, fault.b) == (from, to),
            Kind::Isolate => fault.a == from || fault.a == to,
            _ => false,
        })
    }

    /// The delays after which a message between nodes arrives: none, one or two.
    pub(crate) fn between_nodes(&mut self, from: u64, to: u64) -> Vec<Time> {
        if self.hears(from, to) {
            self.with_clients()
        } else {
            Vec::new()
        }
    }

    /// The delays after which a message from or to a client arrives.
    pub(crate) fn with_clients(&mut self) -> Vec<Time> {
        let loss = self.worst(Kind::Loss).max(self.background_loss);
        let duplication = self.worst(Kind::Duplication).max(self.background_loss);
        let slowest = self.worst(Kind::Delay).max(USUAL_DELAY);
        let rng = &mut self.network;
        let copies = match (rng.u64(..100) < loss, rng.u64(..100) < duplication) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        (0..copies).map(|_| rng.u64(1..=slowest)).collect()
    }

    /// How long a write or a flush takes on a node.
    pub(crate) fn disk_time(&mut self, node: u64) -> Time {
        let slow = self
            .of(Kind::SlowDisk)
            .filter(|fault| fault.a == node)
            .map(|fault| fault.b)
            .max();
        self.disk.u64(1..=slow.unwrap_or(USUAL_DISK))
    }

    /// How long the apply thread of a node takes for what waits.
    pub(crate) fn apply_time(&mut self, node: u64) -> Time {
        let slow = self
            .of(Kind::SlowApply)
            .filter(|fault| fault.a == node)
            .map(|fault| fault.b)
            .max();
        self.disk.u64(1..=slow.unwrap_or(self.usual_apply))
    }

    pub(crate) fn disk_full(&self, node: u64) -> bool {
        self.of(Kind::FullDisk).any(|fault| fault.a == node)
    }

    /// Until when a node stands still.
    pub(crate) fn paused_until(&self, node: u64) -> Option<Time> {
        self.of(Kind::Pause)
            .filter(|fault| fault.a == node)
            .map(Fault::until)
            .max()
    }

    /// Whether a node has crashed and is not to be back yet.
    pub(crate) fn is_down(&self, node: u64) -> bool {
        self.of(Kind::PowerLoss).next().is_some()
            || self.of(Kind::Crash).any(|fault| fault.a == node)
    }

    pub(crate) fn clock_stands(&self, node: u64) -> bool {
        self.of(Kind::StoppedClock).any(|fault| fault.a == node)
    }

    /// Time to the next tick of a node.
    pub(crate) fn tick(&mut self, node: u64) -> Time {
        let fast = self
            .of(Kind::FastClock)
            .filter(|fault| fault.a == node)
            .map(|fault| fault.b)
            .min();
        fast.unwrap_or_else(|| self.clock.u64(TICK - 1..=TICK + 1))
    }
}
