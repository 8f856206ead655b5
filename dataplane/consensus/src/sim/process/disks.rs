//! The log writer and the flush thread.

use super::{Event, Process, stopped};
use crate::{
    StateMachine,
    sim::{
        checker::Time,
        invariant::Step,
        mutation::Mutation,
        world::{Inside, World},
    },
    wire::Wire,
    writer::Job,
};
use forebay_kv::{Batch, Op};
use raft::eraftpb::Entry;

/// Time between attempts on a full disk.
const FULL_DISK_PAUSE: Time = 20;

/// How the log begins the keys of entries.
const ENTRY: u8 = b'e';

/// A write of the journal that is under way.
pub(super) struct Writing {
    number: Option<u64>,
}

impl Process {
    /// The log writer begins with all that waits.
    pub(in crate::sim) fn start_write(&mut self, world: &mut World) {
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

    pub(in crate::sim) fn written(&mut self, world: &mut World) -> Step {
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

    /// The flush thread is done with the disk.
    pub(in crate::sim) fn flush(&mut self, world: &mut World) -> Step {
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
    pub(super) fn cut(&mut self, index: u64, world: &mut World) {
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
}

/// The entries that a batch puts into the journal.
pub(super) fn entries(batch: &Batch) -> Vec<Entry> {
    let values = batch.ops.iter().filter_map(|op| match op {
        Op::Put(key, value) if key.first() == Some(&ENTRY) => Some(value),
        _ => None,
    });
    values
        .map(|value| Entry::from_bytes(value).expect("it was encoded like this"))
        .collect()
}
