//! One simulated worker, one simulated client.

use async_trait::async_trait;
use forebay_client::{Master, Namespace, Topology, TopologyCache};
use forebay_proto::v1::{MountCounters, Tier, Worker, WorkerCounters};
use forebay_service::Shutdown;
use forebay_types::{Addresses, Code, Ino};
use forebay_worker::tie::{Node, Tie};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

/// Memory of a client's metadata cache.
const CACHE: u64 = 1 << 20;
/// A client asks something once in so long, on average.
const TRICKLE: Duration = Duration::from_secs(10);
/// One worker in so many serves reads all the time: its counters move. One client in so many has no
/// worker on its node, and needs the topology to find others.
const BUSY: u64 = 10;

/// What the peers of a process have seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Registrations, repeated ones too.
    pub(super) registrations: AtomicU64,
    /// Clients that have begun.
    pub(super) clients: AtomicU64,
    /// Calls of clients, and those that failed.
    pub(super) calls: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// A worker without a cache.
pub(super) struct SimulatedWorker {
    pub(super) id: u64,
    pub(super) seen: Arc<Seen>,
    /// How many workers it knows of.
    pub(super) knows: Arc<AtomicU64>,
    cluster: Mutex<Option<String>>,
    served: AtomicU64,
}

impl SimulatedWorker {
    pub(super) fn new(id: u64, seen: Arc<Seen>, knows: Arc<AtomicU64>) -> SimulatedWorker {
        SimulatedWorker {
            id,
            seen,
            knows,
            cluster: Mutex::default(),
            served: AtomicU64::new(0),
        }
    }

    /// Serves until shutdown begins.
    pub(super) async fn run(self, masters: &Addresses, shutdown: &Shutdown) -> anyhow::Result<()> {
        Tie::new(Master::new(masters), self).start(shutdown).await
    }
}

#[async_trait]
impl Node for SimulatedWorker {
    fn worker(&self) -> Worker {
        // Like those of a real cluster: identities at random, addresses of some length.
        let [.., a, b, c] = self.id.to_be_bytes();
        Worker {
            id: (self.id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            address: format!("10.{a}.{b}.{c}:7100"),
            capacity: 3_840_000_000_000,
        }
    }

    fn cluster(&self) -> Option<String> {
        self.cluster.lock().clone()
    }

    fn bind(&self, cluster: &str) -> anyhow::Result<()> {
        *self.cluster.lock() = Some(cluster.to_owned());
        self.seen.registrations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn tiers(&self) -> Vec<Tier> {
        let tier = |medium: &str, quota: u64| Tier {
            medium: medium.to_owned(),
            dir: format!("/var/lib/forebay/{medium}"),
            quota,
            used: quota / 4 * 3,
            files: 20_000,
            fault: String::new(),
        };
        vec![tier("MEM", 64 << 30), tier("SSD", 3_840_000_000_000)]
    }

    fn counters(&self) -> WorkerCounters {
        if self.id.is_multiple_of(BUSY) {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
        let served = self.served.load(Ordering::Relaxed);
        WorkerCounters {
            bytes_from_cache: 1_000_000_000_000 + (served << 28),
            opens_whole: 1_000_000 + served * 40,
            pages_from_cache: 1_000_000 + (served << 8),
            ..WorkerCounters::default()
        }
    }

    fn mounts(&self) -> Vec<MountCounters> {
        let served = self.served.load(Ordering::Relaxed);
        let mount = |mount| MountCounters {
            mount,
            cached_bytes: 640_000_000_000,
            home_bytes: 320_000_000_000,
            opens: 100_000 + served * 5,
            opens_whole: 100_000 + served * 4,
        };
        (1..=4).map(mount).collect()
    }

    async fn outdated(&self) {
        // It asks no other worker for anything.
        std::future::pending::<()>().await;
    }

    async fn take_over(&self, topology: &Arc<Topology>) {
        let workers = topology.workers.len() as u64;
        self.knows.store(workers, Ordering::Relaxed);
    }
}

/// A client that asks something now and then, until shutdown begins.
pub(super) async fn client(id: u64, masters: Addresses, seen: Arc<Seen>, shutdown: Shutdown) {
    let namespace = loop {
        match Namespace::connect(Master::new(&masters), CACHE, shutdown.token()).await {
            Ok(namespace) => break namespace,
            Err(_) => {
                seen.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    seen.clients.fetch_add(1, Ordering::Relaxed);
    let topology = id
        .is_multiple_of(BUSY)
        .then(|| TopologyCache::new(Master::new(&masters)));
    loop {
        sleep(TRICKLE.mul_f64(rand::random_range(0.0..2.0))).await;
        // Never answered from the cache: the root is no file.
        let asked = namespace.file_ref(Ino::ROOT).await;
        let answered = asked.is_err_and(|error| error.code == Code::IsDirectory);
        let informed = match &topology {
            Some(topology) => topology.get().await.is_ok(),
            None => true,
        };
        seen.calls.fetch_add(1, Ordering::Relaxed);
        let failed = u64::from(!answered) + u64::from(!informed);
        seen.errors.fetch_add(failed, Ordering::Relaxed);
    }
}
