//! Metrics of the driver.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tonic::Code;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    /// gRPC's name of how it ended.
    code: String,
}

/// Counters and gauges; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    operations: Family<Labels, Counter>,
    /// Volumes that are staged.
    pub staged: Gauge,
    /// Places where pods see them.
    pub published: Gauge,
    /// Whether the FUSE host answers.
    pub host_up: Gauge,
}

impl Metrics {
    /// All of them, registered.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "forebay_csi_operations",
            "Operations on volumes that ended, by how; 'repair' and 'orphan' are the driver's own.",
            metrics.operations.clone(),
        );
        for (name, help, gauge) in [
            ("staged", "Volumes staged on this node.", &metrics.staged),
            (
                "published",
                "Places where pods see a volume.",
                &metrics.published,
            ),
            (
                "fuse_host_up",
                "Whether the FUSE host of this node answers.",
                &metrics.host_up,
            ),
        ] {
            registry.register(format!("forebay_csi_{name}"), help, gauge.clone());
        }
        metrics
    }

    /// Counts an operation that ended.
    pub fn count(&self, operation: &'static str, code: Code) {
        let code = format!("{code:?}");
        let labels = Labels { operation, code };
        self.operations.get_or_create(&labels).inc();
    }
}
