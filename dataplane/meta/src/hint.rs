//! Where names led when they were last asked for: a memory of edges that is never told of changes.
//! Whoever is told an inode looks whether its own row still says so; each inode has one place.
//!
//! Because a wrong answer is found out, it takes eight bytes to keep one: sixteen bits of the name's
//! hash and the number of the inode. So the names of many more inodes than rows fit into memory, and
//! a lookup whose row is not there reads one block of the store instead of two.

use forebay_types::{Ino, Name};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

/// Names with the same place: as many as share a line of the processor's cache.
const WAYS: usize = 8;

/// Bits of an inode's number; larger ones are not kept.
const INO_BITS: u32 = 48;

/// Names in memory, bounded in bytes.
pub(crate) struct Hints {
    /// Groups of [`WAYS`]; zero: free. All of it is taken at the start.
    slots: Box<[AtomicU64]>,
}

impl Hints {
    pub(crate) fn new(bytes: u64) -> Hints {
        let groups = (bytes as usize / size_of::<[AtomicU64; WAYS]>()).max(1);
        let slots = vec![0_u64; groups * WAYS];
        Hints {
            slots: slots.into_iter().map(AtomicU64::new).collect(),
        }
    }

    /// Where a name led, perhaps long ago; or where another one did.
    pub(crate) fn get(&self, dir: Ino, name: &Name) -> Option<Ino> {
        let (group, tag) = self.place(dir, name);
        let found = group
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed))
            .find(|slot| *slot != 0 && slot >> INO_BITS == tag)?;
        Some(Ino(found & ((1 << INO_BITS) - 1)))
    }

    pub(crate) fn put(&self, dir: Ino, name: &Name, ino: Ino) {
        if ino.0 >> INO_BITS != 0 {
            return;
        }
        let (group, tag) = self.place(dir, name);
        let slots = group.iter().map(|slot| slot.load(Ordering::Relaxed));
        let known = slots
            .clone()
            .position(|slot| slot != 0 && slot >> INO_BITS == tag);
        let at = known
            .or_else(|| slots.clone().position(|slot| slot == 0))
            // Any of them: numbers are as good as dice.
            .unwrap_or(ino.0 as usize % WAYS);
        group[at].store(tag << INO_BITS | ino.0, Ordering::Relaxed);
    }

    /// The slots in which a name can be, and its tag.
    fn place(&self, dir: Ino, name: &Name) -> (&[AtomicU64], u64) {
        let mut hasher = DefaultHasher::new();
        dir.hash(&mut hasher);
        name.hash(&mut hasher);
        let hash = hasher.finish();
        let groups = self.slots.len() / WAYS;
        let group = (hash % groups as u64) as usize * WAYS;
        (&self.slots[group..group + WAYS], hash >> INO_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        Name::new(number.to_string()).unwrap()
    }

    #[test]
    fn it_keeps_nearly_as_many_names_as_fit_and_forgets_others() {
        let hints = Hints::new(80_000);
        let right = |names: u64| {
            let right = |ino: &u64| hints.get(Ino(1), &name(*ino)) == Some(Ino(*ino));
            (0..names).filter(right).count()
        };
        for ino in 0..5_000 {
            hints.put(Ino(1), &name(ino), Ino(ino));
        }
        assert!(right(5_000) > 4_900, "{}", right(5_000));
        for ino in 0..50_000 {
            hints.put(Ino(1), &name(ino), Ino(ino));
        }
        let kept = right(50_000);
        assert!((9_000..=10_000).contains(&kept), "{kept}");
    }

    #[test]
    fn the_last_word_counts_and_numbers_too_large_are_left_out() {
        let hints = Hints::new(100);
        hints.put(Ino(1), &name(7), Ino(7));
        hints.put(Ino(1), &name(7), Ino(8));
        assert_eq!(hints.get(Ino(1), &name(7)), Some(Ino(8)));
        assert_eq!(hints.get(Ino(2), &name(7)), None);
        hints.put(Ino(2), &name(7), Ino(u64::MAX));
        assert_eq!(hints.get(Ino(2), &name(7)), None);
    }
}
