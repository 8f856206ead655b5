//! The worker's tie to the master: it registers, reports, and learns of mounts and other workers.

use crate::{
    engine::Engine,
    source::{Mounted, View},
};
use anyhow::bail;
use forebay_client::{Error, Master, Topology, TopologyCache};
use forebay_proto::v1::{HeartbeatRequest, HeartbeatResponse, RegisterRequest, Tier, Worker};
use forebay_service::{Shutdown, data_dir::DataDir};
use forebay_types::{Address, FileRef, MountId, MountSpec, WorkerId};
use futures::{FutureExt, future::BoxFuture};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How often the topology is asked for when nothing seems wrong with it.
const TOPOLOGY: Duration = Duration::from_secs(5);
/// When to ask again if the answer was the one that had been found wanting.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A heartbeat that takes longer is given up.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds of the interval between heartbeats, whatever the master says.
const HEARTBEATS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// How long a reader waits for the master to hear of changed content.
const STALE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts to reach the master at start.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tells `master` of changed content.
pub(crate) fn tell_stale(master: Master, file: Arc<FileRef>) -> BoxFuture<'static, ()> {
    async move {
        let report = master.retrying("report stale", || {
            let (mut metadata, file) = (master.metadata(), (*file).clone());
            async move {
                metadata
                    .report_stale(forebay_proto::v1::FileRef::from(file))
                    .await
            }
        });
        match timeout(STALE_TIMEOUT, report).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(file = %file.id, %error, "cannot report changed content");
            }
            Err(_) => tracing::warn!(file = %file.id, "cannot report changed content: no answer"),
        }
    }
    .boxed()
}

/// The tie.
pub(crate) struct Report {
    master: Master,
    topology: TopologyCache,
    id: WorkerId,
    address: Address,
    data_dir: DataDir,
    engine: Arc<Engine>,
}

impl Report {
    /// Of the worker `id`, which serves at `address`.
    pub(crate) fn new(
        master: Master,
        id: WorkerId,
        address: Address,
        data_dir: DataDir,
        engine: Arc<Engine>,
    ) -> Report {
        let topology = TopologyCache::new(master.clone());
        Report {
            master,
            topology,
            id,
            address,
            data_dir,
            engine,
        }
    }

    /// Registers and takes over the topology, waiting for the master as long as need be; then keeps
    /// both up to date in the background.
    pub(crate) async fn start(self, shutdown: &Shutdown) -> anyhow::Result<()> {
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
        self.take_over(&self.topology.get().await?).await;
        let report = Arc::new(self);
        shutdown.spawn(report.clone().report_on(heartbeat));
        shutdown.spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(TOPOLOGY) => {}
                    () = report.engine.sources.outdated() => {}
                }
                if !report.look().await {
                    // It may have been too fresh to be asked for again.
                    sleep(LOOK_AGAIN).await;
                    report.look().await;
                }
            }
        });
        Ok(())
    }

    /// Takes over the topology as it is now; returns whether it is another than before.
    async fn look(&self) -> bool {
        let Ok(topology) = self.topology.refresh().await else {
            return false;
        };
        let news = !Arc::ptr_eq(&topology, &self.engine.sources.view().topology);
        if news {
            self.take_over(&topology).await;
        }
        news
    }

    /// Makes us known; returns the interval of heartbeats.
    async fn register(&self) -> anyhow::Result<Duration> {
        let capacity = self.engine.store.tiers().iter().map(|t| t.quota).sum();
        let worker = Worker {
            id: self.id.0,
            address: self.address.to_string(),
            capacity,
        };
        let cluster = self.data_dir.cluster().unwrap_or_default();
        let request = RegisterRequest {
            worker: Some(worker),
            cluster,
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
        self.data_dir.bind(&answer.cluster)?;
        tracing::info!(worker = %format_args!("{:016x}", self.id.0), cluster = answer.cluster, "registered");
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
                        self.engine.sources.suspect();
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
        let store = &self.engine.store;
        let tiers = store.tiers().into_iter().map(|tier| Tier {
            medium: tier.medium.to_string(),
            dir: tier.dir.display().to_string(),
            quota: tier.quota,
            used: tier.used,
            files: tier.files,
            fault: tier.fault.unwrap_or_default(),
        });
        let request = HeartbeatRequest {
            worker: self.id.0,
            tiers: tiers.collect(),
            counters: Some(self.engine.metrics.report(store)),
        };
        let beat = || {
            let (mut registry, request) = (self.master.registry(), request.clone());
            async move { registry.heartbeat(request).await }
        };
        Ok(self.master.retrying("heartbeat", beat).await?.into_inner())
    }

    /// Goes by a topology from now on.
    async fn take_over(&self, topology: &Arc<Topology>) {
        if self.data_dir.cluster().as_ref() != Some(&topology.cluster) {
            tracing::error!(
                cluster = topology.cluster,
                "the master answers for another cluster than before; its topology is not used"
            );
            return;
        }
        let view = self.engine.sources.view();
        let mounts = mounted(&view.mounts, &topology.mounts);
        let first = view.topology.cluster.is_empty();
        let removed = view.mounts.keys().any(|id| !mounts.contains_key(id));
        self.engine.sources.set_view(View {
            topology: topology.clone(),
            mounts,
        });
        let workers = topology.workers.len() as i64;
        self.engine.metrics.cluster_workers.set(workers);
        if first || removed {
            let kept: Vec<MountId> = topology.mounts.iter().map(|(id, _)| *id).collect();
            let store = self.engine.store.clone();
            self.engine
                .disk
                .blocking(move || store.retain_mounts(&kept))
                .await;
        }
    }
}

/// The under stores of a mount table: those in use stay as long as their settings do.
fn mounted(
    old: &HashMap<MountId, Mounted>,
    table: &[(MountId, MountSpec)],
) -> HashMap<MountId, Mounted> {
    let open = |(id, spec): &(MountId, MountSpec)| {
        let same = |m: &&Mounted| m.spec.uri == spec.uri && m.spec.options == spec.options;
        let kept = old
            .get(id)
            .filter(same)
            .filter(|m| m.store.is_ok())
            .map(|m| m.store.clone());
        let store = kept.unwrap_or_else(|| {
            forebay_ufs::open(&spec.uri, &spec.options).map_err(|error| {
                let text = format!(
                    "mount {}: {}",
                    spec.path,
                    forebay_types::error::chain(&error)
                );
                tracing::error!("{text}");
                Error::new(error.code, text)
            })
        });
        (
            *id,
            Mounted {
                spec: spec.clone(),
                store,
            },
        )
    };
    let stores = table.iter().filter(|(_, spec)| !spec.is_scratch());
    stores.map(open).collect()
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
    fn an_under_store_is_opened_again_only_when_its_settings_change() {
        let dir = tempfile::tempdir().unwrap();
        let spec = |sub: &str| MountSpec {
            path: "/".to_owned(),
            uri: format!("file://{}/{sub}", dir.path().display()),
            options: std::collections::BTreeMap::default(),
            sync: forebay_types::SyncPolicy::Never,
        };
        let store = |m: &HashMap<MountId, Mounted>| m[&MountId(1)].store.clone().unwrap();
        let first = mounted(&HashMap::new(), &[(MountId(1), spec("a"))]);
        let again = mounted(&first, &[(MountId(1), spec("a"))]);
        assert!(Arc::ptr_eq(&store(&first), &store(&again)));
        let changed = mounted(&again, &[(MountId(1), spec("b"))]);
        assert!(!Arc::ptr_eq(&store(&again), &store(&changed)));
        let bad = MountSpec {
            uri: "nonsense".to_owned(),
            ..spec("a")
        };
        let broken = mounted(&changed, &[(MountId(1), bad)]);
        assert!(broken[&MountId(1)].store.is_err());
    }
}
