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
    let mut applied = *shared.applied.borrow();
    while let Ok(mut work) = queue.recv() {
        while !work.is_empty() {
            let later = work.split_off(run_length(&work));
            let (entries, waiters): (Vec<_>, Vec<_>) =
                std::mem::replace(&mut work, later).into_iter().unzip();
            match apply(machine, applied + 1, &entries) {
                Ok(outcomes) => {
                    for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                        if let Some(waiter) = waiter {
                            waiter.tell(Ok(outcome));
                        }
                    }
                }
                Err(fatal) => {
                    let _ = events.send(Event::Fault(chain(&fatal)));
                    return;
                }
            }
            applied += entries.len() as u64;
        }
        shared.applied.send_replace(applied);
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
        return pass(machine, entry).map(|()| Vec::new());
    }
    let commands: Vec<&[u8]> = run.iter().map(|entry| &entry.data[..]).collect();
    machine.apply_run(first, &commands)
}

/// An entry that is not a command.
fn pass<S: StateMachine>(machine: &S, entry: &Entry) -> Result<(), Fatal> {
    let index = entry.index;
    if entry.get_entry_type() != EntryType::EntryNormal {
        return Err(Fatal::new(format!(
            "entry {index} changes the membership, written by a newer Forebay; use that version"
        )));
    }
    machine.skip(index)
}
