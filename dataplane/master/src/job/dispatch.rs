//! Which worker loads which file next. Pure.
//!
//! Every file goes to its home worker. A worker has at most [`WINDOW`] files at a time; when it is
//! lost, what it had goes to the next homes.

use forebay_client::{Topology, WorkerInfo};
use forebay_types::{FileRef, Ino};
use std::collections::{HashMap, VecDeque};

/// Files that one worker has been sent and has not answered for.
pub(crate) const WINDOW: usize = 256;

/// Files held for each worker, sent ones included.
const HELD: usize = 4 * WINDOW;

/// A file with the lanes that could not load it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// What to load.
    pub(crate) file: FileRef,
    tried: Vec<usize>,
}

impl Item {
    pub(crate) fn new(file: FileRef) -> Item {
        Item {
            file,
            tried: Vec::new(),
        }
    }
}

/// The files under way.
pub(crate) struct Dispatch {
    topology: Topology,
    lanes: Vec<Lane>,
    held: usize,
    /// Where the search for something to send goes on.
    turn: usize,
}

#[derive(Default)]
struct Lane {
    lost: bool,
    waiting: VecDeque<Item>,
    sent: HashMap<Ino, Item>,
}

impl Dispatch {
    /// A lane for every worker of the topology, in its order.
    pub(crate) fn new(topology: Topology) -> Dispatch {
        let lanes = topology.workers.iter().map(|_| Lane::default()).collect();
        Dispatch {
            topology,
            lanes,
            held: 0,
            turn: 0,
        }
    }

    /// The worker of a lane.
    pub(crate) fn worker(&self, lane: usize) -> &WorkerInfo {
        &self.topology.workers[lane]
    }

    /// Whether more files may be added now.
    pub(crate) fn has_room(&self) -> bool {
        self.held < HELD * self.lanes.len().max(1)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.held == 0
    }

    /// Takes a file in; gives it back if no worker is left to try.
    pub(crate) fn add(&mut self, item: Item) -> Result<(), Item> {
        let lane = self
            .topology
            .homes(item.file.id, 0)
            .into_iter()
            .filter_map(|home| self.topology.workers.iter().position(|w| w.id == home.id))
            .find(|lane| !self.lanes[*lane].lost && !item.tried.contains(lane));
        let Some(lane) = lane else { return Err(item) };
        self.lanes[lane].waiting.push_back(item);
        self.held += 1;
        Ok(())
    }

    /// What to send next, and on which lane.
    pub(crate) fn next(&mut self) -> Option<(usize, FileRef)> {
        for _ in 0..self.lanes.len() {
            let at = self.turn % self.lanes.len();
            self.turn = at + 1;
            let lane = &mut self.lanes[at];
            if lane.lost || lane.sent.len() >= WINDOW {
                continue;
            }
            if let Some(item) = lane.waiting.pop_front() {
                let file = item.file.clone();
                lane.sent.insert(file.id.ino, item);
                return Some((at, file));
            }
        }
        None
    }

    /// The worker has answered for a file; `None`: it was not asked, or is lost.
    pub(crate) fn answered(&mut self, lane: usize, ino: Ino) -> Option<Item> {
        let mut item = self.lanes[lane].sent.remove(&ino)?;
        item.tried.push(lane);
        self.held -= 1;
        Some(item)
    }

    /// Whether the lane is given up.
    pub(crate) fn is_lost(&self, lane: usize) -> bool {
        self.lanes[lane].lost
    }

    /// The worker is gone: its files go to their next homes; those that have none come back.
    pub(crate) fn lost(&mut self, lane: usize) -> Vec<Item> {
        let lane = &mut self.lanes[lane];
        lane.lost = true;
        let mut items: Vec<Item> = lane.waiting.drain(..).collect();
        items.extend(lane.sent.drain().map(|(_, item)| item));
        self.held -= items.len();
        items
            .into_iter()
            .filter_map(|item| self.add(item).err())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, FileId, Fingerprint, MountId, WorkerId};
    use std::collections::BTreeSet;

    fn topology(workers: u64) -> Topology {
        let worker = |id| WorkerInfo {
            id: WorkerId(id * 7919),
            address: format!("127.0.0.1:{id}").parse().unwrap(),
            capacity: 100,
        };
        Topology::new(String::new(), vec![], (1..=workers).map(worker).collect())
    }

    fn item(ino: u64) -> Item {
        let id = FileId {
            ino: Ino(ino),
            version: ContentVersion(1),
        };
        let fingerprint = Fingerprint::default();
        Item::new(FileRef {
            id,
            mount: MountId(1),
            key: "k".into(),
            fingerprint,
        })
    }

    fn fill(dispatch: &mut Dispatch, files: u64) {
        for ino in 0..files {
            dispatch.add(item(ino)).unwrap();
        }
    }

    #[test]
    fn files_go_to_their_homes_and_windows_hold() {
        let mut dispatch = Dispatch::new(topology(3));
        fill(&mut dispatch, 3000);
        let mut sent = [0usize; 3];
        while let Some((lane, file)) = dispatch.next() {
            assert_eq!(
                topology(3).homes(file.id, 0)[0].id,
                dispatch.worker(lane).id
            );
            sent[lane] += 1;
        }
        assert_eq!(sent, [WINDOW; 3]);
        let some = *dispatch.lanes[1].sent.keys().next().unwrap();
        assert!(dispatch.answered(1, some).is_some());
        assert!(dispatch.answered(1, some).is_none(), "answered twice");
        assert_eq!(dispatch.next().map(|(lane, _)| lane), Some(1));
    }

    #[test]
    fn a_lost_workers_files_go_to_the_next_home() {
        let mut dispatch = Dispatch::new(topology(2));
        fill(&mut dispatch, 100);
        while dispatch.next().is_some() {}
        assert_eq!(dispatch.lost(0), []);
        assert!(dispatch.is_lost(0) && !dispatch.is_lost(1));
        let mut done = BTreeSet::new();
        loop {
            while dispatch.next().is_some() {}
            let Some(ino) = dispatch.lanes[1].sent.keys().next().copied() else {
                break;
            };
            assert!(dispatch.answered(1, ino).is_some());
            done.insert(ino);
        }
        assert_eq!(done.len(), 100);
        assert!(dispatch.is_idle());
    }

    #[test]
    fn with_the_last_worker_the_files_come_back() {
        let mut dispatch = Dispatch::new(topology(2));
        fill(&mut dispatch, 10);
        dispatch.lost(0);
        assert_eq!(dispatch.lost(1).len(), 10);
        assert!(dispatch.is_idle());
        assert!(dispatch.add(item(77)).is_err());
    }

    #[test]
    fn a_file_is_tried_once_on_each_worker() {
        let mut dispatch = Dispatch::new(topology(3));
        let mut next = Some(item(5));
        let mut lanes = BTreeSet::new();
        while let Some(item) = next.take() {
            if dispatch.add(item).is_err() {
                break;
            }
            let (lane, file) = dispatch.next().unwrap();
            assert!(lanes.insert(lane));
            next = dispatch.answered(lane, file.id.ino);
        }
        assert_eq!(lanes.len(), 3);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut dispatch = Dispatch::new(topology(1));
        let mut held = 0;
        while dispatch.has_room() {
            dispatch.add(item(held)).unwrap();
            held += 1;
        }
        assert_eq!(held, HELD as u64);
    }
}
