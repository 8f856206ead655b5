//! What a listing changes in a directory. Pure: the caller feeds entries as they arrive, in any
//! order, and proposes what comes out.
//!
//! Memory is bounded: names are remembered as 128-bit hashes (about 20 to 35 bytes a name), and
//! problems only up to [`PROBLEMS_MAX`] of a directory.

use crate::naming::Named;
use bytes::Bytes;
use forebay_meta::{Problem, ProblemReason, UfsEntry, UfsKind};
use forebay_types::{Fingerprint, Name};
use std::{
    collections::{BTreeMap, HashMap, btree_map, hash_map},
    hash::{BuildHasherDefault, Hasher},
};
use xxhash_rust::xxh3::xxh3_128;

/// Most problems recorded of one directory; the rest is counted.
pub(crate) const PROBLEMS_MAX: usize = 10_000;

/// What the tree has under a name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Nothing.
    Absent,
    /// A directory.
    Directory,
    /// A file with this content and modification time.
    File(Fingerprint, i64),
}

/// Why a name is not the under store's to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// It is a mount point: whatever the under store has there is hidden.
    MountPoint,
    /// It leads to a mount point: a directory of the under store may lie there, a file is hidden.
    AboveMountPoint,
}

/// The comparison of one directory with its listing, under way.
pub(crate) struct Diff {
    prefix: Bytes,
    protected: BTreeMap<Name, Protection>,
    seen: HashMap<u128, Kind, BuildHasherDefault<Folded>>,
    /// Files whose names are directories now: whether the file replaces the directory or is
    /// hidden by it shows only later in the listing.
    undecided: BTreeMap<Name, UfsEntry>,
    problems: Vec<Problem>,
    more_problems: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

/// The keys are hashes already.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

impl Diff {
    /// The listing of `prefix` begins.
    pub(crate) fn new(prefix: Bytes, protected: BTreeMap<Name, Protection>) -> Diff {
        Diff {
            prefix,
            protected,
            seen: HashMap::default(),
            undecided: BTreeMap::new(),
            problems: Vec::new(),
            more_problems: 0,
        }
    }

    /// Takes in a piece of the listing; what must be proposed goes to `changed`, in an order that
    /// must be kept. `existing` tells what the tree has.
    pub(crate) fn take<E>(
        &mut self,
        named: Named,
        mut existing: impl FnMut(&Name) -> Result<Existing, E>,
        changed: &mut Vec<UfsEntry>,
    ) -> Result<(), E> {
        for problem in named.problems {
            self.problem(problem);
        }
        for entry in named.entries {
            match entry.kind {
                UfsKind::File { .. } => self.take_file(entry, &mut existing, changed)?,
                UfsKind::Directory { .. } => self.take_directory(entry, &mut existing, changed)?,
            }
        }
        Ok(())
    }

    fn take_file<E>(
        &mut self,
        entry: UfsEntry,
        existing: &mut impl FnMut(&Name) -> Result<Existing, E>,
        changed: &mut Vec<UfsEntry>,
    ) -> Result<(), E> {
        if self.protected.contains_key(&entry.name) {
            self.hidden(&entry.name, b"", ProblemReason::HiddenByMount);
            return Ok(());
        }
        match self.seen.entry(hash(&entry.name)) {
            hash_map::Entry::Occupied(earlier) => {
                if *earlier.get() == Kind::Directory {
                    self.hidden(&entry.name, b"", ProblemReason::HiddenByDirectory);
                }
                return Ok(());
            }
            hash_map::Entry::Vacant(place) => {
                place.insert(Kind::File);
            }
        }
        match (existing(&entry.name)?, &entry.kind) {
            (
                Existing::File(old, old_ns),
                UfsKind::File {
                    fingerprint,
                    mtime_ns,
                },
            ) if old == *fingerprint && old_ns == *mtime_ns => {}
            (Existing::Directory, _) => {
                self.undecided.insert(entry.name.clone(), entry);
            }
            _ => changed.push(entry),
        }
        Ok(())
    }

    fn take_directory<E>(
        &mut self,
        entry: UfsEntry,
        existing: &mut impl FnMut(&Name) -> Result<Existing, E>,
        changed: &mut Vec<UfsEntry>,
    ) -> Result<(), E> {
        let protection = self.protected.get(&entry.name).copied();
        if protection == Some(Protection::MountPoint) {
            self.hidden(&entry.name, b"/", ProblemReason::HiddenByMount);
            return Ok(());
        }
        match self.seen.insert(hash(&entry.name), Kind::Directory) {
            Some(Kind::Directory) => return Ok(()),
            Some(Kind::File) => {
                self.undecided.remove(&entry.name);
                self.hidden(&entry.name, b"", ProblemReason::HiddenByDirectory);
            }
            None => {}
        }
        // A directory made on the way to a mount point must learn that the store has it, too.
        if protection.is_some() || existing(&entry.name)? != Existing::Directory {
            changed.push(entry);
        }
        Ok(())
    }

    /// The listing is complete: files that replace directories.
    pub(crate) fn decide(&mut self) -> Vec<UfsEntry> {
        std::mem::take(&mut self.undecided).into_values().collect()
    }

    /// Once the listing is complete: whether a name that the tree has is gone.
    pub(crate) fn is_gone(&self, name: &Name) -> bool {
        !self.protected.contains_key(name) && !self.seen.contains_key(&hash(name))
    }

    /// The problems to record, in the order of keys, and how many more there were.
    pub(crate) fn into_problems(mut self) -> (Vec<Problem>, u64) {
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        self.problems.dedup();
        (self.problems, self.more_problems)
    }

    fn hidden(&mut self, name: &Name, slash: &[u8], reason: ProblemReason) {
        let key = [&self.prefix, name.as_bytes(), slash].concat().into();
        self.problem(Problem { key, reason });
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.more_problems += 1;
        }
    }
}

/// The names of the directory at `dir` (absolute, normalised) that are mount points or lead to
/// one.
pub(crate) fn protected<'a>(
    dir: &[u8],
    mount_paths: impl Iterator<Item = &'a str>,
) -> BTreeMap<Name, Protection> {
    let mut names = BTreeMap::new();
    for path in mount_paths {
        let Some(rest) = path.as_bytes().strip_prefix(dir) else {
            continue;
        };
        // The root's own path is its separator too.
        let rest = match rest.strip_prefix(b"/") {
            Some(rest) => rest,
            None if dir == b"/" => rest,
            None => continue,
        };
        let mut segments = rest.splitn(2, |b| *b == b'/');
        let Some(Ok(name)) = segments.next().map(|s| Name::new(s.to_vec())) else {
            continue;
        };
        let protection = match segments.next() {
            None => Protection::MountPoint,
            Some(_) => Protection::AboveMountPoint,
        };
        match names.entry(name) {
            btree_map::Entry::Vacant(place) => {
                place.insert(protection);
            }
            btree_map::Entry::Occupied(mut place) if protection == Protection::MountPoint => {
                place.insert(protection);
            }
            btree_map::Entry::Occupied(_) => {}
        }
    }
    names
}

/// 128 bits: that two of 10^9 names meet is less likely than 10^-20.
fn hash(name: &Name) -> u128 {
    xxh3_128(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    type Tree = BTreeMap<Name, Existing>;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes().to_vec()).unwrap()
    }

    fn print(etag: u64) -> Fingerprint {
        Fingerprint {
            size: etag,
            mtime_ns: 0,
            etag: etag.to_string(),
        }
    }

    fn file(text: &str, etag: u64) -> UfsEntry {
        let kind = UfsKind::File {
            fingerprint: print(etag),
            mtime_ns: 0,
        };
        UfsEntry {
            name: name(text),
            kind,
        }
    }

    fn directory(text: &str) -> UfsEntry {
        UfsEntry {
            name: name(text),
            kind: UfsKind::Directory { mtime_ns: 0 },
        }
    }

    /// Runs a whole sync against `tree`, a piece per entry; returns the changes and the problems.
    fn run(
        tree: &mut Tree,
        protected: BTreeMap<Name, Protection>,
        listing: &[UfsEntry],
    ) -> (Vec<UfsEntry>, Vec<Problem>) {
        let mut diff = Diff::new(Bytes::from_static(b"d/"), protected);
        let mut all = Vec::new();
        for entry in listing {
            let mut changed = Vec::new();
            let named = Named {
                entries: vec![entry.clone()],
                problems: vec![],
            };
            let look =
                |n: &Name| Ok::<_, Infallible>(tree.get(n).cloned().unwrap_or(Existing::Absent));
            diff.take(named, look, &mut changed).unwrap();
            apply(tree, &changed);
            all.extend(changed);
        }
        let decided = diff.decide();
        apply(tree, &decided);
        all.extend(decided);
        tree.retain(|n, _| !diff.is_gone(n));
        (all, diff.into_problems().0)
    }

    fn apply(tree: &mut Tree, changed: &[UfsEntry]) {
        for entry in changed {
            let existing = match &entry.kind {
                UfsKind::File {
                    fingerprint,
                    mtime_ns,
                } => Existing::File(fingerprint.clone(), *mtime_ns),
                UfsKind::Directory { .. } => Existing::Directory,
            };
            tree.insert(entry.name.clone(), existing);
        }
    }

    #[test]
    fn only_changed_and_new_entries_come_out() {
        let mut tree = Tree::new();
        let first = [file("a", 1), file("b", 1), directory("c")];
        assert_eq!(run(&mut tree, BTreeMap::new(), &first).0, first);
        assert_eq!(run(&mut tree, BTreeMap::new(), &first).0, []);
        let second = [file("a", 2), directory("c"), file("n", 1)];
        let (changed, _) = run(&mut tree, BTreeMap::new(), &second);
        assert_eq!(changed, [file("a", 2), file("n", 1)]);
        assert!(!tree.contains_key(&name("b")));
    }

    #[test]
    fn a_directory_hides_an_object_of_its_name_in_whatever_order_they_come() {
        for listing in [
            [file("a", 1), directory("a")],
            [directory("a"), file("a", 1)],
        ] {
            let mut tree = Tree::new();
            for round in 0..2 {
                let (changed, problems) = run(&mut tree, BTreeMap::new(), &listing);
                assert_eq!(tree[&name("a")], Existing::Directory);
                assert_eq!(problems.len(), 1);
                assert_eq!(problems[0].key.as_ref(), b"d/a");
                assert_eq!(problems[0].reason, ProblemReason::HiddenByDirectory);
                if round == 1 {
                    assert_eq!(
                        changed,
                        [],
                        "the directory must not be replaced and made again"
                    );
                }
            }
        }
    }

    #[test]
    fn a_file_replaces_a_directory_that_is_gone() {
        let mut tree = Tree::from([(name("a"), Existing::Directory)]);
        let (changed, problems) = run(&mut tree, BTreeMap::new(), &[file("a", 1)]);
        assert_eq!(changed, [file("a", 1)]);
        assert_eq!(problems, []);
    }

    #[test]
    fn mount_points_stay_whatever_the_store_has() {
        let guard = protected(b"/d", ["/", "/d/m", "/d/up/x", "/e/m", "/dd"].into_iter());
        let names: Vec<String> = guard.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["m", "up"]);
        let mut tree = Tree::from([
            (name("m"), Existing::Directory),
            (name("up"), Existing::Directory),
        ]);
        let listing = [file("m", 1), directory("m"), file("up", 1)];
        let (changed, problems) = run(&mut tree, guard.clone(), &listing);
        assert_eq!(changed, []);
        assert_eq!(problems.len(), 3);
        assert!(
            problems
                .iter()
                .all(|p| p.reason == ProblemReason::HiddenByMount)
        );
        assert_eq!(run(&mut tree, guard, &[]), (vec![], vec![]));
        assert_eq!(tree.len(), 2);
    }

    #[test]
    fn protection_of_the_root_and_of_a_mount_within_a_mount() {
        let guard = protected(b"/", ["/", "/a/b", "/a", "/c"].into_iter());
        assert_eq!(guard[&name("a")], Protection::MountPoint);
        assert_eq!(guard[&name("c")], Protection::MountPoint);
        assert_eq!(guard.len(), 2);
    }

    proptest! {
        /// Any tree, any listing in any order: the tree becomes what the listing says, with
        /// directories before files.
        #[test]
        fn the_tree_becomes_the_listing(
            before in proptest::collection::btree_map(0u8..8, 0u64..4, 0..8),
            after in proptest::collection::vec((0u8..8, 0u64..4), 0..16),
        ) {
            let text = |n: u8| format!("n{n}");
            let kind = |k: u64| if k == 0 { Existing::Directory } else { Existing::File(print(k), 0) };
            let mut tree: Tree = before.iter().map(|(n, k)| (name(&text(*n)), kind(*k))).collect();
            // A store has one object a key: the first counts.
            let mut want = Tree::new();
            let mut listing = Vec::new();
            for (n, k) in &after {
                let n = text(*n);
                let entry = if *k == 0 { directory(&n) } else { file(&n, *k) };
                listing.push(entry);
                let old = want.get(&name(&n)).cloned();
                if old.is_none() || *k == 0 {
                    want.insert(name(&n), kind(*k));
                }
            }
            run(&mut tree, BTreeMap::new(), &listing);
            prop_assert_eq!(tree, want);
        }
    }
}
