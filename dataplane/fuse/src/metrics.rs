//! Metrics of the FUSE host.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::time::Duration;

macro_rules! ops {
    ($($name:ident = $text:literal,)*) => {
        /// A kind of request that is counted by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        const OPS: &[(Op, &str)] = &[$((Op::$name, $text)),*];
    };
}

ops! {
    Lookup = "lookup",
    GetAttr = "getattr",
    Open = "open",
    Read = "read",
    Release = "release",
    OpenDir = "opendir",
    ReadDir = "readdir",
    ReleaseDir = "releasedir",
    GetXattr = "getxattr",
    Other = "other",
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpLabel {
    op: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabel {
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrnoLabel {
    errno: i32,
}

/// Counters of the FUSE host; looked up once, so that counting costs no lock of a table. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    latency: Vec<Histogram>,
    errors: Family<ErrnoLabel, Counter>,
    /// Bytes answered to `read` (reads in passthrough are seen by nobody).
    pub bytes_read: Counter,
    /// Opens in passthrough mode.
    pub opens_passthrough: Counter,
    /// Opens in cached mode.
    pub opens_cached: Counter,
    /// Opens of streamed files.
    pub opens_streamed: Counter,
    /// Requests that had to wait for something and were answered by another thread.
    pub deferred: Counter,
    /// Inodes that keep their backing while not open.
    pub idle: Gauge,
}

impl Metrics {
    /// Registers them all under `forebay_fuse_`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let registry = registry.sub_registry_with_prefix("forebay_fuse");
        // 4 µs to about 4 s.
        let histogram = || Histogram::new(exponential_buckets(4e-6, 4.0, 11));
        let requests =
            Family::<OpLabel, Histogram, fn() -> Histogram>::new_with_constructor(histogram);
        let opens = Family::<ModeLabel, Counter>::default();
        let mode = |mode| opens.get_or_create_owned(&ModeLabel { mode });
        let metrics = Metrics {
            latency: OPS
                .iter()
                .map(|(_, op)| requests.get_or_create_owned(&OpLabel { op }))
                .collect(),
            errors: Family::default(),
            bytes_read: Counter::default(),
            opens_passthrough: mode("passthrough"),
            opens_cached: mode("cached"),
            opens_streamed: mode("streamed"),
            deferred: Counter::default(),
            idle: Gauge::default(),
        };
        registry.register_with_unit(
            "request",
            "Requests of the kernel by operation, and how long they took",
            Unit::Seconds,
            requests,
        );
        registry.register("opens", "Opens of files by mode", opens);
        registry.register(
            "errors",
            "Requests answered with an error, by errno",
            metrics.errors.clone(),
        );
        registry.register_with_unit(
            "read",
            "Bytes answered to reads; the kernel's own reads in passthrough are not in here",
            Unit::Bytes,
            metrics.bytes_read.clone(),
        );
        registry.register(
            "deferred",
            "Requests that could not be answered at once",
            metrics.deferred.clone(),
        );
        registry.register(
            "idle_backings",
            "Files that are registered with the kernel but not open",
            metrics.idle.clone(),
        );
        metrics
    }

    /// A request was answered.
    pub fn answered(&self, op: Op, took: Duration) {
        self.latency[op as usize].observe(took.as_secs_f64());
    }

    /// A request was answered with an error.
    pub fn failed(&self, errno: i32) {
        self.errors.get_or_create(&ErrnoLabel { errno }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_exposed_with_its_labels() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.answered(Op::Lookup, Duration::from_micros(5));
        metrics.failed(116);
        metrics.opens_passthrough.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "forebay_fuse_request_seconds_count{op=\"lookup\"} 1",
            "forebay_fuse_errors_total{errno=\"116\"} 1",
            "forebay_fuse_opens_total{mode=\"passthrough\"} 1",
            "forebay_fuse_read_bytes_total 0",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
