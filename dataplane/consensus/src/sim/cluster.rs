//! A run: nodes, clients and a schedule of faults, from the first tick until all is well again.

use super::{
    checker::Time,
    client::{Client, Timer},
    invariant::{Step, Violation},
    replica::Replica,
    schedule::{Fault, HEALED_AT, Kind, Schedule},
    world::{Happening, Setting, World},
};
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
    /// Replicas that are behind the leader's cut.
    pub(crate) behind: u64,
}

/// Nodes of a seed's cluster: mostly 3.
pub(crate) fn nodes_of(seed: u64) -> u64 {
    [3, 3, 5, 3, 1, 3, 3, 5, 3, 3][(seed % 10) as usize]
}

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
        let nodes = nodes_of(setting.seed);
        let mut world = World::new(setting, (1..=nodes).collect(), &mut rng);
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
        let behind = self.check_states()?;
        Ok(Figures {
            answered: self.world.history.answered(),
            committed: self.world.invariants.chosen(),
            reigns: self.world.invariants.reigns(),
            undecided,
            behind,
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
            Happening::Begin(fault) => {
                self.begin(fault);
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

    /// Starts whoever is down and need not be.
    fn restart(&mut self) -> Step {
        for (replica, id) in self.replicas.iter_mut().zip(1..) {
            if !replica.is_up() && !self.world.conditions.is_down(id) {
                replica.start(&mut self.world)?;
            }
        }
        Ok(())
    }

    /// All replicas have the same state; how many could not catch up, because the leader has cut
    /// off what they lack.
    fn check_states(&mut self) -> Step<u64> {
        let leaders = self.replicas.iter_mut();
        let behind: Vec<_> = leaders.flat_map(Replica::left_behind).collect();
        let mut states: Vec<_> = self
            .replicas
            .iter()
            .zip(1..)
            .filter(|(_, id)| !behind.contains(id))
            .map(|(replica, _)| replica.state())
            .collect();
        states.dedup();
        if states.len() != 1 {
            let what = format!("applied index and checksum at the end: {states:x?}");
            return Err(Violation::new("replicas agree", what));
        }
        Ok(behind.len() as u64)
    }
}
