//! Eviction order of the files of one tier: one trait, one file per published algorithm.
//!
//! Policies are pure: they see uses and weights, never a clock, a device or a page. The order is by
//! file, because reads that the kernel passes through are invisible here: only opens are seen.

mod lfu;
mod list;
mod lru;
mod s3fifo;

use crate::PolicyKind;
use forebay_types::FileId;

/// Most files that one call of [`Policy::victims`] looks at: the lock that it runs under is also on
/// the path of opens.
const VISITS: usize = 1024;

/// What a policy proposes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Victims {
    /// Files to go, first one first. The policy has forgotten them.
    pub(crate) files: Vec<FileId>,
    /// Whether another call may find more.
    pub(crate) more: bool,
}

/// The order in which the files of a tier go.
pub(crate) trait Policy: Send {
    /// Takes a file in, or changes its weight in bytes.
    fn weigh(&mut self, id: FileId, weight: u64);

    /// The file was used. Files it does not know are ignored.
    fn touch(&mut self, id: FileId);

    /// The file is gone for another reason than eviction.
    fn remove(&mut self, id: FileId);

    /// Files whose weights add up to `need` bytes or more, if there are such. A file that `may_go`
    /// refuses is in use: it is treated as just used.
    fn victims(&mut self, need: u64, may_go: &mut dyn FnMut(FileId) -> bool) -> Victims;

    /// Takes back a victim that lost only some of its pages: it is first in line next time.
    fn spare(&mut self, id: FileId, weight: u64);

    /// How many files it knows.
    fn len(&self) -> usize;

    /// The queues, victims last, for tests.
    #[cfg(test)]
    fn dump(&self) -> String;
}

/// An empty policy of a kind.
pub(crate) fn new(kind: PolicyKind) -> Box<dyn Policy> {
    match kind {
        PolicyKind::Lru => Box::new(lru::Lru::default()),
        PolicyKind::Lfu => Box::new(lfu::Lfu::default()),
        PolicyKind::S3Fifo => Box::new(s3fifo::S3Fifo::default()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use forebay_types::{ContentVersion, Ino};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(crate) fn id(ino: u64) -> FileId {
        FileId {
            ino: Ino(ino),
            version: ContentVersion(1),
        }
    }

    pub(crate) fn inos(victims: &Victims) -> Vec<u64> {
        victims.files.iter().map(|id| id.ino.0).collect()
    }

    const KINDS: [PolicyKind; 3] = [PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::S3Fifo];

    #[test]
    fn files_in_use_never_go() {
        for kind in KINDS {
            let mut policy = new(kind);
            for ino in 1..=5 {
                policy.weigh(id(ino), 10);
            }
            let victims = policy.victims(1000, &mut |file| file != id(3));
            let mut gone = inos(&victims);
            gone.sort_unstable();
            assert_eq!(gone, [1, 2, 4, 5], "{kind:?}");
            assert_eq!(policy.len(), 1);
            assert!(policy.victims(1, &mut |_| false).files.is_empty());
            assert_eq!(inos(&policy.victims(1, &mut |_| true)), [3], "{kind:?}");
        }
    }

    #[test]
    fn a_spared_victim_is_first_next_time() {
        for kind in KINDS {
            let mut policy = new(kind);
            for ino in 1..=4 {
                policy.weigh(id(ino), 10);
            }
            let first = policy.victims(5, &mut |_| true).files[0];
            policy.spare(first, 5);
            assert_eq!(policy.victims(1, &mut |_| true).files, [first], "{kind:?}");
        }
    }

    #[test]
    fn a_call_looks_at_a_bounded_number_of_files() {
        for kind in KINDS {
            let mut policy = new(kind);
            for ino in 0..10_000 {
                policy.weigh(id(ino), 10);
            }
            let mut asked = 0;
            let victims = policy.victims(u64::MAX, &mut |_| {
                asked += 1;
                false
            });
            assert!(asked <= VISITS && victims.more, "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_taken_in_goes_exactly_once(
            kind in prop::sample::select(KINDS.to_vec()),
            ops in prop::collection::vec((0u8..6, 0u64..12, 1u64..100), 0..200),
        ) {
            let mut policy = new(kind);
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            for (op, ino, weight) in ops {
                match op {
                    0 | 1 => {
                        policy.weigh(id(ino), weight);
                        model.insert(ino, weight);
                    }
                    2 | 3 => policy.touch(id(ino)),
                    4 => {
                        policy.remove(id(ino));
                        model.remove(&ino);
                    }
                    _ => {
                        let victims = policy.victims(weight, &mut |file| file.ino.0 != 5);
                        let mut sum = 0;
                        for victim in inos(&victims) {
                            prop_assert!(victim != 5);
                            prop_assert!(sum < weight, "took more than needed");
                            sum += model.remove(&victim).expect("a victim is known");
                        }
                        let rest = model.keys().filter(|ino| **ino != 5).count();
                        prop_assert!(sum >= weight || rest == 0 || victims.more);
                    }
                }
                prop_assert_eq!(policy.len(), model.len());
            }
        }
    }
}
