//! What the worker reports to the master, and what it does with what it hears.

use crate::{
    engine::Engine,
    homes::Homes,
    source::{Mounted, View},
    tie::Node,
};
use forebay_client::{Error, Master, Topology};
use forebay_proto::v1::{MountCounters, Tier, Worker, WorkerCounters};
use forebay_service::data_dir::DataDir;
use forebay_types::{Address, FileRef, MountId, MountSpec, WorkerId};
use forebay_ufs::UnderStores;
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// How long a reader waits for the master to hear of changed content.
const STALE_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The worker as its master knows it.
pub(crate) struct Report {
    pub(crate) id: WorkerId,
    /// Where others reach it.
    pub(crate) address: Address,
    pub(crate) data_dir: DataDir,
    pub(crate) engine: Arc<Engine>,
    pub(crate) under_stores: UnderStores,
    pub(crate) homes: Arc<Homes>,
}

#[async_trait::async_trait]
impl Node for Report {
    fn worker(&self) -> Worker {
        Worker {
            id: self.id.0,
            address: self.address.to_string(),
            capacity: self.engine.store.tiers().iter().map(|t| t.quota).sum(),
        }
    }

    fn cluster(&self) -> Option<String> {
        self.data_dir.cluster()
    }

    fn bind(&self, cluster: &str) -> anyhow::Result<()> {
        Ok(self.data_dir.bind(cluster)?)
    }

    fn tiers(&self) -> Vec<Tier> {
        let tiers = self.engine.store.tiers().into_iter().map(|tier| Tier {
            medium: tier.medium.to_string(),
            dir: tier.dir.display().to_string(),
            quota: tier.quota,
            used: tier.used,
            files: tier.files,
            fault: tier.fault.unwrap_or_default(),
        });
        tiers.collect()
    }

    fn counters(&self) -> WorkerCounters {
        self.engine.metrics.report(&self.engine.store)
    }

    fn mounts(&self) -> Vec<MountCounters> {
        let mut mounts = BTreeMap::<MountId, MountCounters>::new();
        for (mount, bytes) in self.engine.store.mounts() {
            let counters = mounts.entry(mount).or_default();
            counters.cached_bytes = bytes.cached;
            counters.home_bytes = bytes.home;
        }
        for (mount, (all, whole)) in self.engine.metrics.opens.read() {
            let counters = mounts.entry(mount).or_default();
            counters.opens = all;
            counters.opens_whole = whole;
        }
        let row = |(mount, counters): (MountId, MountCounters)| MountCounters {
            mount: mount.0,
            ..counters
        };
        mounts.into_iter().map(row).collect()
    }

    async fn outdated(&self) {
        self.engine.sources.outdated().await;
    }

    async fn take_over(&self, topology: &Arc<Topology>) {
        if self.data_dir.cluster().as_ref() != Some(&topology.cluster) {
            tracing::error!(
                cluster = topology.cluster,
                "the master answers for another cluster than before; its topology is not used"
            );
            return;
        }
        let view = self.engine.sources.view();
        let mounts = mounted(&view.mounts, &topology.mounts, &self.under_stores);
        let first = view.topology.cluster.is_empty();
        let removed = view.mounts.keys().any(|id| !mounts.contains_key(id));
        self.engine.sources.set_view(View {
            topology: topology.clone(),
            mounts,
        });
        self.homes.follow(topology);
        let workers = topology.workers.len() as i64;
        self.engine.metrics.cluster_workers.set(workers);
        if first || removed {
            let kept: Vec<MountId> = topology.mounts.iter().map(|(id, _)| *id).collect();
            self.engine.metrics.opens.retain(&kept);
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
    under_stores: &UnderStores,
) -> HashMap<MountId, Mounted> {
    let open = |(id, spec): &(MountId, MountSpec)| {
        let same = |m: &&Mounted| m.spec.same_store(spec);
        let kept = old
            .get(id)
            .filter(same)
            .filter(|m| m.store.is_ok())
            .map(|m| m.store.clone());
        let store = kept.unwrap_or_else(|| {
            under_stores.open(spec).map_err(|error| {
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
            credentials: None,
        };
        let opened = |old: &_, table: &_| mounted(old, table, &UnderStores::default());
        let store = |m: &HashMap<MountId, Mounted>| m[&MountId(1)].store.clone().unwrap();
        let first = opened(&HashMap::new(), &[(MountId(1), spec("a"))]);
        let again = opened(&first, &[(MountId(1), spec("a"))]);
        assert!(Arc::ptr_eq(&store(&first), &store(&again)));
        let changed = opened(&again, &[(MountId(1), spec("b"))]);
        assert!(!Arc::ptr_eq(&store(&again), &store(&changed)));
        let bad = MountSpec {
            uri: "nonsense".to_owned(),
            ..spec("a")
        };
        let broken = opened(&changed, &[(MountId(1), bad)]);
        assert!(broken[&MountId(1)].store.is_err());
    }
}
