//! Answers questions on a master that does not lead, from the state as it is here: the leader says how far
//! the journal goes, and the answer waits until that is applied.
//!
//! Only what needs nothing of an under store: all else is the leader's.

use crate::{
    error::Result,
    machine::Machine,
    metrics::Metrics,
    mounts::{Mounts, OpenUnderStore},
    namespace::Namespace,
    proposer::Proposer,
    reign::Office,
    sync::Sync,
};
use forebay_consensus::ProposeError;
use forebay_service::Shutdown;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// A master that needs longer to apply what the leader has committed is no help: the leader is asked.
const BEHIND: Duration = Duration::from_millis(500);

/// A time during which this master does not lead.
pub(crate) struct Follower {
    machine: Arc<Machine>,
    proposer: Arc<Proposer>,
    under_stores: OpenUnderStore,
    metrics: Arc<Metrics>,
    /// Begins when this master leads: then the questions are its reign's.
    pub(crate) shutdown: Shutdown,
    /// The tree over the present state.
    tree: Mutex<Option<Namespace>>,
}

impl Follower {
    pub(crate) fn new(office: &Office) -> Follower {
        Follower {
            machine: office.machine.clone(),
            proposer: office.proposer.clone(),
            under_stores: office.under_stores.clone(),
            metrics: office.metrics.clone(),
            shutdown: office.shutdown.part(),
            tree: Mutex::default(),
        }
    }

    /// The tree, showing all that was acknowledged before the call.
    pub(crate) async fn ready(&self) -> Result<Namespace> {
        let raft = self.proposer.raft();
        let leader = || Some(raft.status().leader).filter(|leader| *leader != 0);
        timeout(BEHIND, raft.read_barrier())
            .await
            .unwrap_or_else(|_| Err(ProposeError::NotLeader { leader: leader() }))?;
        // Not before: a snapshot may have taken the state's place meanwhile.
        let meta = self.machine.meta();
        let mut tree = self.tree.lock();
        if let Some(tree) = &*tree
            && Arc::ptr_eq(tree.meta(), &meta)
        {
            return Ok(tree.clone());
        }
        let sync = Sync::of_follower(
            meta.clone(),
            self.proposer.clone(),
            Arc::new(Mounts::new(meta.clone(), self.under_stores.clone())),
            self.metrics.clone(),
            &self.shutdown,
        );
        let new = Namespace::new(meta, sync, self.proposer.clone());
        *tree = Some(new.clone());
        Ok(new)
    }
}
