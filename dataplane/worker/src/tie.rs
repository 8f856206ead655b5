//! The tie of a worker to the master: it registers, reports, and learns of mounts and other workers.
//! It knows nothing of caches: a [`Node`] says what there is to report.
//!
//! There may be thousands of ties to one master. The master says how often each reports; what has not
//! changed is left out; the topology is asked for only when a heartbeat told that it changed, or the
//! node finds it wanting; nothing is done by all at the same moment for long.

use anyhow::bail;
use forebay_client::{
    Error, Master, Topology, TopologyCache,
    call::{jittered, share},
};
use forebay_proto::v1::{
    HeartbeatRequest, HeartbeatResponse, MountCounters, RegisterRequest, Tier, Worker,
    WorkerCounters,
};
use forebay_service::Shutdown;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Least pause between two questions for the topology …
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// … and where there are many workers, this part of the interval between heartbeats.
const LOOKS: u32 = 4;
/// A heartbeat that takes longer is given up.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of the interval between heartbeats, whatever the master says, in milliseconds.
const HEARTBEATS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Between attempts to reach the master at start.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a worker says of itself, and what it does with what it hears.
#[async_trait::async_trait]
pub trait Node: Send + Sync + 'static {
    /// Who and where it is.
    fn worker(&self) -> Worker;
    /// The cluster it belongs to, if it ever belonged to one.
    fn cluster(&self) -> Option<String>;
    /// It belongs to this cluster from now on; an error if it belongs to another.
    fn bind(&self, cluster: &str) -> anyhow::Result<()>;
    /// Its tiers as they are now.
    fn tiers(&self) -> Vec<Tier>;
    /// What it has counted so far.
    fn counters(&self) -> WorkerCounters;
    /// What it has and does for each mount, in the order of their ids.
    fn mounts(&self) -> Vec<MountCounters>;
    /// Goes by a topology from now on.
    async fn take_over(&self, topology: &Arc<Topology>);
    /// Waits until the topology was found wanting.
    async fn outdated(&self);
}

/// What the master was told and has taken in.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    tiers: Vec<Tier>,
    counters: WorkerCounters,
    mounts: Vec<MountCounters>,
}

impl Told {
    fn of(node: &impl Node) -> Told {
        Told {
            tiers: node.tiers(),
            counters: node.counters(),
            mounts: node.mounts(),
        }
    }

    /// What of this is new to somebody who was told `before`; the rest of the request is empty.
    fn news(&self, before: &Told) -> HeartbeatRequest {
        HeartbeatRequest {
            tiers: changed(&self.tiers, &before.tiers),
            counters: (self.counters != before.counters).then_some(self.counters),
            mounts: changed(&self.mounts, &before.mounts),
            ..HeartbeatRequest::default()
        }
    }
}

/// All of a list if anything in it is new, else nothing.
fn changed<T: Clone + PartialEq>(now: &[T], before: &[T]) -> Vec<T> {
    if now == before {
        Vec::new()
    } else {
        now.to_vec()
    }
}

/// The tie.
pub struct Tie<N> {
    master: Master,
    topology: TopologyCache,
    node: N,
    /// How often it reports, in milliseconds; 0: not told yet.
    interval: AtomicU64,
    /// The master has another topology than we.
    changed: Notify,
}

impl<N: Node> Tie<N> {
    /// Of a node to its masters.
    pub fn new(master: Master, node: N) -> Tie<N> {
        let topology = TopologyCache::new(master.clone());
        Tie {
            master,
            topology,
            node,
            interval: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Registers and takes over the topology, waiting for the master as long as need be; then keeps
    /// both up to date in the background.
    pub async fn start(self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut complained = false;
        let (told, first) = loop {
            match self.begin().await {
                Ok(begun) => break begun,
                Err(error) if is_transient(&error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "waiting for the master");
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = shutdown.begun() => bail!("stopped before the master answered"),
                () = sleep(PATIENCE) => {}
            }
        };
        self.node.take_over(&first).await;
        let tie = Arc::new(self);
        shutdown.spawn(tie.clone().report_on(told));
        shutdown.spawn(tie.follow(first));
        Ok(())
    }

    async fn begin(&self) -> anyhow::Result<(Told, Arc<Topology>)> {
        Ok((self.register().await?, self.topology.get().await?))
    }

    /// Keeps the topology up to date.
    async fn follow(self: Arc<Self>, mut last: Arc<Topology>) {
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.node.outdated() => {}
            }
            let news = self.look(&mut last).await;
            let pause = LOOK_AGAIN.max(self.interval() / LOOKS);
            sleep(jittered(pause, share())).await;
            if !news {
                // It may have been too fresh to be asked for again.
                self.look(&mut last).await;
            }
        }
    }

    /// Takes over the topology as it is now; returns whether it is another than before.
    async fn look(&self, last: &mut Arc<Topology>) -> bool {
        let Ok(topology) = self.topology.refresh().await else {
            return false;
        };
        let news = !Arc::ptr_eq(&topology, last);
        if news {
            self.node.take_over(&topology).await;
            *last = topology;
        }
        news
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval.load(Ordering::Relaxed))
    }

    fn report_every(&self, heartbeat_ms: u64) {
        let interval = heartbeat_ms.clamp(*HEARTBEATS.start(), *HEARTBEATS.end());
        self.interval.store(interval, Ordering::Relaxed);
    }

    /// Makes us known; returns what was told.
    async fn register(&self) -> anyhow::Result<Told> {
        let (worker, told) = (self.node.worker(), Told::of(&self.node));
        let request = RegisterRequest {
            worker: Some(worker.clone()),
            cluster: self.node.cluster().unwrap_or_default(),
            tiers: told.tiers.clone(),
            counters: Some(told.counters),
            heartbeat_ms: self.interval.load(Ordering::Relaxed),
            mounts: told.mounts.clone(),
        };
        let register = || {
            let (mut registry, request) = (self.master.registry(), request.clone());
            async move { registry.register(request).await }
        };
        let answer = self.master.calmly("register", register).await?.into_inner();
        self.node.bind(&answer.cluster)?;
        tracing::info!(worker = %format_args!("{:016x}", worker.id), cluster = answer.cluster, "registered");
        self.report_every(answer.heartbeat_ms);
        Ok(told)
    }

    async fn report_on(self: Arc<Self>, mut told: Told) {
        // Those that registered together report one after the other.
        sleep(self.interval().mul_f64(share())).await;
        loop {
            let now = Told::of(&self.node);
            match timeout(HEARTBEAT_TIMEOUT, self.heartbeat(&now, &told)).await {
                Ok(Ok(answer)) if answer.known => {
                    told = now;
                    self.report_every(answer.heartbeat_ms);
                    if answer.topology.is_some() && answer.topology != self.topology.version() {
                        // Until all have the same topology two workers may take one page for theirs.
                        self.changed.notify_one();
                    }
                }
                Ok(Ok(_)) => match self.register().await {
                    Ok(all) => told = all,
                    Err(error) => {
                        tracing::warn!(error = %format!("{error:#}"), "cannot register again");
                    }
                },
                Ok(Err(error)) => tracing::debug!(%error, "heartbeat failed"),
                Err(_) => tracing::debug!("heartbeat failed: no answer"),
            }
            sleep(jittered(self.interval(), share())).await;
        }
    }

    /// Reports what is new; the answer tells whether the master knows us and which topology it has.
    async fn heartbeat(
        &self,
        now: &Told,
        before: &Told,
    ) -> forebay_client::Result<HeartbeatResponse> {
        let request = HeartbeatRequest {
            worker: self.node.worker().id,
            heartbeat_ms: self.interval.load(Ordering::Relaxed),
            ..now.news(before)
        };
        let beat = || {
            let (mut registry, request) = (self.master.registry(), request.clone());
            async move { registry.heartbeat(request).await }
        };
        Ok(self.master.calmly("heartbeat", beat).await?.into_inner())
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Error>()
        .is_some_and(|e| e.code.is_transient())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told() {
        let tier = |used| Tier {
            used,
            ..Tier::default()
        };
        let told = |used, ufs_requests, opens| Told {
            mounts: vec![MountCounters {
                mount: 3,
                opens,
                ..MountCounters::default()
            }],
            tiers: vec![tier(used)],
            counters: WorkerCounters {
                ufs_requests,
                ..WorkerCounters::default()
            },
        };
        let before = told(1, 1, 1);
        assert_eq!(before.news(&before), HeartbeatRequest::default());
        let news = told(2, 1, 1).news(&before);
        assert_eq!((news.tiers, news.counters), (vec![tier(2)], None));
        let news = told(1, 2, 1).news(&before);
        assert!(news.tiers.is_empty() && news.mounts.is_empty());
        assert!(news.counters.is_some_and(|c| c.ufs_requests == 2));
        let news = told(1, 1, 2).news(&before);
        assert!(news.tiers.is_empty() && news.counters.is_none());
        assert_eq!((news.mounts[0].mount, news.mounts[0].opens), (3, 2));
    }
}
