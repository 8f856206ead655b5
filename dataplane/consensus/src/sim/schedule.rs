//! What goes wrong in a run, and when: made from a seed, or read from text.
//!
//! A fault is written `1500+300:pause:2:0`: at 1500 for 300 units of time, its kind, and two
//! numbers whose meaning the kind defines. A schedule is faults with spaces between.

use super::checker::Time;
use std::{fmt, str::FromStr};

/// The clock of a node ticks about every so many units of time.
pub(crate) const TICK: Time = 10;

/// When faults begin, when the last one is over, and when clients stop beginning new operations.
pub(crate) const CALM_UNTIL: Time = 400;
pub(crate) const HEALED_AT: Time = 5000;

/// Kinds of faults. In the comments, `a` and `b` are [`Fault::a`] and [`Fault::b`]; nodes count
/// from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Node `a` dies; `b` percent of its unsynced writes survive; it is back afterwards.
    Crash,
    /// All nodes die at once; `b` percent of the unsynced writes of each survive.
    PowerLoss,
    /// Node `a` stands still, but time and network do not.
    Pause,
    /// The nodes in the bits of `a` (the lowest is node 1) and the others do not hear each other.
    Partition,
    /// Node `b` does not hear node `a`.
    OneWay,
    /// Node `a` hears no other node and is not heard by any, but is by clients.
    Isolate,
    /// `a` percent of all messages are lost.
    Loss,
    /// `a` percent of all messages arrive twice.
    Duplication,
    /// Messages take up to `a` units of time, and overtake each other.
    Delay,
    /// The disks of node `a` take up to `b` units of time.
    SlowDisk,
    /// The disks of node `a` are full.
    FullDisk,
    /// The apply thread of node `a` takes up to `b` units of time for a batch.
    SlowApply,
    /// The ticks of node `a` come every `b` units of time.
    FastClock,
    /// No ticks on node `a`.
    StoppedClock,
    /// The wall clock of node `a` jumps by `b` seconds, for good.
    ClockForward,
    /// The wall clock of node `a` jumps back by `b` seconds, for good.
    ClockBack,
    /// The node `a` flushes its state and cuts its journal.
    Flush,
    /// Whoever leads hands over to node `a`; 0: to whomever it likes.
    HandOver,
    /// Node `a` becomes a learner; tried until it is one.
    AddLearner,
    /// Node `a` becomes a voter; tried until it is one.
    Promote,
    /// Node `a` leaves the group; tried until it has.
    Remove,
}

const KINDS: [(Kind, &str); 21] = [
    (Kind::Crash, "crash"),
    (Kind::PowerLoss, "power-loss"),
    (Kind::Pause, "pause"),
    (Kind::Partition, "partition"),
    (Kind::OneWay, "one-way"),
    (Kind::Isolate, "isolate"),
    (Kind::Loss, "loss"),
    (Kind::Duplication, "duplication"),
    (Kind::Delay, "delay"),
    (Kind::SlowDisk, "slow-disk"),
    (Kind::FullDisk, "full-disk"),
    (Kind::SlowApply, "slow-apply"),
    (Kind::FastClock, "fast-clock"),
    (Kind::StoppedClock, "stopped-clock"),
    (Kind::ClockForward, "clock-forward"),
    (Kind::ClockBack, "clock-back"),
    (Kind::Flush, "flush"),
    (Kind::HandOver, "hand-over"),
    (Kind::AddLearner, "add-learner"),
    (Kind::Promote, "promote"),
    (Kind::Remove, "remove"),
];

impl Kind {
    /// Whether it is no fault, but a change of the membership.
    pub(crate) fn is_change(self) -> bool {
        matches!(self, Kind::AddLearner | Kind::Promote | Kind::Remove)
    }
}

/// Nodes of a seed's group at first, mostly 3; and further ones that may join.
pub(crate) fn size_of(seed: u64) -> (u64, u64) {
    let founders = [3, 3, 5, 3, 1, 3, 3, 5, 3, 3][(seed % 10) as usize];
    let spares = [0, 0, 2, 1][(seed / 10 % 4) as usize];
    (founders, spares)
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at: Time,
    /// How long; of a crash, until the restart.
    pub(crate) lasts: Time,
    pub(crate) a: u64,
    pub(crate) b: u64,
}

/// Everything that goes wrong in a run, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) faults: Vec<Fault>,
}

impl Schedule {
    /// The schedule of a seed: some kinds, each several times; and changes of the membership if
    /// there are nodes to spare.
    pub(crate) fn of_seed(seed: u64) -> Schedule {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5ced_01e5);
        let (founders, spares) = size_of(seed);
        let nodes = founders + spares;
        let mut kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
        kinds.retain(|kind| !kind.is_change());
        rng.shuffle(&mut kinds);
        kinds.truncate(rng.usize(2..7));
        let mut faults: Vec<_> = (0..rng.usize(4..24))
            .map(|_| Fault::of_kind(kinds[rng.usize(..kinds.len())], nodes, &mut rng))
            .collect();
        for spare in founders + 1..=nodes {
            let at = rng.u64(CALM_UNTIL..HEALED_AT - 2000);
            let changes = [
                (Kind::AddLearner, at, spare),
                (Kind::Promote, at + rng.u64(50..600), spare),
                (Kind::Remove, at + rng.u64(..1500), rng.u64(1..=founders)),
            ];
            // The last one sometimes only.
            for (kind, at, a) in changes.into_iter().take(rng.usize(2..4)) {
                faults.push(Fault {
                    kind,
                    at,
                    lasts: HEALED_AT - at,
                    a,
                    b: 0,
                });
            }
        }
        faults.sort_by_key(|fault| fault.at);
        Schedule { faults }
    }
}

impl Fault {
    fn of_kind(kind: Kind, nodes: u64, rng: &mut fastrand::Rng) -> Fault {
        let at = rng.u64(CALM_UNTIL..HEALED_AT - 100);
        // Often about as long as an election, seldom much longer.
        let lasts = match rng.u8(..8) {
            0 => rng.u64(1..20),
            1 => rng.u64(400..1500),
            _ => rng.u64(20..400),
        };
        let node = rng.u64(1..=nodes);
        let other = 1 + (node + rng.u64(..nodes.max(2) - 1)) % nodes;
        let percent = [0, 50, 100][rng.usize(..3)];
        let (a, b) = match kind {
            Kind::Crash | Kind::PowerLoss => (node, percent),
            Kind::Pause
            | Kind::Isolate
            | Kind::FullDisk
            | Kind::StoppedClock
            | Kind::Flush
            | Kind::AddLearner
            | Kind::Promote
            | Kind::Remove => (node, 0),
            Kind::HandOver => (rng.u64(0..=nodes), 0),
            Kind::Partition => (rng.u64(1..1 << nodes), 0),
            Kind::OneWay => (node, other),
            Kind::Loss => (rng.u64(5..60), 0),
            Kind::Duplication => (rng.u64(5..50), 0),
            Kind::Delay => (rng.u64(10..150), 0),
            Kind::SlowDisk | Kind::SlowApply => (node, rng.u64(20..200)),
            Kind::FastClock => (node, rng.u64(1..6)),
            Kind::ClockForward | Kind::ClockBack => (node, 1 << rng.u64(0..20)),
        };
        Fault {
            kind,
            at,
            lasts: lasts.min(HEALED_AT - at),
            a,
            b,
        }
    }

    /// When it is over.
    pub(crate) fn until(&self) -> Time {
        self.at + self.lasts
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        let name = name.map_or("", |(_, name)| name);
        let Fault {
            at, lasts, a, b, ..
        } = self;
        write!(f, "{at}+{lasts}:{name}:{a}:{b}")
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let parse = || {
            let mut fields = text.split(':');
            let (at, lasts) = fields.next()?.split_once('+')?;
            let name = fields.next()?;
            let (kind, _) = KINDS.iter().find(|(_, known)| *known == name)?;
            Some(Fault {
                kind: *kind,
                at: at.parse().ok()?,
                lasts: lasts.parse().ok()?,
                a: fields.next()?.parse().ok()?,
                b: fields.next()?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| format!("not a fault: '{text}'; write it like 1500+300:pause:2:0"))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            write!(f, "{space}{fault}")?;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Schedule, String> {
        let faults = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(Schedule { faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_read_back() {
        for seed in 0..200 {
            let schedule = Schedule::of_seed(seed);
            assert_eq!(schedule.to_string().parse(), Ok(schedule));
        }
        assert!("1+1:nothing:1:1".parse::<Schedule>().is_err());
        assert!("1:crash:1:1".parse::<Schedule>().is_err());
    }

    #[test]
    fn every_kind_can_be_written() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (kind, name) in KINDS {
            let fault = Fault::of_kind(kind, 3, &mut rng);
            assert!(fault.to_string().contains(name));
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }
}
