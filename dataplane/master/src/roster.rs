//! What everyone is told of the cluster, version by version: who has an earlier one gets what changed
//! since. Pure.
//!
//! The versions of two leaders have nothing in common but, mostly, their content. Who comes with a
//! version of another leader, or one too old, is asked for the digests of the parts of his table, and
//! gets the parts that differ.

use crate::workers::to_wire;
use forebay_client::topology::{Digests, WorkerInfo, part_of};
use forebay_proto::{convert::mount_to_wire, v1};
use forebay_types::{MountId, MountSpec, WorkerId};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// Changes that are remembered; who has missed more is asked for his digests.
const LOG: usize = 16_384;

/// A row of the mount table.
pub(crate) type MountRow = (MountId, Arc<MountSpec>);

/// The topology as of the last publication.
#[derive(Debug)]
pub(crate) struct Roster {
    version: v1::TopologyVersion,
    mounts: Vec<MountRow>,
    workers: BTreeMap<WorkerId, WorkerInfo>,
    digests: Digests,
    /// Which version changed which worker, the oldest first …
    log: VecDeque<(u64, WorkerId)>,
    /// … complete for versions after this one.
    complete_after: u64,
}

impl Roster {
    /// Of a new leader: nobody yet.
    pub(crate) fn new(term: u64) -> Roster {
        Roster {
            version: v1::TopologyVersion { term, number: 0 },
            mounts: Vec::new(),
            workers: BTreeMap::new(),
            digests: Digests::default(),
            log: VecDeque::new(),
            complete_after: 0,
        }
    }

    /// What everyone should have by now.
    pub(crate) fn version(&self) -> v1::TopologyVersion {
        self.version
    }

    /// How many workers are told of.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// From now on this is told. The same again makes no version of its own.
    pub(crate) fn publish(&mut self, mounts: Vec<MountRow>, live: Vec<WorkerInfo>) {
        let number = self.version.number + 1;
        let mut changed = Vec::new();
        let live: BTreeMap<WorkerId, WorkerInfo> =
            live.into_iter().map(|info| (info.id, info)).collect();
        for (id, old) in &self.workers {
            if live.get(id) != Some(old) {
                self.digests.toggle(old);
                changed.push(*id);
            }
        }
        for (id, new) in &live {
            let old = self.workers.get(id);
            if old != Some(new) {
                self.digests.toggle(new);
                if old.is_none() {
                    changed.push(*id);
                }
            }
        }
        if changed.is_empty() && mounts == self.mounts {
            return;
        }
        self.version.number = number;
        self.mounts = mounts;
        self.workers = live;
        self.log.extend(changed.into_iter().map(|id| (number, id)));
        while self.log.len() > LOG {
            if let Some((version, _)) = self.log.pop_front() {
                self.complete_after = version;
            }
        }
    }

    /// The answer to somebody who has version `known`, and whose digests are these once he was asked
    /// for them. While the leader is `settling` nobody is told that a worker is gone.
    pub(crate) fn answer(
        &self,
        asked: &v1::TopologyRequest,
        settling: bool,
    ) -> v1::TopologyResponse {
        let version = (!settling).then_some(self.version);
        let answer = v1::TopologyResponse {
            version,
            mounts: self
                .mounts
                .iter()
                .map(|(id, m)| mount_to_wire(*id, m))
                .collect(),
            ..v1::TopologyResponse::default()
        };
        let Some(known) = asked.known else {
            return v1::TopologyResponse {
                whole: true,
                workers: self.workers.values().map(to_wire).collect(),
                ..answer
            };
        };
        if settling {
            return answer;
        }
        if known == self.version {
            return v1::TopologyResponse {
                version,
                ..v1::TopologyResponse::default()
            };
        }
        if known.term == self.version.term && known.number >= self.complete_after {
            return self.changes(known.number, answer);
        }
        let theirs = Digests::from_wire(&asked.digests);
        theirs.map_or(
            v1::TopologyResponse {
                digests_wanted: true,
                ..v1::TopologyResponse::default()
            },
            |theirs| self.parts(&theirs, answer),
        )
    }

    fn changes(&self, since: u64, answer: v1::TopologyResponse) -> v1::TopologyResponse {
        let at = self.log.partition_point(|(number, _)| *number <= since);
        let changed: BTreeSet<WorkerId> = self.log.range(at..).map(|(_, id)| *id).collect();
        let (mut workers, mut removed) = (Vec::new(), Vec::new());
        for id in changed {
            match self.workers.get(&id) {
                Some(info) => workers.push(to_wire(info)),
                None => removed.push(id.0),
            }
        }
        v1::TopologyResponse {
            workers,
            removed,
            ..answer
        }
    }

    fn parts(&self, theirs: &Digests, answer: v1::TopologyResponse) -> v1::TopologyResponse {
        let parts = self.digests.differing(theirs);
        let told = |info: &&WorkerInfo| parts.binary_search(&part_of(info.id)).is_ok();
        v1::TopologyResponse {
            workers: self.workers.values().filter(told).map(to_wire).collect(),
            parts,
            ..answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u64, port: u16) -> WorkerInfo {
        WorkerInfo {
            id: WorkerId(id),
            address: format!("127.0.0.1:{port}").parse().unwrap(),
            capacity: 1,
        }
    }

    fn roster(term: u64, workers: &[(u64, u16)]) -> Roster {
        let mut roster = Roster::new(term);
        tell(&mut roster, workers);
        roster
    }

    fn tell(roster: &mut Roster, workers: &[(u64, u16)]) {
        let workers = workers.iter().map(|(id, port)| worker(*id, *port));
        roster.publish(Vec::new(), workers.collect());
    }

    fn ask(roster: &Roster, known: Option<v1::TopologyVersion>) -> v1::TopologyResponse {
        let asked = v1::TopologyRequest {
            known,
            digests: Vec::new(),
        };
        roster.answer(&asked, false)
    }

    fn ids(answer: &v1::TopologyResponse) -> Vec<u64> {
        answer.workers.iter().map(|w| w.id).collect()
    }

    #[test]
    fn who_has_a_version_gets_what_changed_since() {
        let mut roster = roster(3, &[(1, 11), (2, 12), (3, 13)]);
        let first = roster.version();
        let whole = ask(&roster, None);
        assert!(whole.whole && ids(&whole) == [1, 2, 3] && whole.version == Some(first));
        tell(&mut roster, &[(1, 11), (2, 22), (3, 13)]);
        tell(&mut roster, &[(1, 11), (2, 22), (4, 14)]);
        tell(&mut roster, &[(1, 11), (2, 22), (4, 14)]);
        assert_eq!(roster.version().number, first.number + 2, "the same again");
        let changes = ask(&roster, Some(first));
        assert!(!changes.whole && changes.version == Some(roster.version()));
        assert_eq!(
            (ids(&changes), &changes.removed[..]),
            (vec![2, 4], &[3][..])
        );
        let none = ask(&roster, Some(roster.version()));
        assert!(none.workers.is_empty() && none.removed.is_empty() && !none.whole);
    }

    #[test]
    fn a_changed_mount_table_is_a_version() {
        let mut roster = roster(1, &[(1, 11)]);
        let before = roster.version();
        let spec = MountSpec {
            path: "/a".to_owned(),
            uri: "file:///a".to_owned(),
            options: BTreeMap::new(),
            sync: forebay_types::SyncPolicy::Never,
            credentials: None,
        };
        roster.publish(vec![(MountId(1), Arc::new(spec))], vec![worker(1, 11)]);
        let news = ask(&roster, Some(before));
        assert_eq!((news.mounts.len(), news.workers.len()), (1, 0));
        assert_ne!(roster.version(), before);
    }

    #[test]
    fn with_another_leaders_version_only_parts_that_differ_are_told() {
        let all: Vec<(u64, u16)> = (0..5_000)
            .map(|id| (id, 1_000 + (id % 999) as u16))
            .collect();
        let (old, mut new) = (roster(3, &all), roster(4, &all));
        let asked = v1::TopologyRequest {
            known: Some(old.version()),
            digests: Vec::new(),
        };
        assert!(new.answer(&asked, false).digests_wanted);
        let asked = v1::TopologyRequest {
            digests: old.digests.to_wire(),
            ..asked
        };
        let same = new.answer(&asked, false);
        assert!(same.workers.is_empty() && same.parts.is_empty() && !same.whole);
        assert_eq!(same.version, Some(new.version()));
        let left: Vec<_> = all.iter().copied().filter(|(id, _)| *id != 77).collect();
        tell(&mut new, &left);
        let one = new.answer(&asked, false);
        assert_eq!(one.parts, [part_of(WorkerId(77))]);
        assert!(one.workers.len() < 5_000 / 200 && !ids(&one).contains(&77));
    }

    #[test]
    fn the_log_is_bounded_and_who_is_too_far_behind_is_asked_for_digests() {
        let mut roster = roster(1, &[(1, 11)]);
        let first = roster.version();
        for round in 0..=LOG as u16 {
            tell(&mut roster, &[(1, 20_000 + round)]);
        }
        assert_eq!(roster.log.len(), LOG);
        assert!(ask(&roster, Some(first)).digests_wanted);
        let close = v1::TopologyVersion {
            number: roster.version().number - 5,
            ..roster.version()
        };
        assert_eq!(ids(&ask(&roster, Some(close))), [1]);
    }

    #[test]
    fn a_settling_leader_takes_nobody_away() {
        let roster = roster(2, &[(1, 11)]);
        let mut asked = v1::TopologyRequest::default();
        let fresh = roster.answer(&asked, true);
        assert!(fresh.whole && ids(&fresh) == [1] && fresh.version.is_none());
        asked.known = Some(v1::TopologyVersion { term: 1, number: 9 });
        let kept = roster.answer(&asked, true);
        assert!(!kept.whole && kept.workers.is_empty() && kept.version.is_none());
    }
}
