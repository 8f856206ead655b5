//! The log writer: one thread that puts batches on disk, in order, as many as wait with one fsync.

use crate::shared::{Event, Shared};
use forebay_kv::{Batch, Durability, Error, Kv};
use std::{
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

/// Most operations joined into one write.
const JOINED_OPS: usize = 1 << 16;

/// Pause between attempts on a full disk. Attempts go on until there is space: nothing else can
/// be done, and whoever waits was told.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// A batch to write.
pub(crate) struct Job {
    /// Named in the report; none: nobody waits for it and it needs no fsync.
    pub(crate) number: Option<u64>,
    /// What to write.
    pub(crate) batch: Batch,
}

impl Job {
    fn join(&mut self, mut next: Job) {
        self.batch.ops.append(&mut next.batch.ops);
        self.number = next.number.or(self.number);
    }
}

/// Writes until the queue closes or the disk fails.
pub(crate) fn run<O>(
    kv: &dyn Kv,
    jobs: &Receiver<Job>,
    shared: &Shared,
    events: &Sender<Event<O>>,
) {
    // Sending fails only when the raft thread is gone, and then the queue closes too.
    let tell = |event| drop(events.send(event));
    while let Ok(mut job) = jobs.recv() {
        let mut disk_full = false;
        loop {
            while job.batch.ops.len() < JOINED_OPS
                && let Ok(next) = jobs.try_recv()
            {
                job.join(next);
            }
            let durability = match job.number {
                Some(_) => Durability::Synced,
                None => Durability::Logged,
            };
            if durability == Durability::Synced {
                shared.syncs.fetch_add(1, Ordering::Relaxed);
            }
            match kv.write(&job.batch, durability) {
                Ok(()) => break,
                Err(Error::NoSpace(cause)) => {
                    if !disk_full {
                        tracing::error!(
                            %cause,
                            "no space on the journal's disk: nothing can be changed until there is"
                        );
                        disk_full = true;
                        tell(Event::JournalFull(true));
                    }
                    match jobs.recv_timeout(FULL_DISK_PAUSE) {
                        Ok(next) => job.join(next),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
                // After a failed fsync nobody knows what is on disk: no second attempt.
                Err(error) => {
                    let cause = forebay_types::error::chain(&error);
                    tell(Event::Fault(format!("cannot write the journal: {cause}")));
                    return;
                }
            }
        }
        if disk_full {
            tracing::info!("there is space on the journal's disk again");
            tell(Event::JournalFull(false));
        }
        if let Some(number) = job.number {
            tell(Event::Persisted(number));
        }
    }
}
