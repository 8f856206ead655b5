//! The apply thread: hands committed commands to the state machine and outcomes to the waiting.

use crate::{
    ApplyError, Fatal, ProposeError, StateMachine,
    shared::{Event, Shared, Waiter},
};
use forebay_types::error::chain;
use raft::eraftpb::{Entry, EntryType};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

/// What is to be done with the state machine.
pub(crate) enum Work<O> {
    /// Committed entries, each with whoever waits for it.
    Entries(Vec<Claimed<O>>),
    /// A snapshot takes the place of the state.
    Install { index: u64, dir: PathBuf },
}

/// Most commands handed to the state machine at once: whoever waits for the first of them waits
/// for the last.
const AT_ONCE: usize = 256;

/// Pause between attempts on a full disk. Attempts go on until there is space: nothing else can be
/// done, and whoever waits was told.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// Applies until the queue closes or the state machine fails.
pub(crate) fn run<S: StateMachine>(
    machine: &S,
    queue: &Receiver<Work<S::Outcome>>,
    shared: &Shared,
    events: &Sender<Event<S::Outcome>>,
) {
    let mut applier = Applier {
        machine,
        queue,
        shared,
        events,
        waiting: VecDeque::new(),
    };
    if let Err(Stop::Fatal(fatal)) = applier.run() {
        let _ = events.send(Event::Fault(chain(&fatal)));
    }
}

/// Why the thread ends.
enum Stop {
    /// Nobody hands it work any more, or hears of it.
    End,
    Fatal(Fatal),
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Stop {
        Stop::Fatal(fatal)
    }
}

/// A committed entry, with whoever waits for it.
type Claimed<O> = (Entry, Option<Waiter<O>>);

struct Applier<'a, S: StateMachine> {
    machine: &'a S,
    queue: &'a Receiver<Work<S::Outcome>>,
    shared: &'a Shared,
    events: &'a Sender<Event<S::Outcome>>,
    /// What came while the disk was full; the node hands out no more than some MiB.
    waiting: VecDeque<Work<S::Outcome>>,
}

impl<S: StateMachine> Applier<'_, S> {
    fn run(&mut self) -> Result<(), Stop> {
        loop {
            let next = self.waiting.pop_front();
            let work = next.or_else(|| self.queue.recv().ok()).ok_or(Stop::End)?;
            match work {
                Work::Entries(entries) => self.apply_all(entries)?,
                Work::Install { index, dir } => {
                    install(self.machine, index, &dir)?;
                    self.shared.applied.send_replace(index);
                }
            }
            let applied = *self.shared.applied.borrow();
            let told = self.events.send(Event::Applied(applied));
            told.map_err(|_| Stop::End)?;
        }
    }

    fn apply_all(&mut self, mut entries: Vec<Claimed<S::Outcome>>) -> Result<(), Stop> {
        while !entries.is_empty() {
            let later = entries.split_off(run_length(&entries));
            let (run, mut waiters): (Vec<_>, Vec<_>) =
                std::mem::replace(&mut entries, later).into_iter().unzip();
            let first = *self.shared.applied.borrow() + 1;
            let outcomes = loop {
                match apply(self.machine, first, &run) {
                    Ok(outcomes) => break outcomes,
                    Err(ApplyError::Fatal(fatal)) => return Err(fatal.into()),
                    Err(ApplyError::NoSpace(cause)) => {
                        refuse(waiters.iter_mut());
                        refuse(entries.iter_mut().map(|(_, waiter)| waiter));
                        self.await_space(&cause)?;
                    }
                }
            };
            // First: who is told that his command is done finds it done.
            self.shared
                .applied
                .send_replace(first + run.len() as u64 - 1);
            self.shared.state_full.send_if_modified(std::mem::take);
            for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                if let Some(waiter) = waiter {
                    waiter.tell(Ok(outcome));
                }
            }
        }
        Ok(())
    }

    /// A moment on a full disk.
    fn await_space(&mut self, cause: &str) -> Result<(), Stop> {
        if !self.shared.state_full.send_replace(true) {
            tracing::error!(
                cause,
                "no space on the disk of the state: nothing can be changed until there is"
            );
            let told = self.events.send(Event::StateFull);
            told.map_err(|_| Stop::End)?;
        }
        match self.queue.recv_timeout(FULL_DISK_PAUSE) {
            Ok(mut work) => {
                if let Work::Entries(entries) = &mut work {
                    refuse(entries.iter_mut().map(|(_, waiter)| waiter));
                }
                self.waiting.push_back(work);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stop::End),
        }
    }
}

/// What they wait for will not be soon, if ever.
fn refuse<'a, O: 'a>(waiters: impl Iterator<Item = &'a mut Option<Waiter<O>>>) {
    for waiter in waiters.filter_map(Option::take) {
        waiter.tell(Err(ProposeError::NoSpace));
    }
}

fn is_command(entry: &Entry) -> bool {
    entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty()
}

/// How many of the first entries are applied together: commands, or one that is something else.
pub(crate) fn run_length<W>(work: &[(Entry, W)]) -> usize {
    let commands = work.iter().take(AT_ONCE);
    commands
        .take_while(|(entry, _)| is_command(entry))
        .count()
        .max(1)
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
) -> Result<Vec<S::Outcome>, ApplyError> {
    if let Some((expected, entry)) = (first..).zip(run).find(|(at, entry)| *at != entry.index) {
        return Err(Fatal::new(format!(
            "the journal goes on with {} after {}",
            entry.index,
            expected - 1
        ))
        .into());
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
