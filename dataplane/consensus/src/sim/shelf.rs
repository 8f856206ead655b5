//! The checkpoints that nodes serve to each other.

use super::checker::Time;
use forebay_kv::Batch;
use std::{collections::BTreeMap, sync::Arc};

/// A checkpoint: all rows of a state.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) rows: Arc<Batch>,
    /// Who serves it.
    pub(crate) owner: u64,
    /// When somebody last fetched from it.
    pub(crate) used: Time,
}

/// All of them, by id.
#[derive(Default)]
pub(crate) struct Shelf {
    copies: BTreeMap<String, Copy>,
    taken: u64,
}

impl Shelf {
    /// Puts a copy there; returns its id.
    pub(crate) fn put(&mut self, owner: u64, rows: Batch, now: Time) -> String {
        self.taken += 1;
        let id = format!("{owner}-{}", self.taken);
        let copy = Copy {
            rows: Arc::new(rows),
            owner,
            used: now,
        };
        self.copies.insert(id.clone(), copy);
        id
    }

    /// The copy `id`, if it is still there; it is used.
    pub(crate) fn fetch(&mut self, id: &str, now: Time) -> Option<Copy> {
        let copy = self.copies.get_mut(id)?;
        copy.used = now;
        Some(copy.clone())
    }

    /// Removes those of `owner` that `keep` does not want.
    pub(crate) fn clear(&mut self, owner: u64, keep: impl Fn(&str, Time) -> bool) {
        self.copies
            .retain(|id, copy| copy.owner != owner || keep(id, copy.used));
    }

    /// Whether `owner` serves any.
    pub(crate) fn serves(&self, owner: u64) -> bool {
        self.copies.values().any(|copy| copy.owner == owner)
    }

    /// How many were ever taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }
}
