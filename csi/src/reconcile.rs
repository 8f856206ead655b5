//! What is there is compared with what is recorded, again and again: at start, and when the FUSE
//! host has come back.

use crate::{driver::Driver, error::Error, host::Volumes, plan, record::Record, volume::VolumeId};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long pods see a dead volume after the FUSE host has come back. A round asks the FUSE host
/// for a list and every volume for its figures.
const PERIOD: Duration = Duration::from_secs(2);
/// After a failure a volume is left alone for as long, and twice as long after the next: the
/// kubelet has to get its turns.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// Why volumes cannot be served at the moment, for `/readyz`.
pub type Fault = Arc<Mutex<Option<String>>>;

/// A volume whose repair has failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    pause: Duration,
    until: Instant,
}

/// The loop and what it remembers.
#[derive(Clone, Debug)]
pub struct Reconciler {
    driver: Driver,
    failed: Arc<Mutex<HashMap<VolumeId, Failed>>>,
    /// Volumes without a record that pods use: told once.
    lost: Arc<Mutex<HashSet<VolumeId>>>,
    fault: Fault,
}

impl Reconciler {
    /// Nothing compared yet.
    pub fn new(driver: Driver) -> Reconciler {
        Reconciler {
            driver,
            failed: Arc::default(),
            lost: Arc::default(),
            fault: Arc::new(Mutex::new(Some("starting".to_owned()))),
        }
    }

    /// What keeps volumes from being served.
    pub fn fault(&self) -> Fault {
        Arc::clone(&self.fault)
    }

    /// Compares for ever.
    pub async fn run(self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.round().await;
        }
    }

    async fn round(&self) {
        let volumes = self.driver.host.volumes().await;
        let metrics = &self.driver.metrics;
        metrics.host_up.set(i64::from(volumes.is_ok()));
        let records = self.driver.store.all();
        metrics.staged.set(records.len() as i64);
        let published: usize = records.iter().map(|record| record.targets.len()).sum();
        metrics.published.set(published as i64);
        let fault = volumes.as_ref().err().map(ToString::to_string);
        let was = std::mem::replace(&mut *self.fault.lock(), fault.clone());
        // Dead mounts stay where they are until they can be replaced.
        let Ok(volumes) = volumes else {
            if was != fault {
                tracing::warn!(fault, "no volume can be staged");
            }
            return;
        };
        // One that is slow does not hold up the others, nor the next round.
        for record in records {
            let (this, volumes) = (self.clone(), volumes.clone());
            tokio::spawn(async move { this.repair(record, &volumes).await });
        }
        for (id, point) in volumes.all() {
            self.reap(id, point).await;
        }
    }

    async fn repair(&self, record: Record, volumes: &Volumes) {
        let id = record.id();
        let now = Instant::now();
        if self.failed.lock().get(id).is_some_and(|f| f.until > now) {
            return;
        }
        // Most rounds find nothing to do, and must not get into the kubelet's way then.
        match self.driver.look(&record, volumes).await {
            Ok(seen) if plan::repair(&record, &seen).is_empty() => {
                self.failed.lock().remove(id);
                return;
            }
            Ok(_) => {}
            Err(error) => return tracing::warn!(volume = %id, %error, "cannot be looked at"),
        }
        match self.driver.repair(id).await {
            Ok(()) => {
                self.failed.lock().remove(id);
            }
            Err(Error::Busy(_)) => {}
            Err(error) => {
                let mut failed = self.failed.lock();
                let pause = failed.get(id).map_or(FIRST_PAUSE, |f| f.pause * 2);
                let pause = pause.min(LONGEST_PAUSE);
                let until = Instant::now() + pause;
                failed.insert(id.clone(), Failed { pause, until });
                tracing::info!(volume = %id, %error, "tried again in {pause:?}");
            }
        }
    }

    async fn reap(&self, id: &str, point: &Path) {
        // One with another kind of name is not ours.
        let Ok(id) = VolumeId::try_from(id.to_owned()) else {
            return;
        };
        if self.driver.store.get(&id).is_some() {
            return;
        }
        match self.driver.reap(&id, point).await {
            // How it ended is told by the operation.
            Ok(true) | Err(_) => {}
            Ok(false) => {
                if self.lost.lock().insert(id.clone()) {
                    tracing::error!(volume = %id, "used by pods and not recorded: left as it is");
                }
            }
        }
    }
}
