//! The apply thread: hands committed commands to the state machine and outcomes to the waiting.

use crate::{
    Fatal, StateMachine,
    shared::{Event, Shared, Waiter},
};
use forebay_types::error::chain;
use raft::eraftpb::{Entry, EntryType};
use std::sync::mpsc::{Receiver, Sender};

/// Committed entries, each with whoever waits for it.
pub(crate) type Work<O> = Vec<(Entry, Option<Waiter<O>>)>;

/// Applies until the queue closes or the state machine fails.
pub(crate) fn run<S: StateMachine>(
    machine: &S,
    queue: &Receiver<Work<S::Outcome>>,
    shared: &Shared,
    events: &Sender<Event<S::Outcome>>,
) {
    let mut applied = *shared.applied.borrow();
    while let Ok(work) = queue.recv() {
        for (entry, waiter) in work {
            match apply(machine, applied + 1, &entry) {
                Ok(Some(outcome)) => {
                    if let Some(waiter) = waiter {
                        waiter.tell(Ok(outcome));
                    }
                }
                Ok(None) => {}
                Err(fatal) => {
                    let _ = events.send(Event::Fault(chain(&fatal)));
                    return;
                }
            }
            applied = entry.index;
        }
        shared.applied.send_replace(applied);
        if events.send(Event::Applied(applied)).is_err() {
            return;
        }
    }
}

/// Applies an entry, which must be the one `expected`.
pub(crate) fn apply<S: StateMachine>(
    machine: &S,
    expected: u64,
    entry: &Entry,
) -> Result<Option<S::Outcome>, Fatal> {
    let index = entry.index;
    if index != expected {
        return Err(Fatal::new(format!(
            "the journal goes on with {index} after {}",
            expected - 1
        )));
    }
    if entry.get_entry_type() != EntryType::EntryNormal {
        return Err(Fatal::new(format!(
            "entry {index} changes the membership, written by a newer Forebay; use that version"
        )));
    }
    if entry.data.is_empty() {
        machine.skip(index)?;
        return Ok(None);
    }
    machine.apply(index, &entry.data).map(Some)
}
