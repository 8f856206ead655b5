//! The threads that take checkpoints and fetch snapshots.

use super::{Event, Fetched, Process};
use crate::{
    Fatal, StateMachine,
    sim::{
        checker::Time,
        disk::Disk,
        invariant::Step,
        machine::Machine,
        world::{Inside, World},
    },
    snapshot::{Manifest, SnapshotFile},
};
use std::sync::Arc;

/// A snapshot that is being fetched.
pub(super) struct Fetching {
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

impl Process {
    pub(in crate::sim) fn checkpoint(&mut self, world: &mut World) -> Step {
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

    pub(super) fn checkpointed(
        &mut self,
        taken: Option<(String, u64, SnapshotFile)>,
        world: &mut World,
    ) {
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

    pub(super) fn forget_idle_checkpoint(&mut self, world: &mut World) {
        if world.shelf.serves(self.id) {
            let since = world.now.saturating_sub(CHECKPOINT_IDLE);
            world.shelf.clear(self.id, |_, used| used >= since);
            if !world.shelf.serves(self.id) {
                self.node.forget_checkpoint();
            }
        }
    }

    pub(super) fn begin_fetch(&mut self, from: u64, manifest: Manifest, world: &mut World) {
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
    pub(in crate::sim) fn fetch(&mut self, world: &mut World) {
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
}

/// Gives the state machine the snapshot that was fetched.
pub(super) fn install_fetched(
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
