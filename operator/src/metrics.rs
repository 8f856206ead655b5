//! Figures of the operator.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Figures of the operator.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    plans: Family<Kind, Counter>,
    failures: Family<Failure, Counter>,
    requests: Family<Verb, Counter>,
    watch_failures: Counter,
    calls: Family<Failure, Counter>,
    pods_reviewed: Counter,
    pods_patched: Counter,
    leading: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

impl Metrics {
    /// Shows them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("forebay_operator");
        registry.register(
            "plans",
            "Plans that were made and carried out.",
            self.plans.clone(),
        );
        registry.register(
            "failures",
            "Plans that could not be carried out.",
            self.failures.clone(),
        );
        registry.register(
            "writes",
            "Requests to the API server that change something.",
            self.requests.clone(),
        );
        registry.register(
            "watch_failures",
            "Watches that failed and were made anew.",
            self.watch_failures.clone(),
        );
        registry.register(
            "calls",
            "Mounts and unmounts by their result.",
            self.calls.clone(),
        );
        registry.register(
            "pods_reviewed",
            "Pods that the API server asked the webhook about.",
            self.pods_reviewed.clone(),
        );
        registry.register(
            "pods_patched",
            "Pods among them that were told which nodes to prefer.",
            self.pods_patched.clone(),
        );
        registry.register(
            "leading",
            "Whether this one acts: of several operators one does.",
            self.leading.clone(),
        );
    }

    pub(crate) fn plan(&self, kind: &'static str) {
        self.plans.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn failure(&self, kind: &'static str, reason: &'static str) {
        let labels = Failure { kind, reason };
        self.failures.get_or_create(&labels).inc();
    }

    pub(crate) fn write(&self, verb: &'static str) {
        self.requests.get_or_create(&Verb { verb }).inc();
    }

    pub(crate) fn watch_failed(&self) {
        self.watch_failures.inc();
    }

    pub(crate) fn call(&self, kind: &'static str, reason: &'static str) {
        self.calls.get_or_create(&Failure { kind, reason }).inc();
    }

    pub(crate) fn reviewed(&self, patched: bool) {
        self.pods_reviewed.inc();
        self.pods_patched.inc_by(u64::from(patched));
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }
}
