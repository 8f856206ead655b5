//! What clients do: changes of names in one of two directories, and looks at them.

use forebay_types::{FileKind, Name};
use rand::{Rng, rngs::SmallRng};
use std::fmt;

/// A name; the few there are get used again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    pub(super) fn name(self) -> Name {
        Name::new(self.to_string()).expect("a letter and digits are a name")
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{:02}", self.0)
    }
}

/// A change of one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Make(FileKind, Slot),
    Rename {
        from: Slot,
        to: Slot,
        no_replace: bool,
    },
    /// Of a file or of a directory, as the client believes.
    Remove(FileKind, Slot),
}

impl Change {
    /// Any change of the names below `slots`, directories included.
    pub(super) fn any(slots: u16, rng: &mut SmallRng) -> Change {
        let kind = match rng.random_range(0..5) {
            0 => FileKind::Directory,
            _ => FileKind::File,
        };
        Change::of(kind, slots, rng.random(), rng)
    }

    /// A change that needs to know nothing of what others do at the same time.
    pub(super) fn contended(slots: u16, rng: &mut SmallRng) -> Change {
        Change::of(FileKind::File, slots, true, rng)
    }

    fn of(kind: FileKind, slots: u16, no_replace: bool, rng: &mut SmallRng) -> Change {
        let from = rng.random_range(0..slots);
        match rng.random_range(0..4) {
            0 => {
                // Another one.
                let to = Slot((from + rng.random_range(1..slots)) % slots);
                let from = Slot(from);
                Change::Rename {
                    from,
                    to,
                    no_replace,
                }
            }
            1 => Change::Remove(kind, Slot(from)),
            _ => Change::Make(kind, Slot(from)),
        }
    }

    /// The names that it is about.
    pub(super) fn slots(self) -> impl Iterator<Item = Slot> {
        let (one, other) = match self {
            Change::Make(_, slot) | Change::Remove(_, slot) => (slot, None),
            Change::Rename { from, to, .. } => (from, Some(to)),
        };
        [Some(one), other].into_iter().flatten()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Make(FileKind::File, slot) => write!(f, "create {slot}"),
            Change::Make(FileKind::Directory, slot) => write!(f, "mkdir {slot}"),
            Change::Rename {
                from,
                to,
                no_replace: true,
            } => write!(f, "rename {from} to {to}, replacing nothing"),
            Change::Rename { from, to, .. } => write!(f, "rename {from} to {to}"),
            Change::Remove(FileKind::File, slot) => write!(f, "remove {slot}"),
            Change::Remove(FileKind::Directory, slot) => write!(f, "rmdir {slot}"),
        }
    }
}

/// Which directory a change is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody else changes it.
    Own,
    /// All clients change it.
    Shared,
}

/// What a client does next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Change(Place, Change),
    /// A look at a name of its own.
    Look(Slot),
}
