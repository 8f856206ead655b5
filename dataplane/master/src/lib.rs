//! The master: owns the namespace, keeps it in step with the under stores, knows the workers, and
//! plans the jobs.
//!
//! Every change of the namespace is a command that goes through the journal (`forebay-consensus`)
//! and is applied by `forebay-meta`; the modules here decide what to propose and answer from what
//! was applied. What workers say of themselves is soft state and never in the journal.
//!
//! It is not: a data path (no byte of a file passes through it), nor the metadata's logic.
//!
//! Invariants: a directory counts as listed only after a complete listing; an error in the middle of a listing
//! removes nothing; one listing of a directory at a time; an answer shows all that was acknowledged
//! before it was asked for.

use crate::{
    error::Error,
    listen::bind,
    machine::Machine,
    metrics::Metrics,
    mounts::Mounts,
    namespace::Namespace,
    proposer::Proposer,
    service::{admin::AdminService, metadata::MetadataService, registry::RegistryService},
    watch::Hub,
    workers::Workers,
};
use anyhow::Context;
use forebay_consensus::{Bootstrap, ChunkError, Options, Raft, Transport};
use forebay_kv_rocksdb::RocksKv;
use forebay_meta::{Change, Meta};
use forebay_service::{Shutdown, data_dir::DataDir};
use forebay_types::{Address, Code};
use prometheus_client::registry::Registry;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

pub mod config;
mod diff;
mod error;
mod flight;
mod freshness;
mod job;
mod listen;
mod lock;
mod machine;
mod metrics;
mod mounts;
mod namespace;
mod naming;
mod proposer;
mod server;
mod service;
mod sync;
mod watch;
mod workers;

pub use mounts::OpenUnderStore;
pub use watch::HEARTBEAT as WATCH_HEARTBEAT;
pub use workers::{DEAD_AFTER as WORKER_DEAD_AFTER, HEARTBEAT as WORKER_HEARTBEAT};

/// This node of the raft group.
const NODE: u64 = 1;

/// The journal is cut when it has grown by this many bytes.
const FLUSH_BYTES: u64 = 64 << 20;

/// What stays of it for followers close behind.
const TAIL_BYTES: u64 = 16 << 20;

/// How long a master that has opened its journal may take to lead.
const LEAD_LIMIT: Duration = Duration::from_secs(30);

/// A running master.
pub struct Master {
    address: Address,
    proposer: Arc<Proposer>,
    /// Keeps the directory locked.
    _data_dir: DataDir,
}

impl Master {
    /// Opens the data directory, starts the journal, mounts what the configuration says (each under
    /// store is probed first), and serves. Returns when it is ready.
    pub async fn start(
        config: config::MasterConfig,
        registry: &mut Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Master> {
        let open: OpenUnderStore =
            Arc::new(|spec| forebay_ufs::config::open(&spec.uri, &spec.options));
        Master::start_with(config, open, registry, shutdown).await
    }

    /// [`Master::start`] with under stores of the caller's making.
    pub async fn start_with(
        config: config::MasterConfig,
        under_stores: OpenUnderStore,
        registry: &mut Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Master> {
        config.validate()?;
        let opened = mounts::open(&config.mounts, &under_stores).await?;
        let data_dir = DataDir::open(&config.data_dir, "master")?;
        // Bound early: a port in use is told before the journal is opened.
        let (listener, address) = bind(&config.listen).await?;

        let metrics = Metrics::new();
        metrics.register(registry);
        let hub = Arc::new(Hub::new());
        let (meta, raft) = open_state(data_dir.path(), config.memory.0, hub.clone()).await?;
        let proposer = Arc::new(Proposer::new(raft));
        let cluster = lead(&meta, &proposer).await?;
        data_dir.bind(&cluster)?;
        let mounts = Arc::new(Mounts::reconcile(&meta, &proposer, opened).await?);

        let metrics = Arc::new(metrics);
        let workers = Arc::new(Workers::new());
        let sync = sync::Sync::new(
            meta.clone(),
            proposer.clone(),
            mounts.clone(),
            metrics.clone(),
            shutdown,
        );
        let namespace = Namespace::new(meta, sync, proposer.clone());
        server::serve(
            listener,
            MetadataService {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                proposer: proposer.clone(),
                hub,
                metrics: metrics.clone(),
                shutdown: shutdown.clone(),
            },
            RegistryService {
                cluster: cluster.clone(),
                mounts: mounts.clone(),
                workers: workers.clone(),
                metrics: metrics.clone(),
            },
            AdminService {
                cluster: cluster.clone(),
                namespace,
                proposer: proposer.clone(),
                mounts,
                fleet: job::fleet::Fleet::new(workers.clone()),
                metrics: metrics.clone(),
                shutdown: shutdown.clone(),
            },
            shutdown,
        );
        if let Some(listen) = config.http {
            serve_http(listen, &metrics, proposer.clone(), shutdown).await?;
        }
        shutdown.spawn(job::reap::run(proposer.clone()));
        shutdown.spawn(watch_workers(workers, metrics));
        shutdown.spawn(watch_journal(proposer.clone(), shutdown.clone()));
        tracing::info!(%address, cluster, "master serves");
        Ok(Master {
            address,
            proposer,
            _data_dir: data_dir,
        })
    }

    /// Where it serves (the port is the real one).
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Stops the journal after the services have stopped (`Shutdown::finish` first).
    pub async fn close(self) {
        self.proposer.raft().shutdown().await;
    }
}

/// Opens the databases and starts the journal, which may have much to apply again.
async fn open_state(
    dir: &Path,
    memory: u64,
    hub: Arc<Hub>,
) -> anyhow::Result<(Arc<Meta>, Raft<forebay_meta::Outcome>)> {
    let (journal_dir, meta_dir) = (dir.join("journal"), dir.join("meta"));
    let raft_dir = dir.join("raft");
    let open = move || {
        // Half for inodes ready to answer with, most of the rest for RocksDB's blocks.
        let options = |memory_bytes| forebay_kv_rocksdb::Options { memory_bytes };
        let journal = RocksKv::open(&journal_dir, &options(memory / 8))
            .with_context(|| format!("cannot open the journal in {}", journal_dir.display()))?;
        let tables = RocksKv::open(&meta_dir, &options(memory / 8 * 3))
            .with_context(|| format!("cannot open the metadata in {}", meta_dir.display()))?;
        let meta = Arc::new(Meta::open(tables, memory / 2)?);
        let machine = Arc::new(Machine::new(meta.clone(), hub));
        let options = Options {
            id: NODE,
            bootstrap: Bootstrap::found([NODE]),
            dir: raft_dir,
            tick: Duration::from_millis(100),
            flush_bytes: FLUSH_BYTES,
            tail_bytes: TAIL_BYTES,
            max_bytes: 8 * FLUSH_BYTES,
        };
        let raft = Raft::start(options, journal, machine, Arc::new(Alone))?;
        Ok((meta, raft))
    };
    tokio::task::spawn_blocking(open).await?
}

/// The only voter has nobody to send to.
struct Alone;

impl Transport for Alone {
    fn send(&self, _to: u64, _message: bytes::Bytes) {}

    fn fetch(
        &self,
        _from: u64,
        _snapshot: &str,
        _file: &str,
        _offset: u64,
        _len: u64,
    ) -> Result<bytes::Bytes, ChunkError> {
        Err(ChunkError::Gone)
    }
}

/// Waits until this node leads; the cluster's identity, made at the first start.
async fn lead(meta: &Meta, proposer: &Proposer) -> anyhow::Result<String> {
    let begun = Instant::now();
    let candidate = uuid::Uuid::new_v4().to_string();
    loop {
        // Proposed even if it is known: with the answer, everything in the journal is applied.
        let cluster = meta.cluster()?.unwrap_or_else(|| candidate.clone());
        match proposer.propose(Change::InitCluster { cluster }).await {
            Ok(_) => break,
            Err(Error {
                code: Code::NotLeader,
                ..
            }) if begun.elapsed() < LEAD_LIMIT => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error).context("the journal takes no commands"),
        }
    }
    meta.cluster()?
        .context("the journal has lost the cluster's identity")
}

async fn serve_http(
    listen: std::net::SocketAddr,
    metrics: &Metrics,
    proposer: Arc<Proposer>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let stopping = shutdown.clone();
    let readiness = Arc::new(move || {
        if stopping.has_begun() {
            return Some("stopping".to_owned());
        }
        (!proposer.raft().status().is_leader).then(|| "no leader".to_owned())
    });
    forebay_service::http::serve(listen, Arc::new(registry), readiness, shutdown).await?;
    Ok(())
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

/// A journal that has stopped by itself takes the process down: it must not serve what it cannot
/// change.
async fn watch_journal(proposer: Arc<Proposer>, shutdown: Shutdown) {
    let reason = proposer.raft().stopped().await;
    tracing::error!(reason, "the journal has stopped: the master shuts down");
    shutdown.begin();
}
