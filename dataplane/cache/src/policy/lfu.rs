//! Least frequently used with dynamic aging: LFU-DA (Arlitt, Cherkasova, Dilley, Friedrich, Jin:
//! Evaluating Content Management Techniques for Web Proxy Caches, 2000). The key of a file is its number of
//! uses plus the key of the last victim at its last use: files that were popular long ago go down
//! without anybody visiting them.

use super::{Policy, VISITS, Victims};
use crate::map::FileMap;
use forebay_types::FileId;
use std::collections::BTreeSet;

struct Entry {
    key: u64,
    /// Among equal keys the one used longest ago goes first.
    tick: u64,
    uses: u32,
    weight: u64,
}

/// Files in order of their keys.
#[derive(Default)]
pub(super) struct Lfu {
    order: BTreeSet<(u64, u64, FileId)>,
    entries: FileMap<Entry>,
    age: u64,
    ticks: u64,
}

impl Lfu {
    fn insert(&mut self, id: FileId, entry: Entry) {
        self.order.insert((entry.key, entry.tick, id));
        self.entries.insert(id, entry);
    }
}

impl Policy for Lfu {
    fn weigh(&mut self, id: FileId, weight: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.weight = weight;
            return;
        }
        self.ticks += 1;
        let entry = Entry {
            key: self.age + 1,
            tick: self.ticks,
            uses: 1,
            weight,
        };
        self.insert(id, entry);
    }

    fn touch(&mut self, id: FileId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        self.ticks += 1;
        self.order.remove(&(entry.key, entry.tick, id));
        entry.uses = entry.uses.saturating_add(1);
        entry.key = self.age + u64::from(entry.uses);
        entry.tick = self.ticks;
        self.order.insert((entry.key, entry.tick, id));
    }

    fn remove(&mut self, id: FileId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.order.remove(&(entry.key, entry.tick, id));
        }
    }

    fn victims(&mut self, need: u64, may_go: &mut dyn FnMut(FileId) -> bool) -> Victims {
        let mut victims = Victims::default();
        let mut got = 0;
        let mut in_use = Vec::new();
        for _ in 0..VISITS {
            if got >= need {
                break;
            }
            let Some((key, _, id)) = self.order.pop_first() else {
                break;
            };
            if may_go(id) {
                let entry = self
                    .entries
                    .remove(&id)
                    .expect("ordered files have entries");
                self.age = key;
                got += entry.weight;
                victims.files.push(id);
            } else {
                in_use.push(id);
            }
        }
        victims.more = !self.order.is_empty();
        for id in in_use {
            self.touch(id);
        }
        victims
    }

    fn spare(&mut self, id: FileId, weight: u64) {
        self.remove(id);
        let entry = Entry {
            key: 0,
            tick: 0,
            uses: 1,
            weight,
        };
        self.insert(id, entry);
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    fn dump(&self) -> String {
        let words: Vec<String> = self
            .order
            .iter()
            .rev()
            .map(|(key, _, id)| format!("{}@{key}", id.ino))
            .collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{id, inos};

    #[test]
    fn the_least_used_goes_first_and_the_older_of_equals() {
        let mut lfu = Lfu::default();
        for ino in 1..=4 {
            lfu.weigh(id(ino), 10);
        }
        lfu.touch(id(1));
        lfu.touch(id(1));
        lfu.touch(id(3));
        assert_eq!(lfu.dump(), "1@3 3@2 4@1 2@1");
        assert_eq!(inos(&lfu.victims(25, &mut |_| true)), [2, 4, 3]);
    }

    #[test]
    fn what_was_popular_long_ago_gives_way() {
        let mut lfu = Lfu::default();
        lfu.weigh(id(1), 10);
        for _ in 0..4 {
            lfu.touch(id(1));
        }
        // A stream of files used twice each: every victim raises the age, so that newcomers
        // overtake the file that nobody has used since.
        let mut gone = Vec::new();
        for ino in 2..12 {
            lfu.weigh(id(ino), 10);
            lfu.touch(id(ino));
            if lfu.len() > 3 {
                gone.extend(inos(&lfu.victims(1, &mut |_| true)));
            }
        }
        assert!(gone.contains(&1), "{gone:?}");
        assert_ne!(gone[0], 1);
    }
}
