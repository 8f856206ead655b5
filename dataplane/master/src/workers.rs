//! Which workers there are, as they last said themselves. Soft state: rebuilt from their reports.

use crate::error::{Error, Result};
use forebay_client::{Topology, WorkerInfo};
use forebay_proto::v1;
use forebay_types::{Address, Code, WorkerId};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How often workers report.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// A worker that was silent for so long gets no more work and is no home any more.
pub const DEAD_AFTER: Duration = Duration::from_secs(5);

/// A worker that was silent for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// The workers by id.
pub(crate) struct Workers {
    known: Mutex<BTreeMap<WorkerId, Known>>,
    registrations: AtomicU64,
}

struct Known {
    info: WorkerInfo,
    tiers: Vec<v1::Tier>,
    counters: v1::WorkerCounters,
    seen: Instant,
}

impl Known {
    fn is_live(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < DEAD_AFTER
    }
}

impl Workers {
    /// None yet, in this term of the leader: two leaders never count to the same number.
    pub(crate) fn new(term: u64) -> Workers {
        Workers {
            known: Mutex::default(),
            registrations: AtomicU64::new(term << 32),
        }
    }

    /// A worker begins to serve. Its counters start from zero.
    pub(crate) fn register(&self, worker: &v1::Worker, now: Instant) -> Result<()> {
        let address: Address = worker
            .address
            .parse()
            .map_err(|e: String| Error::new(Code::InvalidArgument, e))?;
        let info = WorkerInfo {
            id: WorkerId(worker.id),
            address,
            capacity: worker.capacity,
        };
        let mut known = self.known.lock();
        known.retain(|_, k| now.saturating_duration_since(k.seen) < FORGOTTEN_AFTER);
        let counters = v1::WorkerCounters::default();
        known.insert(
            info.id,
            Known {
                info,
                tiers: Vec::new(),
                counters,
                seen: now,
            },
        );
        self.registrations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Counts registrations: another number than last time means another topology.
    pub(crate) fn registrations(&self) -> u64 {
        self.registrations.load(Ordering::Relaxed)
    }

    /// A worker reports; false: it must register again.
    pub(crate) fn heartbeat(&self, beat: v1::HeartbeatRequest, now: Instant) -> bool {
        let mut known = self.known.lock();
        match known.get_mut(&WorkerId(beat.worker)) {
            Some(worker) if worker.is_live(now) => {
                worker.tiers = beat.tiers;
                worker.counters = beat.counters.unwrap_or_default();
                worker.seen = now;
                true
            }
            _ => false,
        }
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

    fn worker(id: u64) -> v1::Worker {
        v1::Worker {
            id,
            address: format!("127.0.0.1:{id}"),
            capacity: 10,
        }
    }

    fn beat(worker: u64) -> v1::HeartbeatRequest {
        let tier = v1::Tier {
            used: 5,
            ..v1::Tier::default()
        };
        v1::HeartbeatRequest {
            worker,
            tiers: vec![tier],
            counters: None,
        }
    }

    #[test]
    fn silent_workers_are_dead_until_they_register_again() {
        let workers = Workers::new(1);
        let start = Instant::now();
        workers.register(&worker(9), start).unwrap();
        workers.register(&worker(3), start).unwrap();
        let ids = |at| workers.live(at).iter().map(|w| w.id.0).collect::<Vec<_>>();
        assert_eq!(ids(start), [3, 9]);
        let later = start + DEAD_AFTER.mul_f64(0.5);
        assert!(workers.heartbeat(beat(9), later));
        let late = start + DEAD_AFTER;
        assert_eq!(ids(late), [9]);
        assert!(!workers.heartbeat(beat(3), late), "given up: must register");
        assert!(!workers.heartbeat(beat(4), late), "never seen");
        workers.register(&worker(3), late).unwrap();
        assert_eq!(ids(late), [3, 9]);
        let report = workers.report(late);
        assert_eq!(report[1].tiers[0].used, 5);
        assert_eq!(
            report[1].heartbeat_age_ms,
            DEAD_AFTER.as_millis() as u64 / 2
        );
    }

    #[test]
    fn a_worker_without_an_address_is_refused() {
        let workers = Workers::new(1);
        let nameless = v1::Worker {
            address: "nowhere".into(),
            ..worker(1)
        };
        let error = workers.register(&nameless, Instant::now()).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
    }
}
