//! Who is in the cluster: mounts and live workers, as the master last said.

use crate::{
    Error, Result,
    master::Master,
    placement::{Candidate, homes},
};
use forebay_proto::{convert::mount_from_wire, v1};
use forebay_types::{Address, Code, FileId, MountId, MountSpec, WorkerId};
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A topology younger than this is used without asking.
const FRESH: Duration = Duration::from_secs(5);
/// A caller who suspects the topology to be wrong gets a new one at most this often.
const SETTLE: Duration = Duration::from_millis(200);

/// A live worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Who.
    pub id: WorkerId,
    /// Where it serves gRPC.
    pub address: Address,
    /// Bytes of all its tiers.
    pub capacity: u64,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// The cluster's identity.
    pub cluster: String,
    /// The mount table.
    pub mounts: Vec<(MountId, MountSpec)>,
    /// Live workers, in the master's order.
    pub workers: Vec<WorkerInfo>,
    candidates: Vec<Candidate>,
}

impl Topology {
    /// A topology from its parts.
    pub fn new(
        cluster: String,
        mounts: Vec<(MountId, MountSpec)>,
        workers: Vec<WorkerInfo>,
    ) -> Topology {
        let candidates = workers
            .iter()
            .map(|w| Candidate {
                id: w.id,
                capacity: w.capacity,
            })
            .collect();
        Topology {
            cluster,
            mounts,
            workers,
            candidates,
        }
    }

    /// The home workers, best first, of the extent of `file` that holds `offset`.
    pub fn homes(&self, file: FileId, offset: u64) -> Vec<&WorkerInfo> {
        homes(file, offset, &self.candidates)
            .into_iter()
            .map(|i| &self.workers[i])
            .collect()
    }

    /// This topology with the workers of an earlier one that it lacks.
    fn with_workers_of(self, old: &Topology) -> Topology {
        let mut workers = self.workers;
        for worker in &old.workers {
            if !workers.iter().any(|w| w.id == worker.id) {
                workers.push(worker.clone());
            }
        }
        workers.sort_by_key(|w| w.id);
        Topology::new(self.cluster, self.mounts, workers)
    }

    fn from_wire(answer: v1::TopologyResponse) -> Result<Topology> {
        let bad = |what: String| Error::new(Code::Internal, format!("topology: {what}"));
        let mounts = answer
            .mounts
            .into_iter()
            .map(mount_from_wire)
            .collect::<std::result::Result<_, _>>();
        let mounts = mounts.map_err(|status| bad(status.message().to_owned()))?;
        let mut workers = Vec::with_capacity(answer.workers.len());
        for worker in answer.workers {
            let address = worker.address.parse().map_err(bad)?;
            workers.push(WorkerInfo {
                id: WorkerId(worker.id),
                address,
                capacity: worker.capacity,
            });
        }
        Ok(Topology::new(answer.cluster, mounts, workers))
    }
}

/// The topology, asked for again when it has grown old. While no master leads, the last one serves; while
/// a new leader has not heard of every worker, the workers of the last one stay.
#[derive(Debug)]
pub struct TopologyCache {
    master: Master,
    known: Mutex<Option<(Instant, Arc<Topology>)>>,
    /// One question at a time.
    asking: tokio::sync::Mutex<()>,
}

impl TopologyCache {
    /// Nothing known yet.
    pub fn new(master: Master) -> TopologyCache {
        TopologyCache {
            master,
            known: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
        }
    }

    /// The topology, at most some seconds old. Ready at the first poll when known.
    pub async fn get(&self) -> Result<Arc<Topology>> {
        self.younger_than(FRESH).await
    }

    /// A newer topology, for a caller whom the known one has misled.
    pub async fn refresh(&self) -> Result<Arc<Topology>> {
        self.younger_than(SETTLE).await
    }

    async fn younger_than(&self, limit: Duration) -> Result<Arc<Topology>> {
        if let Some(known) = self.known(limit) {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        if let Some(known) = self.known(limit) {
            return Ok(known);
        }
        match self.ask().await {
            Ok(topology) => {
                let topology = Arc::new(topology);
                *self.known.lock() = Some((Instant::now(), topology.clone()));
                Ok(topology)
            }
            Err(error) => match self.known(Duration::MAX) {
                Some(old) => {
                    tracing::debug!(%error, "topology is not to be had now; the last one serves");
                    Ok(old)
                }
                None => Err(error),
            },
        }
    }

    fn known(&self, limit: Duration) -> Option<Arc<Topology>> {
        let known = self.known.lock();
        known
            .as_ref()
            .filter(|(at, _)| at.elapsed() < limit)
            .map(|(_, t)| t.clone())
    }

    async fn ask(&self) -> Result<Topology> {
        let ask = || {
            let mut registry = self.master.registry();
            async move { registry.topology(v1::TopologyRequest {}).await }
        };
        let answer = self.master.retrying("topology", ask).await?.into_inner();
        let settling = answer.settling;
        let topology = Topology::from_wire(answer)?;
        Ok(match self.known(Duration::MAX) {
            Some(old) if settling && old.cluster == topology.cluster => {
                topology.with_workers_of(&old)
            }
            _ => topology,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(workers: &[(u64, u16)]) -> Topology {
        let worker = |(id, port): &(u64, u16)| WorkerInfo {
            id: WorkerId(*id),
            address: format!("127.0.0.1:{port}").parse().unwrap(),
            capacity: 1,
        };
        Topology::new(String::new(), vec![], workers.iter().map(worker).collect())
    }

    #[test]
    fn workers_that_a_new_leader_does_not_know_yet_stay() {
        let old = topology(&[(1, 11), (2, 12), (3, 13)]);
        let merged = topology(&[(2, 22)]).with_workers_of(&old);
        assert_eq!(
            merged.workers,
            topology(&[(1, 11), (2, 22), (3, 13)]).workers
        );
        assert_eq!(merged.candidates.len(), 3);
    }
}
