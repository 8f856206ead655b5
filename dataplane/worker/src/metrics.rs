//! What the worker counts, for Prometheus and for the master.

use crate::opens::Opens;
use forebay_cache::{Store, TierStatus};
use forebay_proto::v1::WorkerCounters;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::Counter,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};
use std::sync::Arc;

/// Counters since the worker started; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Bytes asked for that were in a tier.
    pub bytes_from_cache: Counter,
    /// Bytes received from other workers.
    pub bytes_from_peers: Counter,
    /// Bytes received from under stores.
    pub bytes_from_ufs: Counter,
    /// Opens of files that were whole.
    pub opens_whole: Counter,
    /// Opens of files that were partly there.
    pub opens_partial: Counter,
    /// Opens of files of which nothing was there.
    pub opens_absent: Counter,
    /// Opens of files of each mount.
    pub opens: Opens,
    /// Bytes of the files that were whole when opened.
    pub bytes_opened_whole: Counter,
    /// Ranged reads sent to under stores.
    pub ufs_requests: Counter,
    /// Reads served without the cache because it could not take the bytes.
    pub uncached_reads: Counter,
    /// Pages asked for that were in a tier.
    pub pages_from_cache: Counter,
    /// Requests to other workers that failed and went to the next source.
    pub peer_failures: Counter,
    /// Fills that found another content in the under store.
    pub stale_fills: Counter,
    /// Live workers of the cluster, ourselves included, as this worker knows them.
    pub cluster_workers: Gauge,
}

impl Metrics {
    /// Declares them in `registry`, with the state of the tiers.
    pub fn register(&self, registry: &mut Registry, store: &Arc<Store>) {
        let worker = registry.sub_registry_with_prefix("forebay_worker");
        worker.register(
            "cluster_workers",
            "Live workers of the cluster as this one knows them",
            self.cluster_workers.clone(),
        );
        let mut bytes = |name, help, counter: &Counter| {
            worker.register_with_unit(name, help, Unit::Bytes, counter.clone());
        };
        bytes(
            "from_cache",
            "Bytes asked for that were in a tier",
            &self.bytes_from_cache,
        );
        bytes(
            "from_peers",
            "Bytes received from other workers",
            &self.bytes_from_peers,
        );
        bytes(
            "from_ufs",
            "Bytes received from under stores",
            &self.bytes_from_ufs,
        );
        bytes(
            "opened_whole",
            "Bytes of files that were whole when opened",
            &self.bytes_opened_whole,
        );
        let mut count =
            |name, help, counter: &Counter| worker.register(name, help, counter.clone());
        count(
            "opens_whole",
            "Opens of files that were whole",
            &self.opens_whole,
        );
        count(
            "opens_partial",
            "Opens of files that were partly there",
            &self.opens_partial,
        );
        count(
            "opens_absent",
            "Opens of files of which nothing was there",
            &self.opens_absent,
        );
        count(
            "ufs_requests",
            "Ranged reads sent to under stores",
            &self.ufs_requests,
        );
        count(
            "uncached_reads",
            "Reads served without the cache",
            &self.uncached_reads,
        );
        count(
            "pages_from_cache",
            "Pages asked for that were in a tier",
            &self.pages_from_cache,
        );
        count(
            "peer_failures",
            "Requests to other workers that failed",
            &self.peer_failures,
        );
        count(
            "stale_fills",
            "Fills that found another content",
            &self.stale_fills,
        );
        worker.register_collector(Box::new(Tiers(store.clone())));
    }

    /// What the master is told.
    pub fn report(&self, store: &Store) -> WorkerCounters {
        let cache = store.counters();
        WorkerCounters {
            bytes_from_cache: self.bytes_from_cache.get(),
            bytes_from_peers: self.bytes_from_peers.get(),
            bytes_from_ufs: self.bytes_from_ufs.get(),
            opens_whole: self.opens_whole.get(),
            opens_partial: self.opens_partial.get(),
            opens_absent: self.opens_absent.get(),
            bytes_opened_whole: self.bytes_opened_whole.get(),
            ufs_requests: self.ufs_requests.get(),
            evicted_pages: cache.evicted_pages,
            corrupt_pages: cache.corrupt_pages,
            uncached_reads: self.uncached_reads.get(),
            pages_from_cache: self.pages_from_cache.get(),
        }
    }
}

/// Name, help, unit and value of a figure of each tier.
type Column = (
    &'static str,
    &'static str,
    Option<&'static Unit>,
    fn(&TierStatus) -> u64,
);

/// The state of the tiers, read when asked for.
struct Tiers(Arc<Store>);

impl std::fmt::Debug for Tiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tiers")
    }
}

impl Collector for Tiers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tiers = self.0.tiers();
        let columns: [Column; 4] = [
            (
                "tier_quota",
                "Most bytes of a tier",
                Some(&Unit::Bytes),
                |t| t.quota,
            ),
            (
                "tier_used",
                "Bytes of the pages of a tier",
                Some(&Unit::Bytes),
                |t| t.used,
            ),
            ("tier_files", "Files of a tier", None, |t| t.files),
            ("tier_faulty", "1 when a tier does not serve", None, |t| {
                u64::from(t.fault.is_some())
            }),
        ];
        for (name, help, unit, value) in columns {
            let gauge = ConstGauge::<i64>::new(0);
            let mut family = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            for tier in &tiers {
                let labels = [
                    ("medium", tier.medium.to_string()),
                    ("dir", tier.dir.display().to_string()),
                ];
                let gauge = ConstGauge::<i64>::new(value(tier) as i64);
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        let moved = self.0.counters();
        for (name, help, value) in [
            ("evicted_pages", "Pages evicted", moved.evicted_pages),
            (
                "corrupt_pages",
                "Pages whose checksum was wrong",
                moved.corrupt_pages,
            ),
            (
                "promoted_files",
                "Files moved to a faster tier",
                moved.promoted_files,
            ),
            (
                "demoted_files",
                "Files moved to a slower tier",
                moved.demoted_files,
            ),
        ] {
            let counter = prometheus_client::metrics::counter::ConstCounter::<u64>::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}
