//! The end of a node: in order, or on a fault.

use super::{Driver, died};
use crate::{
    Fatal, StateMachine,
    changes::{Changes, TRANSFER_TICKS},
    shared::Shared,
};
use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Instant,
};

/// How far shutdown is.
#[derive(Clone, Copy)]
pub(super) enum Stopping {
    No,
    /// Commands in flight are waited for, until then.
    Finishing(Instant),
    /// Another voter takes over the leadership, until this tick.
    HandingOver(u64),
    Done,
}

/// Says that the node has ended, however it did.
pub(super) struct Ending(pub(super) Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.room.close();
        self.0.position.lock().leading = false;
        self.0.position.lock().alone_from = None;
        self.0.ended.send_replace(true);
    }
}

impl<S: StateMachine> Driver<S> {
    /// Goes on with the shutdown, if one has begun: first the commands in flight, then the
    /// leadership.
    pub(super) fn has_stopped(&mut self) -> bool {
        if let Stopping::Finishing(by) = self.stopping
            && (self.waiting.is_empty() || Instant::now() >= by)
        {
            self.stopping = if self.position.leading && !self.node.is_alone() {
                Stopping::HandingOver(self.ticks + TRANSFER_TICKS)
            } else {
                Stopping::Done
            };
        }
        if let Stopping::HandingOver(until) = self.stopping {
            if self.position.leading {
                self.node.retire();
            }
            // Not before the successor is known: it may need the vote of this node.
            let handed_over = !self.position.leading && self.position.leader != 0;
            if handed_over || self.ticks >= until {
                self.stopping = Stopping::Done;
            }
        }
        matches!(self.stopping, Stopping::Done)
    }

    /// Lets the threads finish what they have, flushes and cuts for the last time.
    pub(super) fn finish(
        &mut self,
        threads: Vec<JoinHandle<()>>,
        orderly: bool,
    ) -> Result<(), Fatal> {
        self.shared.room.close();
        self.fail_pending(&self.shared.closed());
        self.barriers.close(&self.shared.closed());
        self.changes = Changes::default();
        *self.shared.checkpoint.lock() = None;
        let [writer, apply, flush, checkpoint, pull] =
            <[_; 5]>::try_from(threads).expect("five threads were started");
        self.work = mpsc::channel().0;
        self.flush = mpsc::sync_channel(0).0;
        self.checkpoints = mpsc::sync_channel(0).0;
        self.pulls = mpsc::channel().0;
        let mut ended = Ok(());
        for thread in [apply, flush, checkpoint, pull] {
            ended = ended.and(thread.join().map_err(|_| died()));
        }
        let result = ended.and_then(|()| {
            if !orderly {
                return Ok(());
            }
            // Reports of the last work.
            while let Ok(event) = self.queue.try_recv() {
                self.handle(event)?;
            }
            let index = self.machine.flush()?;
            self.cut(index);
            Ok(())
        });
        self.jobs = mpsc::channel().0;
        writer.join().map_err(|_| died()).and(result)
    }
}
