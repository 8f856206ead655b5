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
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// The cluster's identity.
    pub cluster: String,
    /// The mount table.
    pub mounts: Vec<(MountId, MountSpec)>,
    /// Live workers, in the master's order; shared with the topology before, since most stay.
    pub workers: Vec<Arc<WorkerInfo>>,
    candidates: Vec<Candidate>,
    version: Option<v1::TopologyVersion>,
}

impl Topology {
    /// A topology from its parts.
    pub fn new(
        cluster: String,
        mounts: Vec<(MountId, MountSpec)>,
        workers: Vec<WorkerInfo>,
    ) -> Topology {
        let workers = workers.into_iter().map(Arc::new).collect();
        Topology::of(cluster, mounts, workers)
    }

    fn of(
        cluster: String,
        mounts: Vec<(MountId, MountSpec)>,
        workers: Vec<Arc<WorkerInfo>>,
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
            version: None,
        }
    }

    /// The master's number for it, if it has one.
    pub fn version(&self) -> Option<v1::TopologyVersion> {
        self.version
    }

    /// The live workers, as placement sees them.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The home workers, best first, of the extent of `file` that holds `offset`.
    pub fn homes(&self, file: FileId, offset: u64) -> Vec<&WorkerInfo> {
        homes(file, offset, &self.candidates)
            .into_iter()
            .map(|i| &*self.workers[i])
            .collect()
    }

    /// This topology after an answer of the master. None: the same.
    fn updated(&self, answer: v1::TopologyResponse) -> Result<Option<Topology>> {
        let bad = |what: String| Error::new(Code::Internal, format!("topology: {what}"));
        if answer.version.is_some() && answer.version == self.version {
            return Ok(None);
        }
        let mounts = answer.mounts.into_iter().map(mount_from_wire);
        let mounts: std::result::Result<Vec<_>, _> = mounts.collect();
        let mounts = mounts.map_err(|status| bad(status.message().to_owned()))?;
        let mut told = Vec::with_capacity(answer.workers.len());
        for worker in answer.workers {
            told.push(Arc::new(WorkerInfo {
                id: WorkerId(worker.id),
                address: worker.address.parse().map_err(bad)?,
                capacity: worker.capacity,
            }));
        }
        let gone: HashSet<u64> = answer.removed.into_iter().collect();
        let replaced: HashSet<WorkerId> = told.iter().map(|worker| worker.id).collect();
        let kept = |w: &&Arc<WorkerInfo>| {
            !(answer.whole
                || gone.contains(&w.id.0)
                || answer.parts.contains(&part_of(w.id))
                || replaced.contains(&w.id))
        };
        let kept = self.workers.iter().filter(kept);
        let mut workers: Vec<_> = kept.cloned().chain(told).collect();
        workers.sort_by_key(|worker| worker.id);
        // Without a version of this answer the next question is the same as this one was.
        let version = answer.version.or(self.version.filter(|_| !answer.whole));
        let topology = Topology::of(answer.cluster, mounts, workers);
        let topology = Topology {
            version,
            ..topology
        };
        Ok((topology != *self).then_some(topology))
    }
}

/// Parts of a table of workers.
const PARTS: usize = 256;

/// The part that a worker belongs to. Identities are drawn at random: parts are of much the same size.
pub fn part_of(worker: WorkerId) -> u32 {
    worker.0 as u32 % PARTS as u32
}

/// Of each part of a table of workers a digest, by which two tables can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests([u64; PARTS]);

impl Default for Digests {
    fn default() -> Digests {
        Digests([0; PARTS])
    }
}

impl Digests {
    /// Of these workers.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a WorkerInfo>) -> Digests {
        let mut digests = Digests::default();
        for worker in workers {
            digests.toggle(worker);
        }
        digests
    }

    /// Adds a worker, or takes it away.
    pub fn toggle(&mut self, worker: &WorkerInfo) {
        let address = xxh3_64_with_seed(worker.address.to_string().as_bytes(), worker.id.0);
        self.0[part_of(worker.id) as usize] ^=
            xxh3_64_with_seed(&worker.capacity.to_le_bytes(), address);
    }

    /// As the caller of `Topology` sends them.
    pub fn to_wire(&self) -> Vec<u64> {
        self.0.to_vec()
    }

    /// As they were sent; none if there are not as many as there must be.
    pub fn from_wire(digests: &[u64]) -> Option<Digests> {
        Some(Digests(digests.try_into().ok()?))
    }

    /// The parts in which others differ, in ascending order.
    pub fn differing(&self, others: &Digests) -> Vec<u32> {
        let pairs = (0..).zip(self.0.iter().zip(&others.0));
        let differing = pairs.filter(|(_, (own, other))| own != other);
        differing.map(|(part, _)| part).collect()
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

    /// The master's number for the topology that is known; none if there is none.
    pub fn version(&self) -> Option<v1::TopologyVersion> {
        self.known(Duration::MAX)?.version
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

    async fn ask(&self) -> Result<Arc<Topology>> {
        let old = self.known(Duration::MAX).unwrap_or_default();
        let mut asked = v1::TopologyRequest {
            known: old.version,
            digests: Vec::new(),
        };
        let mut answer = self.ask_for(&asked).await?;
        if answer.digests_wanted {
            asked.digests = Digests::of(old.workers.iter().map(|worker| &**worker)).to_wire();
            answer = self.ask_for(&asked).await?;
        }
        if answer.cluster != old.cluster && asked.known.is_some() {
            // What we have is no part of what is there.
            answer = self.ask_for(&v1::TopologyRequest::default()).await?;
        }
        Ok(old.updated(answer)?.map_or(old, Arc::new))
    }

    async fn ask_for(&self, asked: &v1::TopologyRequest) -> Result<v1::TopologyResponse> {
        let ask = || {
            let (mut registry, asked) = (self.master.registry(), asked.clone());
            async move { registry.topology(asked).await }
        };
        Ok(self.master.retrying("topology", ask).await?.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u64, port: u16) -> WorkerInfo {
        WorkerInfo {
            id: WorkerId(id),
            address: format!("127.0.0.1:{port}").parse().unwrap(),
            capacity: 1,
        }
    }

    fn version(term: u64, number: u64) -> v1::TopologyVersion {
        v1::TopologyVersion { term, number }
    }

    fn topology(workers: &[(u64, u16)], version: Option<v1::TopologyVersion>) -> Topology {
        let workers = workers.iter().map(|(id, port)| worker(*id, *port));
        let topology = Topology::new("c".to_owned(), Vec::new(), workers.collect());
        Topology {
            version,
            ..topology
        }
    }

    fn told(workers: &[(u64, u16)], version: Option<v1::TopologyVersion>) -> v1::TopologyResponse {
        let worker = |(id, port): &(u64, u16)| v1::Worker {
            id: *id,
            address: format!("127.0.0.1:{port}"),
            capacity: 1,
        };
        v1::TopologyResponse {
            cluster: "c".to_owned(),
            workers: workers.iter().map(worker).collect(),
            version,
            ..v1::TopologyResponse::default()
        }
    }

    #[test]
    fn changes_are_taken_over_and_the_rest_stays() {
        let old = topology(&[(1, 11), (2, 12), (3, 13)], Some(version(7, 1)));
        let answer = v1::TopologyResponse {
            removed: vec![3],
            ..told(&[(2, 22), (4, 14)], Some(version(7, 5)))
        };
        let new = old.updated(answer).unwrap().unwrap();
        let wanted = topology(&[(1, 11), (2, 22), (4, 14)], Some(version(7, 5)));
        assert_eq!(
            (&new.workers, new.version),
            (&wanted.workers, wanted.version)
        );
        assert_eq!(new.candidates.len(), 3);
        assert!(
            new.updated(told(&[], Some(version(7, 5))))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn parts_replace_what_was_in_them() {
        let old = topology(&[(1, 11), (2, 12), (257, 13)], Some(version(7, 1)));
        let answer = v1::TopologyResponse {
            parts: vec![1],
            ..told(&[(1, 21)], Some(version(8, 3)))
        };
        let new = old.updated(answer).unwrap().unwrap();
        assert_eq!(new.workers, topology(&[(1, 21), (2, 12)], None).workers);
        let whole = v1::TopologyResponse {
            whole: true,
            ..told(&[(9, 19)], Some(version(8, 4)))
        };
        let new = new.updated(whole).unwrap().unwrap();
        assert_eq!(new.workers, topology(&[(9, 19)], None).workers);
    }

    #[test]
    fn workers_that_a_new_leader_does_not_know_yet_stay() {
        let old = topology(&[(1, 11), (2, 12)], Some(version(7, 1)));
        assert!(old.updated(told(&[], None)).unwrap().is_none());
        // Nothing is known yet: better those few than none; all are asked for again.
        let whole = v1::TopologyResponse {
            whole: true,
            ..told(&[(2, 12)], None)
        };
        let new = Topology::default().updated(whole).unwrap().unwrap();
        assert_eq!((new.workers.len(), new.version), (1, None));
    }

    #[test]
    fn digests_tell_which_parts_differ() {
        let (a, b) = (worker(1, 11), worker(300, 12));
        let both = Digests::of([&a, &b]);
        assert_eq!(both, Digests::of([&b, &a]));
        assert_eq!(both.differing(&Digests::of([&a])), [part_of(b.id)]);
        let (moved, grown) = (worker(300, 13), WorkerInfo { capacity: 2, ..b });
        assert_eq!(
            Digests::of([&moved]).differing(&Digests::of([&grown])),
            [300 % 256]
        );
        assert_eq!(Digests::from_wire(&both.to_wire()), Some(both));
        assert_eq!(Digests::from_wire(&[1, 2]), None);
    }
}
