//! The tie of a worker to the master: it registers, reports, and learns of mounts and other workers.
//! It knows nothing of caches: a [`Node`] says what there is to report.

use anyhow::bail;
use forebay_client::{Error, Master, Topology, TopologyCache};
use forebay_proto::v1::{
    HeartbeatRequest, HeartbeatResponse, RegisterRequest, Tier, Worker, WorkerCounters,
};
use forebay_service::Shutdown;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How often the topology is asked for when nothing seems wrong with it.
const TOPOLOGY: Duration = Duration::from_secs(5);
/// When to ask again if the answer was the one that had been found wanting.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A heartbeat that takes longer is given up.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of the interval between heartbeats, whatever the master says.
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
    /// Goes by a topology from now on.
    async fn take_over(&self, topology: &Arc<Topology>);
    /// The topology may be out of date.
    fn suspect(&self);
    /// Waits until the topology was found wanting.
    async fn outdated(&self);
}

/// The tie.
pub struct Tie<N> {
    master: Master,
    topology: TopologyCache,
    node: N,
}

impl<N: Node> Tie<N> {
    /// Of a node to its masters.
    pub fn new(master: Master, node: N) -> Tie<N> {
        let topology = TopologyCache::new(master.clone());
        Tie {
            master,
            topology,
            node,
        }
    }

    /// Registers and takes over the topology, waiting for the master as long as need be; then keeps
    /// both up to date in the background.
    pub async fn start(self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut told = false;
        let heartbeat = loop {
            match self.register().await {
                Ok(heartbeat) => break heartbeat,
                Err(error) if is_transient(&error) => {
                    if !std::mem::replace(&mut told, true) {
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
        let first = self.topology.get().await?;
        self.node.take_over(&first).await;
        let tie = Arc::new(self);
        shutdown.spawn(tie.clone().report_on(heartbeat));
        shutdown.spawn(tie.follow(first));
        Ok(())
    }

    async fn follow(self: Arc<Self>, mut last: Arc<Topology>) {
        loop {
            tokio::select! {
                () = sleep(TOPOLOGY) => {}
                () = self.node.outdated() => {}
            }
            if !self.look(&mut last).await {
                // It may have been too fresh to be asked for again.
                sleep(LOOK_AGAIN).await;
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

    /// Makes us known; returns the interval of heartbeats.
    async fn register(&self) -> anyhow::Result<Duration> {
        let worker = self.node.worker();
        let request = RegisterRequest {
            worker: Some(worker.clone()),
            cluster: self.node.cluster().unwrap_or_default(),
        };
        let register = || {
            let (mut registry, request) = (self.master.registry(), request.clone());
            async move { registry.register(request).await }
        };
        let answer = self
            .master
            .retrying("register", register)
            .await?
            .into_inner();
        self.node.bind(&answer.cluster)?;
        tracing::info!(worker = %format_args!("{:016x}", worker.id), cluster = answer.cluster, "registered");
        let interval = answer
            .heartbeat_ms
            .clamp(*HEARTBEATS.start(), *HEARTBEATS.end());
        Ok(Duration::from_millis(interval))
    }

    async fn report_on(self: Arc<Self>, mut interval: Duration) {
        let mut registrations = 0;
        loop {
            match timeout(HEARTBEAT_TIMEOUT, self.heartbeat()).await {
                Ok(Ok(answer)) if answer.known => {
                    if answer.registrations != registrations {
                        // Until all have the same topology two workers may take one page for theirs.
                        registrations = answer.registrations;
                        self.node.suspect();
                    }
                }
                Ok(Ok(_)) => match self.register().await {
                    Ok(given) => interval = given,
                    Err(error) => {
                        tracing::warn!(error = %format!("{error:#}"), "cannot register again");
                    }
                },
                Ok(Err(error)) => tracing::debug!(%error, "heartbeat failed"),
                Err(_) => tracing::debug!("heartbeat failed: no answer"),
            }
            sleep(interval).await;
        }
    }

    /// Reports; the answer tells whether the master knows us and whether the topology changed.
    async fn heartbeat(&self) -> forebay_client::Result<HeartbeatResponse> {
        let request = HeartbeatRequest {
            worker: self.node.worker().id,
            tiers: self.node.tiers(),
            counters: Some(self.node.counters()),
        };
        let beat = || {
            let (mut registry, request) = (self.master.registry(), request.clone());
            async move { registry.heartbeat(request).await }
        };
        Ok(self.master.retrying("heartbeat", beat).await?.into_inner())
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Error>()
        .is_some_and(|e| e.code.is_transient())
}
