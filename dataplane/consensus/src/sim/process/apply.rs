//! The apply thread, and the reads that wait for it.

use super::{Event, Process, snapshots::install_fetched, stopped, tell};
use crate::{
    apply,
    sim::{
        client::{self, Ticket, What},
        invariant::{Step, Violation},
        machine::Machine,
        world::{Inside, World},
    },
    snapshot::Manifest,
};
use raft::eraftpb::Entry;
use xxhash_rust::xxh3::xxh3_64;

/// A committed entry, with whoever waits for it.
pub(super) enum Work {
    Entries(Vec<(Entry, Option<Ticket>)>),
    Install(Manifest),
}

impl Process {
    pub(super) fn apply_later(&mut self, work: Work, world: &mut World) {
        self.work.push_back(work);
        if self.work.len() > 1 {
            return;
        }
        let delay = world.conditions.apply_time(self.id);
        self.later(delay, Inside::Apply, world);
    }

    /// The apply thread applies all that waits: to be slow is to pause, not to fall behind for ever.
    pub(in crate::sim) fn apply(&mut self, world: &mut World) -> Step {
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

    /// Applies runs of commands together, as the thread does; on every node other ones, which must
    /// make no difference.
    fn apply_all(&mut self, mut entries: Vec<(Entry, Option<Ticket>)>, world: &mut World) -> Step {
        while !entries.is_empty() {
            let longest = apply::run_length(&entries);
            let later = entries.split_off(world.threads.usize(1..=longest));
            let (run, waiters): (Vec<_>, Vec<_>) =
                std::mem::replace(&mut entries, later).into_iter().unzip();
            let outcomes = apply::apply(&self.machine, self.applied + 1, &run)
                .map_err(|error| stopped(self.id, &error))?;
            self.applied += run.len() as u64;
            let outcomes = outcomes
                .into_iter()
                .map(Some)
                .chain(std::iter::repeat(None));
            for ((entry, waiter), outcome) in run.iter().zip(waiters).zip(outcomes) {
                let effect = xxh3_64(format!("{outcome:?}").as_bytes());
                world.note("applies", self.id, effect);
                world.invariants.applied(self.id, entry.index, effect)?;
                if let (Some(ticket), Some(outcome)) = (waiter, outcome) {
                    tell(ticket, What::Outcome(outcome), world);
                }
            }
            let checksum = self.store.checksum();
            world.invariants.state(self.id, self.applied, checksum)?;
        }
        Ok(())
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

    /// Serves a read once `index` is applied.
    pub(super) fn park(&mut self, index: u64, ticket: Ticket, key: u64, world: &mut World) -> Step {
        if self.applied >= index {
            return self.serve(ticket, key, world);
        }
        self.parked.push((index, ticket, key));
        Ok(())
    }

    pub(super) fn serve(&self, ticket: Ticket, key: u64, world: &mut World) -> Step {
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
