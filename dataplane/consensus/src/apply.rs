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

/// Most commands handed to the state machine at once: whoever waits for the first of them waits
/// for the last.
const AT_ONCE: usize = 256;

/// Applies until the queue closes or the state machine fails.
pub(crate) fn run<S: StateMachine>(
    machine: &S,
    queue: &Receiver<Work<S::Outcome>>,
    shared: &Shared,
    events: &Sender<Event<S::Outcome>>,
) {
    while let Ok(work) = queue.recv() {
        let done = match work {
            Work::Entries(entries) => apply_all(machine, shared, entries),
            Work::Install { index, dir } => install(machine, index, &dir).inspect(|()| {
                shared.applied.send_replace(index);
            }),
        };
        if let Err(fatal) = done {
            let _ = events.send(Event::Fault(chain(&fatal)));
            return;
        }
        let applied = *shared.applied.borrow();
        if events.send(Event::Applied(applied)).is_err() {
            return;
        }
    }
}

fn is_command(entry: &Entry) -> bool {
    entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty()
}

/// How many of the first entries are applied together: commands, or one that is something else.
fn run_length<W>(work: &[(Entry, W)]) -> usize {
    let commands = work.iter().take(AT_ONCE);
    commands
        .take_while(|(entry, _)| is_command(entry))
        .count()
        .max(1)
}

fn apply_all<S: StateMachine>(
    machine: &S,
    shared: &Shared,
    mut entries: Vec<(Entry, Option<Waiter<S::Outcome>>)>,
) -> Result<(), Fatal> {
    let mut applied = *shared.applied.borrow();
    while !entries.is_empty() {
        let later = entries.split_off(run_length(&entries));
        let (run, waiters): (Vec<_>, Vec<_>) =
            std::mem::replace(&mut entries, later).into_iter().unzip();
        let outcomes = apply(machine, applied + 1, &run)?;
        applied += run.len() as u64;
        // First: who is told that his command is done finds it done.
        shared.applied.send_replace(applied);
        for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
            if let Some(waiter) = waiter {
                waiter.tell(Ok(outcome));
            }
        }
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

/// Applies a run; the outcomes of its commands.
pub(crate) fn apply<S: StateMachine>(
    machine: &S,
    first: u64,
    run: &[Entry],
) -> Result<Vec<S::Outcome>, Fatal> {
    if let Some((expected, entry)) = (first..).zip(run).find(|(at, entry)| *at != entry.index) {
        return Err(Fatal::new(format!(
            "the journal goes on with {} after {}",
            entry.index,
            expected - 1
        )));
    }
    if let [entry] = run
        && !is_command(entry)
    {
        // Changes of the membership are none of the state machine's business.
        return machine.skip(entry.index).map(|()| Vec::new());
    }
    let commands: Vec<&[u8]> = run.iter().map(|entry| &entry.data[..]).collect();
    machine.apply_run(first, &commands)
}
