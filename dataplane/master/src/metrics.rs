//! The master's metrics, all of them.

use crate::proposer::Changes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Call {
    /// The method's name.
    pub(crate) method: &'static str,
}

/// The master's metrics; registered once, counted everywhere.
#[derive(Clone)]
pub(crate) struct Metrics {
    calls: Family<Call, Counter>,
    listings: Counter,
    listing_seconds: Histogram,
    /// Listings of directories that failed.
    pub(crate) listing_failures: Counter,
    entries_added: Counter,
    entries_changed: Counter,
    entries_removed: Counter,
    /// Keys found that a file system cannot show.
    pub(crate) problem_keys: Counter,
    /// Workers that serve.
    pub(crate) workers_live: Gauge,
    /// Raft term.
    pub(crate) raft_term: Gauge,
    /// Number of the leader; 0: none known.
    pub(crate) raft_leader: Gauge,
    /// 1 on the leader.
    pub(crate) raft_is_leader: Gauge,
    /// Last index on the disks of a majority.
    pub(crate) raft_committed: Gauge,
    /// Last index applied here.
    pub(crate) raft_applied: Gauge,
    /// Whether the disk of the journal or of the metadata is full.
    pub(crate) raft_disk_full: Gauge,
    /// Fsyncs of the journal.
    pub(crate) raft_syncs: Counter,
    /// Files that load jobs finished with.
    pub(crate) load_files: Counter,
    /// Bytes of those files.
    pub(crate) load_bytes: Counter,
    /// Files that load jobs could not load.
    pub(crate) load_failures: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        Metrics {
            calls: Family::default(),
            listings: Counter::default(),
            listing_seconds: Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
            listing_failures: Counter::default(),
            entries_added: Counter::default(),
            entries_changed: Counter::default(),
            entries_removed: Counter::default(),
            problem_keys: Counter::default(),
            workers_live: Gauge::default(),
            raft_term: Gauge::default(),
            raft_leader: Gauge::default(),
            raft_is_leader: Gauge::default(),
            raft_committed: Gauge::default(),
            raft_applied: Gauge::default(),
            raft_disk_full: Gauge::default(),
            raft_syncs: Counter::default(),
            load_files: Counter::default(),
            load_bytes: Counter::default(),
            load_failures: Counter::default(),
        }
    }

    /// Registers all under `forebay_master_…`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("forebay_master");
        r.register("calls", "gRPC calls by method", self.calls.clone());
        r.register(
            "listings",
            "Directories listed from under stores",
            self.listings.clone(),
        );
        let help = "Time to list a directory and apply what was found, in seconds";
        r.register("listing_seconds", help, self.listing_seconds.clone());
        let help = "Listings of directories that failed";
        r.register("listing_failures", help, self.listing_failures.clone());
        r.register(
            "entries_added",
            "Names found in under stores",
            self.entries_added.clone(),
        );
        let help = "Names found with another content";
        r.register("entries_changed", help, self.entries_changed.clone());
        r.register(
            "entries_removed",
            "Names found gone",
            self.entries_removed.clone(),
        );
        let help = "Keys met that a file system cannot show";
        r.register("problem_keys", help, self.problem_keys.clone());
        r.register(
            "workers_live",
            "Workers that serve",
            self.workers_live.clone(),
        );
        r.register("raft_term", "Raft term", self.raft_term.clone());
        let help = "Number of the leading master; 0: none known";
        r.register("raft_leader", help, self.raft_leader.clone());
        let help = "1 on the master that leads, 0 on the others";
        r.register("raft_is_leader", help, self.raft_is_leader.clone());
        let help = "Last index of the journal on the disks of a majority";
        r.register("raft_committed", help, self.raft_committed.clone());
        let help = "Last index of the journal applied on this master";
        r.register("raft_applied", help, self.raft_applied.clone());
        let help =
            "1 if the disk of the journal or of the metadata is full: nothing can be changed";
        r.register("raft_disk_full", help, self.raft_disk_full.clone());
        let help = "Fsyncs of the journal";
        r.register("raft_syncs", help, self.raft_syncs.clone());
        let help = "Files that load jobs have done, cached before or not";
        r.register("load_files", help, self.load_files.clone());
        r.register(
            "load_bytes",
            "Bytes of files that load jobs have done",
            self.load_bytes.clone(),
        );
        let help = "Files that load jobs could not load";
        r.register("load_failures", help, self.load_failures.clone());
    }

    /// Takes over where raft stands.
    pub(crate) fn stands(&self, status: &forebay_consensus::Status) {
        self.raft_term.set(status.term as i64);
        self.raft_leader.set(status.leader as i64);
        self.raft_is_leader.set(i64::from(status.is_leader));
        self.raft_committed.set(status.committed as i64);
        self.raft_applied.set(status.applied as i64);
        self.raft_disk_full.set(i64::from(status.disk_full));
        let more = status.syncs.saturating_sub(self.raft_syncs.get());
        self.raft_syncs.inc_by(more);
    }

    /// Counts a call.
    pub(crate) fn call(&self, method: &'static str) {
        self.calls.get_or_create(&Call { method }).inc();
    }

    /// Counts a complete listing.
    pub(crate) fn listed(&self, changes: &Changes, took: Duration) {
        self.listings.inc();
        self.listing_seconds.observe(took.as_secs_f64());
        self.changed(changes);
    }

    /// Counts changes of entries.
    pub(crate) fn changed(&self, changes: &Changes) {
        self.entries_added.inc_by(changes.added);
        self.entries_changed.inc_by(changes.changed);
        self.entries_removed.inc_by(changes.removed);
    }
}
