//! Which worker loads which file next. Pure.
//!
//! Every file goes to its home worker, and from there, one after the other, to as many more as are to have it: the
//! under store is asked once. A worker has at most [`WINDOW`] files at a time; when it is lost, what it had goes to the
//! next homes.

use forebay_client::{Topology, WorkerInfo};
use forebay_types::{Code, FileRef, Ino};
use std::collections::{HashMap, VecDeque};

/// Files that one worker has been sent and has not answered for.
pub(crate) const WINDOW: usize = 256;

/// Files held for each worker, sent ones included.
const HELD: usize = 4 * WINDOW;

/// Files held, however many workers there are.
const HELD_MAX: usize = 1 << 18;

/// Where a file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    /// On so many workers.
    Some(usize),
    /// On every worker.
    All,
}

impl Copies {
    /// How many that are of so many workers.
    pub(crate) fn of(self, workers: usize) -> usize {
        match self {
            Copies::Some(copies) => copies,
            Copies::All => workers,
        }
    }
}

/// A file on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// What to load.
    pub(crate) file: FileRef,
    /// Whether the workers that have it had it before.
    pub(crate) cached_before: bool,
    /// Why a worker could not load it.
    pub(crate) fault: Option<(Code, String)>,
    /// Workers that have it.
    placed: usize,
    trail: Trail,
}

/// Lanes that the file was on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trail {
    /// Of a few copies: these.
    Lanes(Vec<usize>),
    /// Of a copy on every worker: so many, from this one on in a circle.
    Circle { first: usize, passed: usize },
}

impl Item {
    pub(crate) fn new(file: FileRef) -> Item {
        Item {
            file,
            cached_before: true,
            fault: None,
            placed: 0,
            trail: Trail::Lanes(Vec::new()),
        }
    }

    /// Whether no worker has it yet.
    pub(crate) fn is_first(&self) -> bool {
        self.placed == 0
    }

    /// A worker has it now.
    pub(crate) fn placed(&mut self, cached_before: bool) {
        self.placed += 1;
        self.cached_before &= cached_before;
    }
}

/// The files under way.
pub(crate) struct Dispatch {
    topology: Topology,
    copies: Copies,
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
    pub(crate) fn new(topology: Topology, copies: Copies) -> Dispatch {
        let lanes = topology.workers.iter().map(|_| Lane::default()).collect();
        Dispatch {
            topology,
            copies,
            lanes,
            held: 0,
            turn: 0,
        }
    }

    /// The worker of a lane.
    pub(crate) fn worker(&self, lane: usize) -> &WorkerInfo {
        &self.topology.workers[lane]
    }

    /// Lanes that are not given up; at least 1.
    pub(crate) fn live(&self) -> usize {
        let live = self.lanes.iter().filter(|lane| !lane.lost);
        live.count().max(1)
    }

    /// Whether more files may be added now.
    pub(crate) fn has_room(&self) -> bool {
        self.held < (HELD * self.lanes.len().max(1)).min(HELD_MAX)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.held == 0
    }

    /// Takes a file in, or on to its next worker; gives it back if there is none to try.
    #[must_use]
    pub(crate) fn add(&mut self, mut item: Item) -> Option<Item> {
        let Some(lane) = self.lane_of(&mut item) else {
            return Some(item);
        };
        self.lanes[lane].waiting.push_back(item);
        self.held += 1;
        None
    }

    /// Whether the file is wherever it should be. If not, it is to be added again, or has failed.
    pub(crate) fn is_done(&self, item: &Item) -> bool {
        match self.copies {
            Copies::Some(copies) => item.placed >= copies,
            Copies::All => {
                let at_the_end = match item.trail {
                    Trail::Circle { passed, .. } => passed >= self.lanes.len(),
                    Trail::Lanes(_) => false,
                };
                at_the_end && item.placed > 0 && item.fault.is_none()
            }
        }
    }

    fn lane_of(&self, item: &mut Item) -> Option<usize> {
        let homes = || {
            let homes = self.topology.homes(item.file.id, 0).into_iter();
            homes.filter_map(|home| self.topology.workers.iter().position(|w| w.id == home.id))
        };
        let is_free = |lane: &usize| !self.lanes[*lane].lost;
        match (self.copies, &mut item.trail) {
            (Copies::Some(_), Trail::Lanes(tried)) => {
                let lane = homes().find(|lane| is_free(lane) && !tried.contains(lane))?;
                tried.push(lane);
                Some(lane)
            }
            (_, Trail::Lanes(_)) => {
                let first = homes().next()?;
                item.trail = Trail::Circle { first, passed: 0 };
                self.lane_of(item)
            }
            (_, Trail::Circle { first, passed }) => {
                let lanes = self.lanes.len();
                while *passed < lanes {
                    let lane = (*first + *passed) % lanes;
                    *passed += 1;
                    if is_free(&lane) {
                        return Some(lane);
                    }
                }
                None
            }
        }
    }

    /// What to send next, and on which lane.
    pub(crate) fn next(&mut self) -> Option<(usize, &Item)> {
        for _ in 0..self.lanes.len() {
            let at = self.turn % self.lanes.len();
            self.turn = at + 1;
            let lane = &mut self.lanes[at];
            if lane.lost || lane.sent.len() >= WINDOW {
                continue;
            }
            if let Some(item) = lane.waiting.pop_front() {
                let ino = item.file.id.ino;
                return Some((
                    at,
                    self.lanes[at].sent.entry(ino).insert_entry(item).into_mut(),
                ));
            }
        }
        None
    }

    /// The worker has answered for a file; `None`: it was not asked, or is lost.
    pub(crate) fn answered(&mut self, lane: usize, ino: Ino) -> Option<Item> {
        let item = self.lanes[lane].sent.remove(&ino)?;
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
            .filter_map(|item| self.add(item))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, FileId, Fingerprint, MountId, WorkerId};
    use std::collections::{BTreeMap, BTreeSet};

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
            assert_eq!(dispatch.add(item(ino)), None);
        }
    }

    #[test]
    fn files_go_to_their_homes_and_windows_hold() {
        let mut dispatch = Dispatch::new(topology(3), Copies::Some(1));
        fill(&mut dispatch, 3000);
        let mut sent = [0usize; 3];
        while let Some((lane, item)) = dispatch.next() {
            let home = topology(3).homes(item.file.id, 0)[0].id;
            assert_eq!(home, dispatch.worker(lane).id);
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
        let mut dispatch = Dispatch::new(topology(2), Copies::Some(1));
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
        let mut dispatch = Dispatch::new(topology(2), Copies::Some(1));
        fill(&mut dispatch, 10);
        dispatch.lost(0);
        assert_eq!(dispatch.lost(1).len(), 10);
        assert!(dispatch.is_idle());
        assert!(dispatch.add(item(77)).is_some());
    }

    #[test]
    fn a_file_is_tried_once_on_each_worker() {
        let mut dispatch = Dispatch::new(topology(3), Copies::Some(1));
        let mut next = Some(item(5));
        let mut lanes = BTreeSet::new();
        while let Some(item) = next.take() {
            if dispatch.add(item).is_some() {
                break;
            }
            let (lane, item) = dispatch.next().unwrap();
            assert!(lanes.insert(lane));
            let ino = item.file.id.ino;
            next = dispatch.answered(lane, ino);
        }
        assert_eq!(lanes.len(), 3);
    }

    /// Everything is loaded where it is sent; on which workers each file is then.
    fn placed(mut dispatch: Dispatch) -> BTreeMap<u64, BTreeSet<usize>> {
        let mut placed = BTreeMap::<u64, BTreeSet<usize>>::new();
        while let Some((lane, item)) = dispatch.next() {
            let ino = item.file.id.ino;
            assert!(placed.entry(ino.0).or_default().insert(lane));
            let mut item = dispatch.answered(lane, ino).unwrap();
            assert_eq!(item.is_first(), placed[&ino.0].len() == 1);
            item.placed(false);
            if !dispatch.is_done(&item)
                && let Some(item) = dispatch.add(item)
            {
                assert!(dispatch.is_done(&item));
            }
        }
        assert!(dispatch.is_idle());
        placed
    }

    #[test]
    fn copies_go_to_different_workers() {
        let mut dispatch = Dispatch::new(topology(4), Copies::Some(2));
        fill(&mut dispatch, 100);
        let placed = placed(dispatch);
        assert_eq!(placed.len(), 100);
        for (ino, lanes) in placed {
            let homes = topology(4);
            let homes = homes.homes(item(ino).file.id, 0);
            let homes = homes[..2].iter().map(|home| home.id.0 / 7919 - 1);
            assert_eq!(lanes, homes.map(|lane| lane as usize).collect());
        }
    }

    #[test]
    fn a_copy_goes_to_every_worker_that_is_left() {
        let mut dispatch = Dispatch::new(topology(4), Copies::All);
        fill(&mut dispatch, 100);
        assert_eq!(dispatch.lost(2), []);
        let placed = placed(dispatch);
        assert_eq!(placed.len(), 100);
        assert!(placed.values().all(|lanes| lanes.iter().eq(&[0, 1, 3])));
    }

    #[test]
    fn too_few_workers_for_the_copies_are_told() {
        let mut dispatch = Dispatch::new(topology(2), Copies::Some(3));
        fill(&mut dispatch, 1);
        let mut rest = None;
        for _ in 0..2 {
            let (lane, item) = dispatch.next().unwrap();
            let ino = item.file.id.ino;
            let mut item = dispatch.answered(lane, ino).unwrap();
            item.placed(true);
            assert!(!dispatch.is_done(&item));
            rest = dispatch.add(item);
        }
        assert!(rest.is_some());
        assert!(dispatch.is_idle());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut dispatch = Dispatch::new(topology(1), Copies::Some(1));
        let mut held = 0;
        while dispatch.has_room() {
            assert_eq!(dispatch.add(item(held)), None);
            held += 1;
        }
        assert_eq!(held, HELD as u64);
    }
}
