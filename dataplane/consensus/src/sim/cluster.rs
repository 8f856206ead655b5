//! A run: nodes, clients and a schedule of faults, from the first tick until all is well again.

use super::{
    checker::Time,
    client::{Client, Timer},
    invariant::{Step, Violation},
    replica::Replica,
    schedule::{Fault, HEALED_AT, Kind, Schedule, size_of},
    world::{Happening, Setting, World},
};
use crate::conf::Change;
use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// After the last fault, everybody must be served within so long (in ticks of ten units: 60 s of
/// a master's usual tick).
const LIVELY_WITHIN: Time = 6000;

/// How long the replicas have afterwards to become equal.
const SETTLES_WITHIN: Time = 1000;

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Hash of everything that happened.
    pub(crate) trace: u64,
    /// What was done, or what went wrong.
    pub(crate) result: Step<Figures>,
}

/// What was done in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Operations of clients that were answered.
    pub(crate) answered: u64,
    /// Entries committed.
    pub(crate) committed: u64,
    /// Terms with a leader.
    pub(crate) reigns: u64,
    /// Registers whose history took too long to check.
    pub(crate) undecided: u64,
    /// Checkpoints taken for nodes that were left behind.
    pub(crate) snapshots: u64,
    /// Snapshots that took the place of a state.
    pub(crate) installed: u64,
    /// Changes of the membership.
    pub(crate) changes: u64,
}

/// Time between two attempts at a change of the membership.
const ATTEMPT: Time = 40;

/// Makes the run of a setting under a schedule.
pub(crate) fn run(setting: Setting, schedule: &Schedule) -> Run {
    let mut cluster = Cluster::new(setting, schedule);
    // The library panics where it finds its own invariants broken.
    let result = catch_unwind(AssertUnwindSafe(|| cluster.run()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Violation::new("no panic", text.unwrap_or("a panic")))
    });
    let trace = cluster.world.trace;
    Run { trace, result }
}

struct Cluster {
    replicas: Vec<Replica>,
    clients: Vec<Client>,
    world: World,
}

impl Cluster {
    fn new(setting: Setting, schedule: &Schedule) -> Cluster {
        let mut rng = fastrand::Rng::with_seed(setting.seed);
        let (founders, spares) = size_of(setting.seed);
        let nodes = founders + spares;
        let mut world = World::new(setting, (1..=founders).collect(), &mut rng);
        let clients: Vec<_> = (1..=rng.u64(2..6))
            .map(|id| Client::new(id, nodes, &mut rng))
            .collect();
        for fault in &schedule.faults {
            world.after(fault.at, Happening::Begin(*fault));
            world.after(fault.until(), Happening::End(*fault));
        }
        world.after(HEALED_AT, Happening::Heal);
        for client in 1..=clients.len() as u64 {
            // So many things at a time.
            for delay in 0..rng.u64(1..4) {
                let timer = Timer::Begin;
                world.after(10 * client + delay, Happening::Timer { client, timer });
            }
        }
        Cluster {
            replicas: (1..=nodes).map(Replica::new).collect(),
            clients,
            world,
        }
    }

    fn run(&mut self) -> Step<Figures> {
        for replica in &mut self.replicas {
            replica.start(&mut self.world)?;
        }
        while !self.clients.iter().all(Client::is_done) {
            if self.world.now > HEALED_AT + LIVELY_WITHIN {
                let what = format!("not all are served at {}", self.world.now);
                return Err(Violation::new("liveness", what));
            }
            self.step()?;
        }
        let undecided = self.world.history.check()?;
        let settled = self.world.now + SETTLES_WITHIN;
        while self.world.now < settled {
            self.step()?;
        }
        self.check_states()?;
        Ok(Figures {
            answered: self.world.history.answered(),
            committed: self.world.invariants.chosen(),
            reigns: self.world.invariants.reigns(),
            undecided,
            snapshots: self.world.shelf.taken(),
            installed: self.world.installed,
            changes: self.world.changes,
        })
    }

    fn step(&mut self) -> Step {
        let world = &mut self.world;
        let happening = world.advance().expect("clocks tick for ever");
        match happening {
            Happening::Inside { node, life, what } => {
                self.replicas[node as usize - 1].inside(life, what, world)
            }
            Happening::Message { node, bytes } => {
                self.replicas[node as usize - 1].message(&bytes, world);
                Ok(())
            }
            Happening::Request { node, request } => {
                world.tell(format_args!("{node} is asked {request:?}"));
                self.replicas[node as usize - 1].request(&request, world)
            }
            Happening::Answer { client, answer } => {
                world.tell(format_args!("client {client} hears {answer:?}"));
                self.clients[client as usize - 1].answered(answer, world)
            }
            Happening::Timer { client, timer } => {
                self.clients[client as usize - 1].timer(timer, world);
                Ok(())
            }
            Happening::Begin(fault) if fault.kind.is_change() => {
                self.change(fault);
                Ok(())
            }
            Happening::Begin(fault) => {
                self.begin(fault);
                Ok(())
            }
            Happening::Change(fault) => {
                self.change(fault);
                Ok(())
            }
            Happening::End(fault) => {
                world.conditions.end(fault);
                self.restart()
            }
            Happening::Heal => {
                world.conditions.heal();
                for client in &mut self.clients {
                    client.finish();
                }
                self.restart()
            }
        }
    }

    fn begin(&mut self, fault: Fault) {
        let world = &mut self.world;
        world.note("suffers", fault.a, fault.b);
        world.tell(format_args!("begins: {fault}"));
        world.conditions.begin(fault);
        let Fault { kind, a, b, .. } = fault;
        for (replica, id) in self.replicas.iter_mut().zip(1..) {
            let meant = a == id;
            match kind {
                Kind::PowerLoss if replica.is_up() => replica.crash(b, world),
                Kind::Crash if meant && replica.is_up() => replica.crash(b, world),
                Kind::ClockForward if meant => replica.jump(b as i64),
                Kind::ClockBack if meant => replica.jump(-(b as i64)),
                Kind::Flush if meant => replica.want_flush(),
                Kind::HandOver => replica.hand_over(a),
                _ => {}
            }
        }
    }

    /// Tries to make a change of the membership, until it is made.
    fn change(&mut self, fault: Fault) {
        let Fault { kind, a, .. } = fault;
        let change = match kind {
            Kind::AddLearner => Change::AddLearner(a, Bytes::new()),
            Kind::Promote => Change::Promote(a),
            Kind::Remove => Change::Remove(a),
            other => unreachable!("{other:?} changes no membership"),
        };
        let world = &mut self.world;
        let mut made = false;
        for replica in &mut self.replicas {
            made |= replica.change(&change, world);
        }
        if !made && world.now + ATTEMPT < fault.until() {
            world.after(ATTEMPT, Happening::Change(fault));
        }
    }

    /// Starts whoever is down and need not be.
    fn restart(&mut self) -> Step {
        for (replica, id) in self.replicas.iter_mut().zip(1..) {
            if !replica.is_up() && !self.world.conditions.is_down(id) {
                replica.start(&mut self.world)?;
            }
        }
        Ok(())
    }

    /// All members have the same state.
    fn check_states(&self) -> Step {
        let conf = &self.world.conf;
        let replicas = self.replicas.iter().zip(1..);
        if let Some((_, id)) = replicas
            .clone()
            .find(|(replica, id)| replica.is_removed() && !conf.was_removed(*id))
        {
            let what = format!("{id} believes that it was removed, but was not");
            return Err(Violation::new("membership", what));
        }
        let members = replicas.filter(|(_, id)| conf.contains(*id));
        let mut states: Vec<_> = members.map(|(replica, _)| replica.state()).collect();
        states.dedup();
        if states.len() != 1 {
            let what = format!("applied index and checksum at the end: {states:x?}");
            return Err(Violation::new("replicas agree", what));
        }
        Ok(())
    }
}
