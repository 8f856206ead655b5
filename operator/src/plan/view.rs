//! What the masters of a cluster say of it.

use crate::plan::{
    membership::{Member, Quorum},
    mount::{Held, Row, Table},
    name::{Key, dataset_of},
};
use forebay_proto::{convert::mount_from_wire, v1};
use forebay_seal::SealKey;
use k8s_openapi::jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// The shortest and the longest interval between two heartbeats of a worker, and workers for each second of it
/// between them: as the masters tell them.
const HEARTBEATS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
const HEARTBEATS_PER_SECOND: u32 = 1000;

/// One look at the masters.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// When it began.
    pub seen: Timestamp,
    /// Masters that answered and know who leads.
    pub following: BTreeSet<u64>,
    /// As the leader sees them; absent: nobody led.
    pub quorum: Option<Quorum>,
    /// Since when nobody has led. Absent: somebody does.
    pub silent_since: Option<Timestamp>,
    /// The mount table, if somebody leads.
    pub table: Arc<Table>,
    /// The workers, if somebody leads.
    pub workers: Vec<Worker>,
}

/// A worker that the leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Where it serves.
    pub address: String,
    /// Whether it reports.
    pub alive: bool,
    /// Its tiers.
    pub tiers: Vec<Tier>,
}

/// A tier of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// `MEM`, `SSD` or `HDD`.
    pub medium: String,
    /// Bytes that it can hold.
    pub quota: u64,
    /// Bytes that it holds.
    pub used: u64,
    /// Why it does not serve.
    pub fault: Option<String>,
}

/// What a call did to a path.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was done.
    pub at: Timestamp,
    /// What is mounted there now.
    pub row: Option<Row>,
}

impl View {
    /// Takes in what each master said of the quorum.
    pub fn hear(&mut self, answers: &[v1::QuorumResponse]) {
        let leading = answers.iter().filter_map(|answer| {
            let leader = answer.members.iter().find(|m| m.node == answer.leader)?;
            Some((answer, leader.id))
        });
        let leading: Vec<_> = leading.collect();
        self.following = leading.iter().map(|(answer, _)| answer.id).collect();
        // A master that was cut off may still name the leader of an earlier term.
        let newest = leading.iter().max_by_key(|(answer, _)| answer.term);
        self.quorum = newest.map(|(answer, leader)| Quorum {
            leader: *leader,
            term: answer.term,
            members: answer
                .members
                .iter()
                .map(|member| Member {
                    id: member.id,
                    voter: member.voter,
                })
                .collect(),
        });
    }

    /// Takes in what the leader said of the rest.
    pub fn learn(&mut self, report: v1::ReportResponse, key: Option<&SealKey>) {
        let rows = report.mounts.into_iter().filter_map(|m| row(m, key));
        self.table = Arc::new(rows.collect());
        let known = report.workers.len() as u32;
        let [least, most] = HEARTBEATS;
        let interval = (least * known / HEARTBEATS_PER_SECOND).clamp(least, most);
        let dead_after = interval * 3 + Duration::from_secs(2);
        let workers = report.workers.into_iter();
        self.workers = workers.map(|w| worker(w, dead_after)).collect();
    }

    /// Takes in changes that were made since the masters were asked.
    pub fn amend<'a>(&mut self, changes: impl IntoIterator<Item = (&'a String, &'a Change)>) {
        for (path, change) in changes {
            let table = Arc::make_mut(&mut self.table);
            match &change.row {
                Some(row) => table.insert(path.clone(), row.clone()),
                None => table.remove(path),
            };
        }
    }

    /// Whether it tells another story than `other`; how full tiers are is none.
    pub fn differs(&self, other: &View) -> bool {
        let told = |view: &View| {
            let workers = view.workers.clone().into_iter();
            let workers = workers.map(|mut worker| {
                worker.tiers.iter_mut().for_each(|tier| tier.used = 0);
                worker
            });
            (
                view.following.clone(),
                view.quorum.clone(),
                view.silent_since,
                workers.collect::<Vec<_>>(),
            )
        };
        told(self) != told(other)
    }

    /// Datasets whose mounts differ from those in `other`.
    pub fn moved(&self, other: &View) -> BTreeSet<Key> {
        if Arc::ptr_eq(&self.table, &other.table) {
            return BTreeSet::new();
        }
        let changed = |a: &Table, b: &Table| -> Vec<Key> {
            let rows = a.iter().filter(|(path, row)| b.get(*path) != Some(*row));
            rows.filter_map(|(path, _)| dataset_of(path)).collect()
        };
        let mut moved = changed(&self.table, &other.table);
        moved.extend(changed(&other.table, &self.table));
        moved.into_iter().collect()
    }

    /// Bytes that tiers hold.
    pub fn used(&self) -> u64 {
        let tiers = self.workers.iter().flat_map(|worker| &worker.tiers);
        tiers.map(|tier| tier.used).sum()
    }

    /// Addresses of workers that report.
    pub fn alive(&self) -> BTreeMap<&str, &Worker> {
        let alive = self.workers.iter().filter(|worker| worker.alive);
        alive.map(|w| (w.address.as_str(), w)).collect()
    }
}

fn row(mount: v1::Mount, key: Option<&SealKey>) -> Option<(String, Row)> {
    let (_, spec) = mount_from_wire(mount).ok()?;
    let held = match (&spec.credentials, key) {
        (None, _) => Held::Nothing,
        (Some(sealed), Some(key)) => key
            .open(&spec.path, sealed)
            .map_or(Held::Closed, Held::Open),
        (Some(_), None) => Held::Closed,
    };
    let row = Row {
        uri: spec.uri,
        options: spec.options,
        sync: spec.sync,
        held,
    };
    Some((spec.path, row))
}

fn worker(report: v1::report_response::WorkerReport, dead_after: Duration) -> Worker {
    Worker {
        address: report.worker.unwrap_or_default().address,
        alive: Duration::from_millis(report.heartbeat_age_ms) < dead_after,
        tiers: report
            .tiers
            .into_iter()
            .map(|tier| Tier {
                medium: tier.medium,
                quota: tier.quota,
                used: tier.used,
                fault: Some(tier.fault).filter(|fault| !fault.is_empty()),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::Credentials;
    use v1::quorum_response::Member as Told;

    fn answer(id: u64, leader: u64, term: u64) -> v1::QuorumResponse {
        let member = |id| Told {
            id,
            // Master 2 came back with an empty disk.
            node: if id == 2 { 7 << 8 | 2 } else { id },
            voter: true,
            ..Told::default()
        };
        v1::QuorumResponse {
            id,
            leader,
            term,
            members: (1..=3).map(member).collect(),
            ..v1::QuorumResponse::default()
        }
    }

    #[test]
    fn the_newest_term_says_who_leads() {
        let mut view = View::default();
        view.hear(&[answer(1, 1, 4), answer(2, 7 << 8 | 2, 5), answer(3, 0, 6)]);
        let quorum = view.quorum.clone().unwrap();
        assert_eq!((quorum.leader, quorum.term), (2, 5));
        assert_eq!(view.following, [1, 2].into());
        view.hear(&[answer(3, 0, 6)]);
        assert_eq!(view.quorum, None);
    }

    #[test]
    fn rows_are_opened_with_the_key_of_the_cluster() {
        let key = SealKey::new(&forebay_seal::generate().unwrap()).unwrap();
        let secret = Credentials::new([("K".to_owned(), "v".to_owned())].into());
        let mount = |path: &str, sealed_for: &str| v1::Mount {
            path: path.to_owned(),
            uri: "s3://b".to_owned(),
            sync: "60s".to_owned(),
            credentials: key.seal(sealed_for, &secret).unwrap().0,
            ..v1::Mount::default()
        };
        let report = v1::ReportResponse {
            mounts: vec![mount("/a/b", "/a/b"), mount("/a/c", "/a/b")],
            ..v1::ReportResponse::default()
        };
        let mut view = View::default();
        view.learn(report.clone(), Some(&key));
        assert_eq!(view.table["/a/b"].held, Held::Open(secret));
        assert_eq!(view.table["/a/c"].held, Held::Closed);
        let mut other = View::default();
        other.learn(report, None);
        assert_eq!(other.table["/a/b"].held, Held::Closed);
        assert_eq!(view.moved(&other), [Key::new("a", "b")].into());
        assert!(!view.differs(&other));
    }

    #[test]
    fn workers_are_dead_when_the_masters_would_say_so() {
        let report = |age| v1::report_response::WorkerReport {
            worker: Some(v1::Worker {
                address: format!("10.0.0.1:{age}"),
                ..v1::Worker::default()
            }),
            heartbeat_age_ms: age,
            ..v1::report_response::WorkerReport::default()
        };
        let mut view = View::default();
        view.learn(
            v1::ReportResponse {
                workers: vec![report(4_999), report(5_000)],
                ..v1::ReportResponse::default()
            },
            None,
        );
        assert_eq!(view.alive().len(), 1);
    }
}
