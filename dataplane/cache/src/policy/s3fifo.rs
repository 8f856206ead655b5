//! S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: FIFO queues are all you need for cache eviction, SOSP
//! 2023): a small queue takes newcomers, so that files used once leave without disturbing the main
//! queue; a ghost queue remembers those that left, so that one that comes back goes to the main queue.
//!
//! Sizes are in bytes of present pages; the small queue's share is of what the tier holds now.

use super::{
    Policy, VISITS, Victims,
    list::{Arena, List},
};
use crate::map::{self, FileMap};
use forebay_types::FileId;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;

const SMALL: u8 = 0;
const MAIN: u8 = 1;

/// The small queue gives when it holds at least one part in this many.
const SMALL_SHARE: u64 = 10;

/// Uses are counted up to here.
const MAX_HITS: u8 = 3;

/// Files that left the small queue, as hashes of their keys: a collision costs a place in a queue.
#[derive(Default)]
struct Ghosts {
    order: VecDeque<u64>,
    known: HashSet<u64, BuildHasherDefault<map::IdHasher>>,
}

impl Ghosts {
    fn push(&mut self, id: FileId, most: usize) {
        let hash = map::hash(id);
        if self.known.insert(hash) {
            self.order.push_back(hash);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Whether the file was among them; its place in the order ages out.
    fn take(&mut self, id: FileId) -> bool {
        self.known.remove(&map::hash(id))
    }
}

/// The three queues.
#[derive(Default)]
pub(super) struct S3Fifo {
    arena: Arena,
    small: List,
    main: List,
    ghosts: Ghosts,
    nodes: FileMap<u32>,
}

impl S3Fifo {
    fn queue(&mut self, queue: u8) -> (&mut List, &mut Arena) {
        let list = if queue == SMALL {
            &mut self.small
        } else {
            &mut self.main
        };
        (list, &mut self.arena)
    }

    /// Moves a node to the front of the main queue.
    fn promote(&mut self, at: u32, hits: u8) {
        let from = self.arena.at(at).queue;
        let (list, arena) = self.queue(from);
        list.remove(arena, at);
        let node = arena.at_mut(at);
        node.queue = MAIN;
        node.hits = hits;
        self.main.push_front(&mut self.arena, at);
    }

    /// The node whose turn it is; `other`: of the queue whose turn it is not.
    fn turn(&self, other: bool) -> Option<u32> {
        let held = self.small.bytes + self.main.bytes;
        let small_gives = self.small.bytes.saturating_mul(SMALL_SHARE) >= held;
        if small_gives == other {
            self.main.back().or(self.small.back())
        } else {
            self.small.back().or(self.main.back())
        }
    }
}

impl Policy for S3Fifo {
    fn weigh(&mut self, id: FileId, weight: u64) {
        if let Some(at) = self.nodes.get(&id).copied() {
            let queue = self.arena.at(at).queue;
            let (list, arena) = self.queue(queue);
            list.weigh(arena, at, weight);
            return;
        }
        let at = self.arena.add(id, weight);
        self.nodes.insert(id, at);
        let queue = if self.ghosts.take(id) { MAIN } else { SMALL };
        let (list, arena) = self.queue(queue);
        arena.at_mut(at).queue = queue;
        list.push_front(arena, at);
    }

    fn touch(&mut self, id: FileId) {
        if let Some(at) = self.nodes.get(&id) {
            let node = self.arena.at_mut(*at);
            node.hits = (node.hits + 1).min(MAX_HITS);
        }
    }

    fn remove(&mut self, id: FileId) {
        if let Some(at) = self.nodes.remove(&id) {
            let queue = self.arena.at(at).queue;
            let (list, arena) = self.queue(queue);
            list.remove(arena, at);
            arena.free(at);
        }
    }

    fn victims(&mut self, need: u64, may_go: &mut dyn FnMut(FileId) -> bool) -> Victims {
        let mut victims = Victims::default();
        let mut got = 0;
        // A file may come round once for each of its hits, once as it leaves the small queue, once
        // to go, and once out of turn.
        let rounds = self.nodes.len() * (usize::from(MAX_HITS) + 3);
        let visits = rounds.min(VISITS);
        // After a file in use the other queue is asked: a queue full of such files must not stand
        // before one that has victims.
        let mut refused = false;
        for _ in 0..visits {
            if got >= need {
                break;
            }
            let Some(at) = self.turn(std::mem::take(&mut refused)) else {
                break;
            };
            let node = self.arena.at(at);
            let (id, weight, hits, queue) = (node.id, node.weight, node.hits, node.queue);
            if queue == SMALL && hits > 1 {
                self.promote(at, 0);
            } else if queue == MAIN && hits > 0 {
                self.promote(at, hits - 1);
            } else if may_go(id) {
                self.remove(id);
                if queue == SMALL {
                    self.ghosts.push(id, self.nodes.len().max(1));
                }
                got += weight;
                victims.files.push(id);
            } else {
                refused = true;
                self.promote(at, 1);
            }
        }
        victims.more = rounds > visits && !self.nodes.is_empty();
        victims
    }

    fn spare(&mut self, id: FileId, weight: u64) {
        self.remove(id);
        self.ghosts.take(id);
        let at = self.arena.add(id, weight);
        self.nodes.insert(id, at);
        // Into whichever queue gives next with it in.
        let held = self.small.bytes + self.main.bytes + weight;
        let small_gives = (self.small.bytes + weight).saturating_mul(SMALL_SHARE) >= held;
        let queue = if small_gives { SMALL } else { MAIN };
        let (list, arena) = self.queue(queue);
        arena.at_mut(at).queue = queue;
        list.push_back(arena, at);
    }

    fn len(&self) -> usize {
        self.nodes.len()
    }

    #[cfg(test)]
    fn dump(&self) -> String {
        format!(
            "small [{}] main [{}] ghosts {}",
            self.small.dump(&self.arena),
            self.main.dump(&self.arena),
            self.ghosts.known.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{id, inos};

    #[test]
    fn newcomers_used_once_leave_by_the_small_queue() {
        let mut s3 = S3Fifo::default();
        for ino in 1..=4 {
            s3.weigh(id(ino), 10);
        }
        s3.touch(id(1));
        s3.touch(id(1));
        s3.touch(id(2));
        assert_eq!(s3.dump(), "small [4 3 2+1 1+2] main [] ghosts 0");
        assert_eq!(inos(&s3.victims(15, &mut |_| true)), [2, 3]);
        assert_eq!(s3.dump(), "small [4] main [1] ghosts 2");
    }

    #[test]
    fn one_that_comes_back_goes_to_the_main_queue() {
        let mut s3 = S3Fifo::default();
        s3.weigh(id(1), 10);
        s3.weigh(id(2), 10);
        assert_eq!(inos(&s3.victims(1, &mut |_| true)), [1]);
        s3.weigh(id(1), 10);
        assert_eq!(s3.dump(), "small [2] main [1] ghosts 0");
    }

    #[test]
    fn the_main_queue_gives_when_the_small_one_is_below_its_share() {
        let mut s3 = S3Fifo::default();
        for ino in 1..=3 {
            s3.weigh(id(ino), 100);
            s3.touch(id(ino));
            s3.touch(id(ino));
        }
        assert!(s3.victims(0, &mut |_| true).files.is_empty());
        s3.weigh(id(9), 5);
        // The three leave the small queue first: it holds more than its share until then.
        assert_eq!(inos(&s3.victims(1, &mut |_| true)), [1]);
        assert_eq!(s3.dump(), "small [9] main [3 2] ghosts 0");
        s3.touch(id(2));
        assert_eq!(inos(&s3.victims(1, &mut |_| true)), [3]);
        assert_eq!(s3.dump(), "small [9] main [2] ghosts 0");
    }

    #[test]
    fn ghosts_are_no_more_than_the_files_held() {
        let mut s3 = S3Fifo::default();
        for ino in 0..1000 {
            s3.weigh(id(ino), 10);
            if s3.len() > 10 {
                s3.victims(1, &mut |_| true);
            }
        }
        assert_eq!(s3.len(), 10);
        assert!(s3.ghosts.order.len() <= 10 && s3.ghosts.known.len() <= 10);
    }

    #[test]
    fn a_scan_does_not_drive_out_the_working_set() {
        let mut s3 = S3Fifo::default();
        let mut gone = Vec::new();
        let mut fit = |s3: &mut S3Fifo| {
            while s3.len() > 100 {
                gone.extend(inos(&s3.victims(1, &mut |_| true)));
            }
        };
        for ino in 0..90 {
            s3.weigh(id(ino), 10);
        }
        for _ in 0..2 {
            for ino in 0..90 {
                s3.touch(id(ino));
            }
        }
        for ino in 1000..3000 {
            s3.weigh(id(ino), 10);
            fit(&mut s3);
            s3.touch(id(ino % 90));
        }
        assert!(gone.iter().all(|ino| *ino >= 1000), "{gone:?}");
    }
}
