//! The last changes of the namespace, so that an answer that was asked for before a change and
//! arrives after it is not taken for the truth. Pure.

use forebay_types::{Ino, Name};
use std::collections::VecDeque;

/// Changes remembered; a question older than all of them is taken to be affected.
const REMEMBERED: usize = 4096;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A name in a directory, and the directory's listing.
    Entry(Ino, Name),
    /// An inode's attributes.
    Inode(Ino),
}

/// A window over the sequence of changes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    next: u64,
    recent: VecDeque<Change>,
}

impl Changes {
    /// A mark: everything before it is known.
    pub(crate) fn mark(&self) -> u64 {
        self.next
    }

    /// Records a change.
    pub(crate) fn push(&mut self, change: Change) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(change);
        self.next += 1;
    }

    /// Everything may have changed.
    pub(crate) fn push_all(&mut self) {
        self.recent.clear();
        self.next += 1;
    }

    /// Whether a change since `mark` is among those that `affects` picks, or may be.
    pub(crate) fn any_since(&self, mark: u64, affects: impl Fn(&Change) -> bool) -> bool {
        let since = (self.next - mark) as usize;
        since > self.recent.len() || self.recent.iter().rev().take(since).any(affects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(n: u64) -> impl Fn(&Change) -> bool {
        move |c| *c == Change::Inode(Ino(n))
    }

    #[test]
    fn only_later_changes_count() {
        let mut changes = Changes::default();
        changes.push(Change::Inode(Ino(1)));
        let mark = changes.mark();
        assert!(!changes.any_since(mark, inode(1)));
        changes.push(Change::Inode(Ino(2)));
        assert!(!changes.any_since(mark, inode(1)));
        assert!(changes.any_since(mark, inode(2)));
    }

    #[test]
    fn what_is_no_longer_remembered_counts_as_changed() {
        let mut changes = Changes::default();
        let mark = changes.mark();
        for _ in 0..=REMEMBERED {
            changes.push(Change::Inode(Ino(2)));
        }
        assert!(changes.any_since(mark, inode(1)));
        let mark = changes.mark();
        changes.push_all();
        assert!(changes.any_since(mark, inode(1)));
        assert!(!changes.any_since(changes.mark(), inode(1)));
    }
}
