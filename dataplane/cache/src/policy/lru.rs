//! Least recently used.

use super::{
    Policy, VISITS, Victims,
    list::{Arena, List},
};
use crate::map::FileMap;
use forebay_types::FileId;

/// One queue, last used first.
#[derive(Default)]
pub(super) struct Lru {
    arena: Arena,
    queue: List,
    nodes: FileMap<u32>,
}

impl Policy for Lru {
    fn weigh(&mut self, id: FileId, weight: u64) {
        if let Some(at) = self.nodes.get(&id) {
            self.queue.weigh(&mut self.arena, *at, weight);
            return;
        }
        let at = self.arena.add(id, weight);
        self.nodes.insert(id, at);
        self.queue.push_front(&mut self.arena, at);
    }

    fn touch(&mut self, id: FileId) {
        if let Some(at) = self.nodes.get(&id) {
            self.queue.remove(&mut self.arena, *at);
            self.queue.push_front(&mut self.arena, *at);
        }
    }

    fn remove(&mut self, id: FileId) {
        if let Some(at) = self.nodes.remove(&id) {
            self.queue.remove(&mut self.arena, at);
            self.arena.free(at);
        }
    }

    fn victims(&mut self, need: u64, may_go: &mut dyn FnMut(FileId) -> bool) -> Victims {
        let mut victims = Victims::default();
        let mut got = 0;
        let visits = self.nodes.len().min(VISITS);
        victims.more = self.nodes.len() > visits;
        for _ in 0..visits {
            if got >= need {
                break;
            }
            let at = self.queue.back().expect("a queue with nodes has a back");
            let (id, weight) = (self.arena.at(at).id, self.arena.at(at).weight);
            if may_go(id) {
                self.remove(id);
                got += weight;
                victims.files.push(id);
            } else {
                self.touch(id);
            }
        }
        victims
    }

    fn spare(&mut self, id: FileId, weight: u64) {
        self.remove(id);
        let at = self.arena.add(id, weight);
        self.nodes.insert(id, at);
        self.queue.push_back(&mut self.arena, at);
    }

    fn len(&self) -> usize {
        self.nodes.len()
    }

    #[cfg(test)]
    fn dump(&self) -> String {
        self.queue.dump(&self.arena)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{id, inos};

    #[test]
    fn the_one_used_longest_ago_goes_first() {
        let mut lru = Lru::default();
        for ino in 1..=4 {
            lru.weigh(id(ino), 10);
        }
        assert_eq!(lru.dump(), "4 3 2 1");
        lru.touch(id(1));
        lru.touch(id(3));
        assert_eq!(lru.dump(), "3 1 4 2");
        assert_eq!(inos(&lru.victims(15, &mut |_| true)), [2, 4]);
        assert_eq!(lru.dump(), "3 1");
    }

    #[test]
    fn a_growing_file_keeps_its_place_and_counts_with_its_new_weight() {
        let mut lru = Lru::default();
        lru.weigh(id(1), 10);
        lru.weigh(id(2), 10);
        lru.weigh(id(1), 100);
        assert_eq!(lru.dump(), "2 1");
        assert_eq!(inos(&lru.victims(100, &mut |_| true)), [1]);
    }

    #[test]
    fn a_refused_file_counts_as_used() {
        let mut lru = Lru::default();
        for ino in 1..=3 {
            lru.weigh(id(ino), 10);
        }
        assert_eq!(inos(&lru.victims(10, &mut |file| file != id(1))), [2]);
        assert_eq!(lru.dump(), "1 3");
    }
}
