//! A node's machine: what outlives its processes, and the process that runs.

use super::{
    client::{Request, What},
    disk::Disk,
    invariant::{Appended, Step},
    process::{Fetched, Process, stopped, tell},
    world::{Inside, World},
};
use crate::{conf::Change, wire::Wire};
use raft::eraftpb::Message;
use std::sync::Arc;

/// Unit of time in nanoseconds of the wall clock, and what the clocks show at first.
const UNIT_NS: i64 = 10_000_000;
const EPOCH_NS: i64 = 1_700_000_000 * 1_000_000_000;

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
            process.receive(message, world);
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
