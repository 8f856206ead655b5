//! What one client did and what came of it, and what must therefore be there.

use super::{
    change::{Change, Place, Slot, Step},
    directory::Directory,
};
use forebay_types::{Code, FileKind, Ino};
use rand::{Rng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Names of a client's own.
const OWN: u16 = 48;
/// Names that all clients change.
const SHARED: u16 = 12;
/// Of changes, this many are drawn until one would succeed: most changes should change something.
const DRAWS: usize = 3;
/// Of a name's history, what a message shows.
const TOLD: usize = 8;

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Acknowledged; the inode, if one was made.
    Done(Option<Ino>),
    /// It has had no effect and never will.
    Refused(Code),
    /// Given up, whatever became of it.
    Unknown(Code),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(Some(ino)) => write!(f, "done, inode {ino}"),
            Outcome::Done(None) => f.write_str("done"),
            Outcome::Refused(code) => write!(f, "refused: {}", code.as_str()),
            Outcome::Unknown(code) => write!(f, "given up: {}", code.as_str()),
        }
    }
}

/// A line of the ledger.
struct Line {
    round: u32,
    place: Place,
    change: Change,
    outcome: Outcome,
}

/// The changes of a client by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) done: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) looks: u64,
}

/// The ledger of one client.
#[derive(Default)]
pub(super) struct Ledger {
    lines: Vec<Line>,
    own: Directory,
    /// Of shared names: how often this client made one appear, less how often disappear.
    balance: BTreeMap<Slot, i64>,
    /// What became of them is not known: they are left alone, and not judged.
    unsure: BTreeSet<Slot>,
    unsure_shared: BTreeSet<Slot>,
    /// The inodes of all that was made.
    made: Vec<Ino>,
    made_shared: BTreeSet<Ino>,
    counts: Counts,
}

impl Ledger {
    /// What to do next.
    pub(super) fn next(&self, rng: &mut SmallRng) -> Step {
        let sure = |slot: &Slot| !self.unsure.contains(slot);
        match rng.random_range(0..8) {
            0 => Step::Look(Slot(rng.random_range(0..OWN))),
            1 | 2 => Step::Change(Place::Shared, Change::contended(SHARED, rng)),
            _ => {
                let mut change = Change::any(OWN, rng);
                for _ in 1..DRAWS {
                    if self.own.expect(change).is_ok() && change.slots().all(|s| sure(&s)) {
                        break;
                    }
                    change = Change::any(OWN, rng);
                }
                Step::Change(Place::Own, change)
            }
        }
    }

    /// Enters what came of a change. An error says why that cannot be.
    pub(super) fn enter(
        &mut self,
        round: u32,
        place: Place,
        change: Change,
        outcome: Outcome,
    ) -> Result<(), String> {
        self.lines.push(Line {
            round,
            place,
            change,
            outcome,
        });
        match outcome {
            Outcome::Done(ino) => {
                self.counts.done += 1;
                self.made.extend(ino);
            }
            Outcome::Refused(_) => self.counts.refused += 1,
            Outcome::Unknown(_) => self.counts.unknown += 1,
        }
        match place {
            Place::Own => self.enter_own(change, outcome),
            Place::Shared => self.enter_shared(change, outcome),
        }
    }

    fn enter_own(&mut self, change: Change, outcome: Outcome) -> Result<(), String> {
        let known = !change.slots().any(|slot| self.unsure.contains(&slot));
        if !known || matches!(outcome, Outcome::Unknown(_)) {
            for slot in change.slots() {
                self.own.forget(slot);
                self.unsure.insert(slot);
            }
            return Ok(());
        }
        let expected = self.own.expect(change);
        match (expected, outcome) {
            (Ok(()), Outcome::Done(ino)) => self.own.make(change, ino),
            (Err(code), Outcome::Refused(told)) if told == code => {}
            _ => {
                let expected = match expected {
                    Ok(()) => "done",
                    Err(code) => code.as_str(),
                };
                let slots: Vec<Slot> = change.slots().collect();
                return Err(format!(
                    "{change}: {outcome}, where it must be {expected}; {}",
                    self.history(Place::Own, &slots)
                ));
            }
        }
        Ok(())
    }

    fn enter_shared(&mut self, change: Change, outcome: Outcome) -> Result<(), String> {
        let mut count = |slot: Slot, by: i64| *self.balance.entry(slot).or_default() += by;
        match (change, outcome) {
            (change, Outcome::Unknown(_)) => self.unsure_shared.extend(change.slots()),
            (Change::Make(_, slot), Outcome::Done(ino)) => {
                count(slot, 1);
                self.made_shared.extend(ino);
            }
            (Change::Remove(_, slot), Outcome::Done(_)) => count(slot, -1),
            (Change::Rename { from, to, .. }, Outcome::Done(_)) => {
                count(from, -1);
                count(to, 1);
            }
            (Change::Make(..) | Change::Rename { .. }, Outcome::Refused(Code::AlreadyExists))
            | (Change::Remove(..) | Change::Rename { .. }, Outcome::Refused(Code::NotFound)) => {}
            (change, Outcome::Refused(_)) => {
                return Err(format!("{change} among shared names: {outcome}"));
            }
        }
        Ok(())
    }

    /// Enters what a look at a name of its own found. An error says why that cannot be.
    pub(super) fn look(
        &mut self,
        slot: Slot,
        found: Option<(Ino, FileKind)>,
    ) -> Result<(), String> {
        self.counts.looks += 1;
        let expected = self.own.get(slot).map(|entry| (entry.ino, entry.kind));
        if self.unsure.contains(&slot) || found == expected {
            return Ok(());
        }
        let history = self.history(Place::Own, &[slot]);
        Err(format!(
            "a look at {slot} found {found:?}, where it must be {expected:?}; {history}"
        ))
    }

    /// What was last done with these names.
    pub(super) fn history(&self, place: Place, slots: &[Slot]) -> String {
        let about = |line: &&Line| {
            line.place == place && line.change.slots().any(|slot| slots.contains(&slot))
        };
        let last: Vec<&Line> = self.lines.iter().rev().filter(about).take(TOLD).collect();
        let told = last
            .into_iter()
            .rev()
            .map(|line| format!("in round {} {}: {}", line.round, line.change, line.outcome));
        format!("before: {}", told.collect::<Vec<_>>().join("; "))
    }

    pub(super) fn own(&self) -> &Directory {
        &self.own
    }

    pub(super) fn is_unsure(&self, place: Place, slot: Slot) -> bool {
        match place {
            Place::Own => self.unsure.contains(&slot),
            Place::Shared => self.unsure_shared.contains(&slot),
        }
    }

    pub(super) fn balance(&self, slot: Slot) -> i64 {
        self.balance.get(&slot).copied().unwrap_or_default()
    }

    pub(super) fn made(&self) -> &[Ino] {
        &self.made
    }

    pub(super) fn has_shared(&self, ino: Ino) -> bool {
        self.made_shared.contains(&ino)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The names that all clients change.
    pub(super) fn shared_slots() -> impl Iterator<Item = Slot> {
        (0..SHARED).map(Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(n: u16) -> Change {
        Change::Make(FileKind::File, Slot(n))
    }

    #[test]
    fn an_answer_that_cannot_be_is_told_with_the_history_of_the_name() {
        let mut ledger = Ledger::default();
        let made = Outcome::Done(Some(Ino(7)));
        ledger.enter(3, Place::Own, create(1), made).unwrap();
        let exists = Outcome::Refused(Code::AlreadyExists);
        ledger.enter(4, Place::Own, create(1), exists).unwrap();
        // Never created, and there: it happened twice.
        let twice = ledger.enter(5, Place::Own, create(2), exists).unwrap_err();
        assert!(
            twice.contains("create n02: refused: AlreadyExists"),
            "{twice}"
        );
        // Created, and gone: it was lost.
        let remove = Change::Remove(FileKind::File, Slot(1));
        let lost = ledger.enter(6, Place::Own, remove, Outcome::Refused(Code::NotFound));
        let lost = lost.unwrap_err();
        assert!(lost.contains("in round 3 create n01: done"), "{lost}");
        let read = ledger.look(Slot(1), None).unwrap_err();
        assert!(read.contains("a look at n01 found None"), "{read}");
        assert!(ledger.look(Slot(1), Some((Ino(7), FileKind::File))).is_ok());
        assert!(
            ledger
                .look(Slot(1), Some((Ino(8), FileKind::File)))
                .is_err()
        );
    }

    #[test]
    fn a_name_of_which_nothing_is_known_is_left_alone() {
        let mut ledger = Ledger::default();
        let gone = Outcome::Unknown(Code::Unavailable);
        ledger.enter(1, Place::Own, create(1), gone).unwrap();
        for outcome in [Outcome::Done(None), Outcome::Refused(Code::AlreadyExists)] {
            ledger.enter(1, Place::Own, create(1), outcome).unwrap();
        }
        assert!(ledger.is_unsure(Place::Own, Slot(1)));
        assert!(ledger.look(Slot(1), None).is_ok());
        assert_eq!(ledger.counts().unknown, 1);
    }

    #[test]
    fn shared_names_are_counted_in_and_out() {
        let mut ledger = Ledger::default();
        let rename = Change::Rename {
            from: Slot(0),
            to: Slot(1),
            no_replace: true,
        };
        let done = Outcome::Done(Some(Ino(5)));
        ledger.enter(1, Place::Shared, create(0), done).unwrap();
        ledger
            .enter(1, Place::Shared, rename, Outcome::Done(None))
            .unwrap();
        assert_eq!((ledger.balance(Slot(0)), ledger.balance(Slot(1))), (0, 1));
        assert!(ledger.has_shared(Ino(5)));
        let no = Outcome::Refused(Code::ReadOnly);
        assert!(ledger.enter(1, Place::Shared, rename, no).is_err());
    }
}
