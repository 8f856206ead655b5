//! What the masters of a cluster say of it.

use crate::plan::{
    membership::{Member, Quorum},
    mount::{Held, Row, Table},
    name::{Key, dataset_of},
};
use forebay_proto::{convert::mount_from_wire, v1};
use forebay_seal::SealKey;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
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
    /// The warm-ups, if they were asked for.
    pub warmups: Warmups,
    /// What is known of mounts, by path; not of every look, see [`View::settle`].
    pub usage: Arc<BTreeMap<String, v1::MountUsage>>,
    /// Of which look that is.
    pub usage_seen: Timestamp,
}

/// The warm-ups of a cluster.
#[derive(Clone, Debug, Default)]
pub enum Warmups {
    /// They were not asked for, or nobody answered.
    #[default]
    Unknown,
    /// The masters know no warm-ups.
    TooOld,
    /// These, by name.
    Known(BTreeMap<String, Warmup>),
}

/// The last run of a warm-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Warmup {
    /// Its name.
    pub run: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How far it is.
    pub progress: v1::JobProgress,
    /// How long it will still take.
    pub eta: Option<Duration>,
    /// How many workers it has files for.
    pub workers: u32,
}

/// A worker that the leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Tells it from others.
    pub id: u64,
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
        // A master that was cut off may still name the leader of an earlier term; one that was let go, members of before.
        let newest = leading
            .iter()
            .max_by_key(|(answer, leader)| (answer.term, answer.id == *leader, answer.applied));
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
        let path = |id: u32| {
            report
                .mounts
                .iter()
                .find(|m| m.id == id)
                .map(|m| m.path.clone())
        };
        let usage = report
            .usage
            .iter()
            .map(|usage| (path(usage.mount), usage.clone()));
        let usage = usage.filter_map(|(path, usage)| Some((path?, usage)));
        self.usage = Arc::new(usage.collect());
        self.usage_seen = self.seen;
        let rows = report.mounts.into_iter().filter_map(|m| row(m, key));
        self.table = Arc::new(rows.collect());
        let known = report.workers.len() as u32;
        let [least, most] = HEARTBEATS;
        let interval = (least * known / HEARTBEATS_PER_SECOND).clamp(least, most);
        let dead_after = interval * 3 + Duration::from_secs(2);
        let workers = report.workers.into_iter();
        self.workers = workers.map(|w| worker(w, dead_after)).collect();
    }

    /// Takes in what the leader said of warm-ups.
    pub fn warm(&mut self, answer: v1::WarmupsResponse) {
        let at = |ns: i64| Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
        let warmups = answer.warmups.into_iter().map(|warmup| {
            let told = Warmup {
                run: warmup.run,
                started: at(warmup.started_ns),
                ended: (warmup.ended_ns != 0).then(|| at(warmup.ended_ns)),
                progress: warmup.progress.unwrap_or_default(),
                eta: (warmup.eta_s != 0).then(|| Duration::from_secs(warmup.eta_s)),
                workers: warmup.workers,
            };
            (warmup.name, told)
        });
        self.warmups = Warmups::Known(warmups.collect());
    }

    /// Keeps the figures of mounts that were told `before`, unless they are older than `least` or other mounts are
    /// there: each change of them is a write to the API server.
    pub fn settle(&mut self, before: &View, least: SignedDuration) {
        let same = self.usage.keys().eq(before.usage.keys());
        let early = self.seen.duration_since(before.usage_seen) < least;
        if self.quorum.is_none() || (same && early) {
            self.usage = Arc::clone(&before.usage);
            self.usage_seen = before.usage_seen;
        }
    }

    /// Names of warm-ups that are further than in `other`, or were not in it.
    pub fn warmed(&self, other: &View) -> BTreeSet<String> {
        let Warmups::Known(now) = &self.warmups else {
            return BTreeSet::new();
        };
        let nothing = BTreeMap::new();
        let before = match &other.warmups {
            Warmups::Known(before) => before,
            Warmups::Unknown | Warmups::TooOld => &nothing,
        };
        // How long it will take is no news by itself.
        let same = |a: &Warmup, b: &Warmup| {
            Warmup {
                eta: b.eta,
                ..a.clone()
            } == *b
        };
        let changed = now
            .iter()
            .filter(|(name, warmup)| before.get(*name).is_none_or(|b| !same(b, warmup)));
        let gone = before.keys().filter(|name| !now.contains_key(*name));
        changed.map(|(name, _)| name).chain(gone).cloned().collect()
    }

    /// Whether other things can be asked for than in `other`: somebody leads, workers serve, warm-ups are known.
    pub fn turned(&self, other: &View) -> bool {
        let told = |view: &View| {
            (
                view.quorum.is_some(),
                view.alive().len(),
                std::mem::discriminant(&view.warmups),
            )
        };
        told(self) != told(other)
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

    /// Datasets whose mounts, or figures, differ from those in `other`.
    pub fn moved(&self, other: &View) -> BTreeSet<Key> {
        let mut moved = BTreeSet::new();
        if !Arc::ptr_eq(&self.usage, &other.usage) {
            let paths = self.usage.keys().chain(other.usage.keys());
            let paths = paths.filter(|path| self.usage.get(*path) != other.usage.get(*path));
            moved.extend(paths.filter_map(|path| dataset_of(path)));
        }
        if Arc::ptr_eq(&self.table, &other.table) {
            return moved;
        }
        let changed = |a: &Table, b: &Table| -> Vec<Key> {
            let rows = a.iter().filter(|(path, row)| b.get(*path) != Some(*row));
            rows.filter_map(|(path, _)| dataset_of(path)).collect()
        };
        moved.extend(changed(&self.table, &other.table));
        moved.extend(changed(&other.table, &self.table));
        moved
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
    let v1::Worker { id, address, .. } = report.worker.unwrap_or_default();
    Worker {
        id,
        address,
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
    fn the_leader_says_who_belongs_to_it() {
        let mut leader = answer(1, 1, 5);
        leader.members.truncate(1);
        for answers in [
            [leader.clone(), answer(3, 1, 5)],
            [answer(3, 1, 5), leader.clone()],
        ] {
            let mut view = View::default();
            view.hear(&answers);
            assert_eq!(view.quorum.unwrap().members.len(), 1, "3 was let go");
        }
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
    fn figures_are_told_now_and_then_and_progress_at_once() {
        let look = |second: i64, files: u64, done: u64| {
            let mut view = View {
                seen: Timestamp::from_second(second).unwrap(),
                quorum: Some(Quorum {
                    leader: 1,
                    term: 1,
                    members: Vec::new(),
                }),
                ..View::default()
            };
            let mount = v1::Mount {
                id: 7,
                path: "/a/b".to_owned(),
                uri: "s3://b".to_owned(),
                sync: "60s".to_owned(),
                ..v1::Mount::default()
            };
            let usage = v1::MountUsage {
                mount: 7,
                files,
                ..v1::MountUsage::default()
            };
            view.learn(
                v1::ReportResponse {
                    mounts: vec![mount],
                    usage: vec![usage],
                    ..v1::ReportResponse::default()
                },
                None,
            );
            let warmup = v1::warmups_response::Warmup {
                name: "W".to_owned(),
                eta_s: files,
                progress: Some(v1::JobProgress {
                    files_done: done,
                    ..v1::JobProgress::default()
                }),
                ..v1::warmups_response::Warmup::default()
            };
            view.warm(v1::WarmupsResponse {
                warmups: vec![warmup],
            });
            view
        };
        let least = SignedDuration::from_secs(20);
        let mut first = look(100, 1, 1);
        first.settle(&View::default(), least);
        assert_eq!(first.usage["/a/b"].files, 1);
        let mut second = look(119, 2, 1);
        second.settle(&first, least);
        assert_eq!(second.usage["/a/b"].files, 1);
        assert!(second.moved(&first).is_empty() && second.warmed(&first).is_empty());
        let mut third = look(120, 3, 2);
        third.settle(&second, least);
        assert_eq!(third.usage["/a/b"].files, 3);
        assert_eq!(third.moved(&second), [Key::new("a", "b")].into());
        assert_eq!(third.warmed(&second), ["W".to_owned()].into());
        let silent = {
            let mut view = View::default();
            view.settle(&third, least);
            view
        };
        assert_eq!(silent.usage, third.usage);
        assert!(!third.turned(&second) && silent.turned(&third));
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
