//! What exists only while this master leads: the mount table joined with its stores, the work that keeps
//! the tree in step with them, the workers as they report, the jobs, the housekeeping.
//!
//! Everything of a reign ends with it. Work of an earlier reign that went on in a later one could
//! undo what the leader between them did: a listing of an under store that began before, for example.

use crate::{
    error::Result,
    job::{
        fleet::Fleet,
        reap,
        warmup::{Crew, Warmups},
    },
    machine::Machine,
    membership,
    metrics::Metrics,
    mounts::{Mounts, OpenUnderStore, Opened},
    namespace::Namespace,
    proposer::Proposer,
    roster::MountRow,
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
use tokio::time::sleep;

/// How often the workers are counted, and others told of those that died.
const ROUND: Duration = Duration::from_secs(1);

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
    /// What is brought into the cache ahead.
    pub(crate) warmups: Warmups,
    /// Begins when the reign ends.
    pub(crate) shutdown: Shutdown,
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
        let workers = Arc::new(Workers::new(term, !founded, Instant::now()));
        shutdown.spawn(reap::run(proposer.clone()));
        shutdown.spawn(membership::promote(proposer.raft().clone()));
        shutdown.spawn(tell_of_workers(
            workers.clone(),
            mounts.clone(),
            self.metrics.clone(),
        ));
        let namespace = Namespace::new(meta.clone(), sync, proposer.clone());
        let fleet = Fleet::new(workers);
        let crew = Crew {
            namespace: namespace.clone(),
            fleet: fleet.clone(),
            proposer: proposer.clone(),
            metrics: self.metrics.clone(),
        };
        Ok(Reign {
            cluster,
            namespace,
            mounts,
            fleet,
            warmups: Warmups::new(crew, &shutdown)?,
            shutdown,
        })
    }
}

impl Reign {
    /// What is known of the workers.
    pub(crate) fn workers(&self) -> &Workers {
        self.fleet.workers()
    }

    /// Lets everyone know what is true now, if it is time for that.
    pub(crate) fn publish(&self) {
        publish(self.workers(), &self.mounts);
    }

    /// Resolves when the workers of the leader before have had the time to report.
    pub(crate) async fn settled(&self) {
        self.workers().settled().await;
    }
}

/// Keeps what is told of the workers, and their count, up to date.
async fn tell_of_workers(workers: Arc<Workers>, mounts: Arc<Mounts>, metrics: Arc<Metrics>) {
    loop {
        publish(&workers, &mounts);
        metrics.workers_live.set(workers.count() as i64);
        sleep(ROUND).await;
    }
}

fn publish(workers: &Workers, mounts: &Mounts) {
    let rows = || {
        let rows = mounts.rows().into_iter();
        rows.map(|(id, mount)| -> MountRow { (id, mount.spec) })
            .collect()
    };
    workers.publish(rows, Instant::now());
}
