//! The apply thread: hands committed commands to the state machine and outcomes to the waiting.

use crate::{
    Fatal, StateMachine,
    shared::{Event, Shared, Waiter},
};
use forebay_types::error::chain;
use raft::eraftpb::{Entry, EntryType};
use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender},
};

/// What is to be done with the state machine.
pub(crate) enum Work<O> {
    /// Committed entries, each with whoever waits for it.
    Entries(Vec<(Entry, Option<Waiter<O>>)>),
    /// A snapshot takes the place of the state.
    Install { index: u64, dir: PathBuf },
}

/// Applies until the queue closes or the state machine fails.
pub(crate) fn run<S: StateMachine>(
    machine: &S,
    queue: &Receiver<Work<S::Outcome>>,
    shared: &Shared,
    events: &Sender<Event<S::Outcome>>,
) {
    let mut applied = *shared.applied.borrow();
    while let Ok(work) = queue.recv() {
        let done = match work {
            Work::Entries(entries) => apply_all(machine, &mut applied, entries),
            Work::Install { index, dir } => install(machine, index, &dir).inspect(|()| {
                applied = index;
            }),
        };
        if let Err(fatal) = done {
            let _ = events.send(Event::Fault(chain(&fatal)));
            return;
        }
        shared.applied.send_replace(applied);
        if events.send(Event::Applied(applied)).is_err() {
            return;
        }
    }
}

fn apply_all<S: StateMachine>(
    machine: &S,
    applied: &mut u64,
    entries: Vec<(Entry, Option<Waiter<S::Outcome>>)>,
) -> Result<(), Fatal> {
    for (entry, waiter) in entries {
        if let Some(outcome) = apply(machine, *applied + 1, &entry)?
            && let Some(waiter) = waiter
        {
            waiter.tell(Ok(outcome));
        }
        *applied = entry.index;
    }
    Ok(())
}

fn install<S: StateMachine>(machine: &S, index: u64, dir: &Path) -> Result<(), Fatal> {
    machine.install(dir)?;
    let there = machine.applied();
    if there == index {
        return Ok(());
    }
    Err(Fatal::new(format!(
        "a snapshot of index {index} brought the state to {there}: empty this master's directory \
         and let it join under a new id"
    )))
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
    // Changes of the membership are none of the state machine's business.
    if entry.data.is_empty() || entry.get_entry_type() != EntryType::EntryNormal {
        machine.skip(index)?;
        return Ok(None);
    }
    machine.apply(index, &entry.data).map(Some)
}
