//! Open directories: a snapshot each, and what the kernel may still have cached of them.

use forebay_client::Listing;
use forebay_types::{Attr, FileKind, Ino};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
};

/// Directories of which we remember what the kernel was given.
const REMEMBERED: usize = 16_384;

/// A row of a directory, with the offset of the next one.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Where to go on after this row.
    pub next: u64,
    /// The inode.
    pub ino: Ino,
    /// File or directory.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
    /// Attributes; none for `.` and `..`.
    pub attr: Option<&'a Attr>,
}

/// The rows of a listing from `offset` on: `.`, `..`, then the names. Offsets are positions, and the
/// snapshot never changes, so they are stable. `root` is shown as [`Ino::ROOT`], and as its own parent.
pub fn rows(listing: &Listing, root: Ino, offset: u64) -> impl Iterator<Item = Row<'_>> {
    let (dir, parent) = (listing.directory.ino, listing.parent);
    let outer = |ino| if ino == root { Ino::ROOT } else { ino };
    let parent = if dir == root { dir } else { parent };
    let dots = [(outer(dir), &b"."[..]), (outer(parent), &b".."[..])];
    let dots = dots
        .into_iter()
        .map(|(ino, name)| (ino, FileKind::Directory, name, None));
    let names = listing.entries.iter();
    let names = names.map(|(name, attr)| (attr.ino, attr.kind, name.as_bytes(), Some(attr)));
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    // `skip` over a chain of exact iterators is a jump, not a walk.
    let (skip_dots, skip_names) = (start.min(2), start.saturating_sub(2));
    let rows = dots.skip(skip_dots).chain(names.skip(skip_names));
    rows.zip(offset + 1..)
        .map(|((ino, kind, name, attr), next)| Row {
            next,
            ino,
            kind,
            name,
            attr,
        })
}

/// Directories that are open.
pub struct Directories {
    open: Mutex<Open>,
    handed_out: Cache<Ino, Weak<Listing>>,
}

struct Open {
    last: u64,
    snapshots: HashMap<u64, Arc<Listing>>,
}

impl Default for Directories {
    fn default() -> Directories {
        Directories {
            open: Mutex::new(Open {
                // Handles of a predecessor, which the kernel may still hold, are others.
                last: RandomState::new().hash_one(0) >> 1,
                snapshots: HashMap::new(),
            }),
            handed_out: Cache::new(REMEMBERED),
        }
    }
}

impl Directories {
    /// Opens a snapshot; returns its handle, and whether what the kernel may have cached of the
    /// directory is this very snapshot.
    pub fn open(&self, listing: Arc<Listing>) -> (u64, bool) {
        let dir = listing.directory.ino;
        let now = Arc::downgrade(&listing);
        let same = self
            .handed_out
            .get(&dir)
            .is_some_and(|before| before.ptr_eq(&now));
        if !same {
            self.handed_out.insert(dir, now);
        }
        let mut open = self.open.lock();
        open.last += 1;
        let handle = open.last;
        open.snapshots.insert(handle, listing);
        (handle, same)
    }

    /// The snapshot of a handle.
    pub fn get(&self, handle: u64) -> Option<Arc<Listing>> {
        self.open.lock().snapshots.get(&handle).cloned()
    }

    /// A handle of a predecessor has this snapshot now.
    pub fn resume(&self, handle: u64, listing: Arc<Listing>) {
        self.open.lock().snapshots.insert(handle, listing);
    }

    /// Closes a handle.
    pub fn close(&self, handle: u64) {
        self.open.lock().snapshots.remove(&handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, Name};

    fn attr(ino: u64, kind: FileKind) -> Attr {
        let version = ContentVersion(1);
        Attr {
            ino: Ino(ino),
            kind,
            size: 0,
            mtime_ns: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            version,
        }
    }

    fn listing() -> Listing {
        let file = |n: &'static str, ino| (Name::new(n).unwrap(), attr(ino, FileKind::File));
        Listing {
            directory: attr(5, FileKind::Directory),
            parent: Ino(1),
            entries: vec![file("a", 6), file("b", 7)],
        }
    }

    #[test]
    fn a_listing_can_be_read_in_pieces_of_any_size() {
        let listing = listing();
        let all: Vec<_> = rows(&listing, Ino::ROOT, 0)
            .map(|r| (r.ino.0, r.name.to_vec(), r.next))
            .collect();
        let want = [
            (5, b".".to_vec(), 1),
            (1, b"..".to_vec(), 2),
            (6, b"a".to_vec(), 3),
        ];
        assert_eq!(all[..3], want);
        for from in 0..=5 {
            let rest: Vec<u64> = rows(&listing, Ino::ROOT, from).map(|r| r.next).collect();
            assert_eq!(rest, (from + 1..=4).collect::<Vec<_>>());
        }
        assert_eq!(rows(&listing, Ino::ROOT, u64::MAX - 1).count(), 0);
    }

    #[test]
    fn the_kernel_may_keep_its_cache_only_of_the_same_snapshot() {
        let directories = Directories::default();
        let first = Arc::new(listing());
        assert!(!directories.open(first.clone()).1);
        assert!(directories.open(first).1);
        let second = Arc::new(listing());
        let (handle, same) = directories.open(second.clone());
        assert!(!same && Arc::ptr_eq(&directories.get(handle).unwrap(), &second));
        directories.close(handle);
        assert!(directories.get(handle).is_none());
    }
}
