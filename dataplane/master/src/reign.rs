//! What exists only while this master leads: the mount table joined with its stores, the work that keeps
//! the tree in step with them, the workers as they report, the jobs, the housekeeping.
//!
//! Everything of a reign ends with it. Work of an earlier reign that went on in a later one could
//! undo what the leader between them did: a listing of an under store that began before, for example.

use crate::{
    WORKER_HEARTBEAT,
    error::Result,
    job::{fleet::Fleet, reap},
    machine::Machine,
    membership,
    metrics::Metrics,
    mounts::{Mounts, OpenUnderStore, Opened},
    namespace::Namespace,
    proposer::Proposer,
    sync::Sync,
    workers::Workers,
};
use forebay_meta::Change;
use forebay_service::Shutdown;
use forebay_types::Code;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the workers of the leader before may take to report to a new one: a heartbeat, and the
/// search for the leader.
const SETTLING: Duration = Duration::from_secs(2);

/// One term of this master as the leader.
pub(crate) struct Reign {
    /// The cluster's identity.
    pub(crate) cluster: String,
    /// The tree.
    pub(crate) namespace: Namespace,
    /// The mount table.
    pub(crate) mounts: Arc<Mounts>,
    /// The workers, and connections to them.
    pub(crate) fleet: Fleet,
    /// Begins when the reign ends.
    pub(crate) shutdown: Shutdown,
    settled_at: Instant,
}

/// What reigns are made of.
pub(crate) struct Office {
    pub(crate) machine: Arc<Machine>,
    pub(crate) proposer: Arc<Proposer>,
    /// The under stores of the configuration.
    pub(crate) opened: Vec<Opened>,
    /// Opens those of other mounts.
    pub(crate) under_stores: OpenUnderStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
}

impl Office {
    /// Begins a reign: everything in the journal is applied here, and the mount table is that of
    /// the configuration.
    pub(crate) async fn enter(&self, term: u64) -> Result<Reign> {
        let proposer = &self.proposer;
        // A leader installs no snapshot: this is the state of the whole reign.
        let meta = &self.machine.meta();
        let founded = meta.cluster()?.is_none();
        let candidate = uuid::Uuid::new_v4().to_string();
        // Proposed even if it is known: with the answer, everything in the journal is applied.
        let cluster = meta.cluster()?.unwrap_or(candidate);
        proposer.propose(Change::InitCluster { cluster }).await?;
        let cluster = meta.cluster()?.ok_or_else(|| {
            crate::error::Error::new(Code::Internal, "the journal lost the cluster's identity")
        })?;
        let mounts = Mounts::new(meta.clone(), self.under_stores.clone());
        mounts.reconcile(proposer, self.opened.clone()).await?;
        let mounts = Arc::new(mounts);
        let shutdown = self.shutdown.part();
        let sync = Sync::new(
            meta.clone(),
            proposer.clone(),
            mounts.clone(),
            self.metrics.clone(),
            &shutdown,
        );
        let workers = Arc::new(Workers::new(term));
        shutdown.spawn(reap::run(proposer.clone()));
        shutdown.spawn(membership::promote(proposer.raft().clone()));
        shutdown.spawn(watch_workers(workers.clone(), self.metrics.clone()));
        let patience = if founded { Duration::ZERO } else { SETTLING };
        Ok(Reign {
            cluster,
            namespace: Namespace::new(meta.clone(), sync, proposer.clone()),
            mounts,
            fleet: Fleet::new(workers),
            shutdown,
            settled_at: Instant::now() + patience,
        })
    }
}

impl Reign {
    /// What is known of the workers.
    pub(crate) fn workers(&self) -> &Workers {
        self.fleet.workers()
    }

    /// Whether live workers may be unknown here still.
    pub(crate) fn is_settling(&self) -> bool {
        Instant::now() < self.settled_at
    }

    /// Resolves when the workers of the leader before have had the time to report.
    pub(crate) async fn settled(&self) {
        tokio::time::sleep_until(self.settled_at.into()).await;
    }
}

/// Keeps the count of live workers up to date.
async fn watch_workers(workers: Arc<Workers>, metrics: Arc<Metrics>) {
    loop {
        metrics
            .workers_live
            .set(workers.live(Instant::now()).len() as i64);
        tokio::time::sleep(WORKER_HEARTBEAT).await;
    }
}
