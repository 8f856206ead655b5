//! Which workers there are, as they last said themselves. Soft state: rebuilt from their reports.

use crate::{
    error::{Error, Result},
    pace,
    roster::{MountRow, Roster},
    usage::Told,
};
use forebay_client::{Topology, WorkerInfo};
use forebay_proto::v1;
use forebay_types::{Address, Code, MountId, WorkerId};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep_until;

/// A worker that was silent for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// The workers by id.
pub(crate) struct Workers {
    known: Mutex<BTreeMap<WorkerId, Known>>,
    /// Those that live, more or less: for the pace.
    live: AtomicUsize,
    published: RwLock<Published>,
    settling: Mutex<Settling>,
}

struct Known {
    info: WorkerInfo,
    tiers: Vec<v1::Tier>,
    counters: v1::WorkerCounters,
    mounts: Vec<v1::MountCounters>,
    seen: Instant,
    /// How often it was told to report.
    interval: Duration,
}

struct Published {
    roster: Roster,
    at: Option<Instant>,
}

/// When all workers of the leader before have reported, as far as can be said: the longer the
/// intervals are that they come with, the later, and not while they still come.
struct Settling {
    begun: Instant,
    until: Instant,
    /// The longest interval that somebody came with.
    interval: Duration,
}

impl Known {
    fn is_live(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < pace::dead_after(self.interval)
    }
}

impl Workers {
    /// None yet, in this term of the leader. With `predecessor` there was a leader before, whose
    /// workers will report soon.
    pub(crate) fn new(term: u64, predecessor: bool, now: Instant) -> Workers {
        let interval = pace::interval(0);
        let [least, ..] = pace::settling(interval);
        let patience = if predecessor { least } else { Duration::ZERO };
        Workers {
            known: Mutex::default(),
            live: AtomicUsize::new(0),
            published: RwLock::new(Published {
                roster: Roster::new(term),
                at: None,
            }),
            settling: Mutex::new(Settling {
                begun: now,
                until: now + patience,
                interval,
            }),
        }
    }

    /// A worker begins to serve, or is new to this leader; how often it is to report.
    pub(crate) fn register(&self, request: v1::RegisterRequest, now: Instant) -> Result<Duration> {
        let invalid = |text: String| Error::new(Code::InvalidArgument, text);
        let worker = request
            .worker
            .ok_or_else(|| invalid("the request names no worker".to_owned()))?;
        let address: Address = worker.address.parse().map_err(invalid)?;
        let info = WorkerInfo {
            id: WorkerId(worker.id),
            address,
            capacity: worker.capacity,
        };
        self.hear(request.heartbeat_ms, now);
        let mut known = self.known.lock();
        let before = known.get(&info.id).is_some_and(|old| old.is_live(now));
        if !before {
            self.live.fetch_add(1, Ordering::Relaxed);
        }
        let interval = self.interval(now);
        known.insert(
            info.id,
            Known {
                info,
                tiers: request.tiers,
                counters: request.counters.unwrap_or_default(),
                mounts: request.mounts,
                seen: now,
                interval,
            },
        );
        Ok(interval)
    }

    /// A worker reports; how often it is to report from now on. None: it must register again.
    pub(crate) fn heartbeat(&self, beat: v1::HeartbeatRequest, now: Instant) -> Option<Duration> {
        let mut known = self.known.lock();
        let worker = known.get_mut(&WorkerId(beat.worker));
        let worker = worker.filter(|worker| worker.is_live(now))?;
        if !beat.tiers.is_empty() {
            worker.tiers = beat.tiers;
        }
        if let Some(counters) = beat.counters {
            worker.counters = counters;
        }
        if !beat.mounts.is_empty() {
            worker.mounts = beat.mounts;
        }
        worker.seen = now;
        worker.interval = self.interval(now);
        Some(worker.interval)
    }

    /// What workers bring with them tells how many there were before; with nothing they are new.
    fn hear(&self, heartbeat_ms: u64, now: Instant) {
        let mut settling = self.settling.lock();
        if heartbeat_ms == 0 || now >= settling.until {
            return;
        }
        let heard = pace::bounded(Duration::from_millis(heartbeat_ms));
        settling.interval = settling.interval.max(heard);
        let [least, more, most] = pace::settling(settling.interval);
        let last = settling.begun + most;
        settling.until = (settling.begun + least).max(now + more).min(last);
    }

    fn interval(&self, now: Instant) -> Duration {
        let interval = pace::interval(self.live.load(Ordering::Relaxed));
        let settling = self.settling.lock();
        if now < settling.until {
            interval.max(settling.interval)
        } else {
            interval
        }
    }

    /// Resolves when the workers of the leader before have had the time to report.
    pub(crate) async fn settled(&self) {
        // Those that come may say that others take longer.
        while Instant::now() < self.settled_at() {
            sleep_until(self.settled_at().into()).await;
        }
    }

    /// Until when live workers may be unknown here; may move on.
    pub(crate) fn settled_at(&self) -> Instant {
        self.settling.lock().until
    }

    /// What everyone should have by now; none while that cannot be said.
    pub(crate) fn version(&self, now: Instant) -> Option<v1::TopologyVersion> {
        (now >= self.settled_at()).then(|| self.published.read().roster.version())
    }

    /// Lets everyone know how things stand, unless that was told a moment ago.
    pub(crate) fn publish(&self, mounts: impl FnOnce() -> Vec<MountRow>, now: Instant) {
        let early = |published: &Published| {
            let gathering = pace::gathering(published.roster.workers());
            let told = published.at;
            told.is_some_and(|at| now.saturating_duration_since(at) < gathering)
        };
        if early(&self.published.read()) {
            return;
        }
        let mut published = self.published.write();
        if early(&published) {
            return;
        }
        let mounts = mounts();
        let live = {
            let mut known = self.known.lock();
            known.retain(|_, k| now.saturating_duration_since(k.seen) < FORGOTTEN_AFTER);
            let live = known.values().filter(|w| w.is_live(now));
            let live: Vec<WorkerInfo> = live.map(|w| w.info.clone()).collect();
            self.live.store(live.len(), Ordering::Relaxed);
            live
        };
        published.roster.publish(mounts, live);
        published.at = Some(now);
    }

    /// The answer to somebody who asks for the topology.
    pub(crate) fn tell(&self, asked: &v1::TopologyRequest, now: Instant) -> v1::TopologyResponse {
        let settling = now < self.settled_at();
        self.published.read().roster.answer(asked, settling)
    }

    /// How many live, as of the last publication.
    pub(crate) fn count(&self) -> usize {
        self.published.read().roster.workers()
    }

    /// The live workers, in the order of ids.
    pub(crate) fn live(&self, now: Instant) -> Vec<WorkerInfo> {
        self.known
            .lock()
            .values()
            .filter(|w| w.is_live(now))
            .map(|w| w.info.clone())
            .collect()
    }

    /// The live workers, ready to place files on.
    pub(crate) fn topology(&self, now: Instant) -> Topology {
        Topology::new(String::new(), Vec::new(), self.live(now))
    }

    /// What the live ones have and do for each mount.
    pub(crate) fn usage(&self, now: Instant) -> BTreeMap<MountId, Told> {
        let mut usage = BTreeMap::<MountId, Told>::new();
        for worker in self.known.lock().values().filter(|w| w.is_live(now)) {
            for counters in &worker.mounts {
                let told = usage.entry(MountId(counters.mount)).or_default();
                told.hear(worker.info.id, counters);
            }
        }
        usage
    }

    /// All that are known, dead ones too, in the order of ids.
    pub(crate) fn report(&self, now: Instant) -> Vec<v1::report_response::WorkerReport> {
        let known = self.known.lock();
        let report = |w: &Known| v1::report_response::WorkerReport {
            worker: Some(to_wire(&w.info)),
            tiers: w.tiers.clone(),
            counters: Some(w.counters),
            heartbeat_age_ms: now.saturating_duration_since(w.seen).as_millis() as u64,
        };
        known.values().map(report).collect()
    }
}

/// A worker as others need to know it.
pub(crate) fn to_wire(info: &WorkerInfo) -> v1::Worker {
    v1::Worker {
        id: info.id.0,
        address: info.address.to_string(),
        capacity: info.capacity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_meta::Usage;

    const SECOND: Duration = Duration::from_secs(1);

    fn worker(id: u64) -> v1::RegisterRequest {
        let tier = v1::Tier {
            used: 5,
            ..v1::Tier::default()
        };
        v1::RegisterRequest {
            worker: Some(v1::Worker {
                id,
                address: format!("127.0.0.1:{id}"),
                capacity: 10,
            }),
            tiers: vec![tier],
            ..v1::RegisterRequest::default()
        }
    }

    fn beat(worker: u64) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            worker,
            ..v1::HeartbeatRequest::default()
        }
    }

    #[test]
    fn silent_workers_are_dead_until_they_register_again() {
        let start = Instant::now();
        let workers = Workers::new(1, false, start);
        let interval = workers.register(worker(9), start).unwrap();
        workers.register(worker(3), start).unwrap();
        let ids = |at| workers.live(at).iter().map(|w| w.id.0).collect::<Vec<_>>();
        assert_eq!(ids(start), [3, 9]);
        let later = start + 2 * interval;
        assert!(workers.heartbeat(beat(9), later).is_some());
        let late = start + pace::dead_after(interval);
        assert_eq!(ids(late), [9]);
        assert!(workers.heartbeat(beat(3), late).is_none(), "given up");
        assert!(workers.heartbeat(beat(4), late).is_none(), "never seen");
        workers.register(worker(3), late).unwrap();
        assert_eq!(ids(late), [3, 9]);
    }

    #[test]
    fn what_a_heartbeat_leaves_out_stays() {
        let now = Instant::now();
        let workers = Workers::new(1, false, now);
        workers.register(worker(3), now).unwrap();
        let counters = v1::WorkerCounters {
            ufs_requests: 7,
            ..v1::WorkerCounters::default()
        };
        let news = v1::HeartbeatRequest {
            counters: Some(counters),
            ..beat(3)
        };
        workers.heartbeat(news, now);
        workers.heartbeat(beat(3), now);
        let report = &workers.report(now + SECOND)[0];
        assert_eq!(report.tiers[0].used, 5);
        assert_eq!(report.counters, Some(counters));
        assert_eq!(report.heartbeat_age_ms, 1_000);
    }

    #[test]
    fn what_live_workers_have_of_a_mount_is_known() {
        let start = Instant::now();
        let workers = Workers::new(1, false, start);
        let counters = |mount, cached_bytes| v1::MountCounters {
            mount,
            cached_bytes,
            home_bytes: cached_bytes,
            ..v1::MountCounters::default()
        };
        let register = |id| v1::RegisterRequest {
            mounts: vec![counters(1, 10), counters(2, 20)],
            ..worker(id)
        };
        let interval = workers.register(register(3), start).unwrap();
        workers.register(register(9), start).unwrap();
        let cached = |mount, at| {
            let told = workers.usage(at).remove(&MountId(mount));
            let usage = told
                .unwrap_or_default()
                .with(MountId(mount), Usage::default());
            usage.cached_bytes
        };
        assert_eq!((cached(1, start), cached(2, start)), (20, 40));
        let later = start + 2 * interval;
        let news = v1::HeartbeatRequest {
            mounts: vec![counters(2, 5)],
            ..beat(9)
        };
        workers.heartbeat(news, later);
        workers.heartbeat(beat(9), later);
        assert_eq!((cached(1, later), cached(2, later)), (10, 25));
        let late = start + pace::dead_after(interval);
        assert_eq!((cached(1, late), cached(2, late)), (0, 5), "3 is dead");
    }

    #[test]
    fn those_that_were_told_a_long_interval_keep_the_time_when_many_others_die() {
        let start = Instant::now();
        let workers = Workers::new(1, false, start);
        for id in 1..=5_000 {
            workers.register(worker(id), start).unwrap();
        }
        assert_eq!(workers.heartbeat(beat(1), start), Some(5 * SECOND));
        let later = start + 10 * SECOND;
        assert_eq!(workers.heartbeat(beat(1), later), Some(5 * SECOND));
        let late = start + 20 * SECOND;
        workers.publish(Vec::new, late);
        assert_eq!(workers.live(late).len(), 1);
        assert_eq!(workers.heartbeat(beat(1), late), Some(SECOND));
    }

    #[test]
    fn a_new_leader_settles_as_long_as_its_workers_were_told_to_be_silent() {
        let start = Instant::now();
        let workers = Workers::new(2, true, start);
        let patience = |w: &Workers| w.settled_at() - start;
        let told = |interval| pace::settling(interval);
        assert_eq!(patience(&workers), told(SECOND)[0]);
        let soon = start + SECOND;
        workers.register(worker(7), soon).unwrap();
        assert_eq!(patience(&workers), told(SECOND)[0], "a new one");
        let returning = |id| v1::RegisterRequest {
            heartbeat_ms: 5_000,
            ..worker(id)
        };
        // The pace stays until it is known how many there are.
        let interval = workers.register(returning(1), soon).unwrap();
        assert_eq!(interval, 5 * SECOND);
        let [least, more, most] = told(interval);
        assert_eq!(patience(&workers), least);
        let late = start + least.saturating_sub(more / 2);
        workers.register(returning(2), late).unwrap();
        assert_eq!(workers.settled_at(), late + more, "they still come");
        workers.publish(Vec::new, soon);
        assert_eq!(workers.version(soon), None);
        for id in 3.. {
            let now = start + patience(&workers).saturating_sub(more / 2);
            workers.register(returning(id), now).unwrap();
            if patience(&workers) == most {
                break;
            }
        }
        let settled = workers.settled_at();
        workers.publish(Vec::new, settled);
        assert!(workers.version(settled).is_some());
        assert_eq!(workers.heartbeat(beat(1), settled), Some(SECOND));
    }

    #[test]
    fn few_are_told_of_at_once_and_many_together() {
        let start = Instant::now();
        let workers = Workers::new(1, false, start);
        let number = |at| {
            workers.publish(Vec::new, at);
            workers.version(at).unwrap().number
        };
        for id in 1..=99 {
            workers.register(worker(id), start).unwrap();
            assert_eq!(number(start), id);
        }
        workers.register(worker(100), start).unwrap();
        assert_eq!(number(start), 100);
        for id in 101..=2_000 {
            workers.register(worker(id), start).unwrap();
            assert_eq!(number(start), 100);
        }
        assert_eq!(number(start + SECOND), 101);
        assert_eq!(workers.count(), 2_000);
    }

    #[test]
    fn a_worker_without_an_address_is_refused() {
        let now = Instant::now();
        let workers = Workers::new(1, false, now);
        let mut nameless = worker(1);
        nameless.worker.as_mut().unwrap().address = "nowhere".into();
        let error = workers.register(nameless, now).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        let nobody = v1::RegisterRequest::default();
        let error = workers.register(nobody, now).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
    }
}
