//! The master: owns the namespace, keeps it in step with the under stores, knows the workers, and
//! plans the jobs.
//!
//! Every change of the namespace is a command that goes through the journal (`forebay-consensus`)
//! and is applied by `forebay-meta`; the modules here decide what to propose and answer from what
//! was applied. What workers say of themselves is soft state and never in the journal.
//!
//! It is not: a data path (no byte of a file passes through it), nor the metadata's logic.
//!
//! Of several masters one leads. What only the leader does is a [`reign::Reign`], which begins and ends with
//! its term.
//!
//! Invariants: a directory counts as listed only after a complete listing; an error in the middle of a listing
//! removes nothing; one listing of a directory at a time; an answer shows all that was acknowledged
//! before it was asked for.

use crate::{
    leadership::Leadership,
    listen::bind,
    machine::Machine,
    metrics::Metrics,
    proposer::Proposer,
    reign::Office,
    service::{
        admin::AdminService, metadata::MetadataService, raft::RaftService,
        registry::RegistryService,
    },
    transport::Peers,
    watch::Hub,
};
use anyhow::Context;
use forebay_consensus::{Options, Raft, Transport};
use forebay_kv_rocksdb::RocksKv;
use forebay_meta::Meta;
use forebay_service::{Shutdown, data_dir::DataDir};
use forebay_types::Address;
use prometheus_client::registry::Registry;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

pub mod config;
mod diff;
mod error;
mod flight;
mod freshness;
mod hint;
mod job;
mod leadership;
mod listen;
mod lock;
mod machine;
mod metrics;
mod mounts;
mod namespace;
mod naming;
mod proposer;
mod reign;
mod server;
mod service;
mod sync;
mod transport;
mod watch;
mod workers;

pub use mounts::OpenUnderStore;
pub use watch::HEARTBEAT as WATCH_HEARTBEAT;
pub use workers::{DEAD_AFTER as WORKER_DEAD_AFTER, HEARTBEAT as WORKER_HEARTBEAT};

/// The journal is cut when it has grown by this many bytes.
const FLUSH_BYTES: u64 = 64 << 20;

/// Raft's clock. An election begins after 10 to 20 ticks without a leader: soon enough that a
/// killed leader is replaced within a second, late enough that a busy machine keeps the one it has.
const TICK: Duration = Duration::from_millis(40);

/// A running master.
pub struct Master {
    address: Address,
    proposer: Arc<Proposer>,
}

impl Master {
    /// Opens the data directory, starts the journal, probes the under stores of the configuration,
    /// and serves. An only master returns when it leads, with everything mounted; one of several
    /// returns at once, and serves as the others elect.
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
        let data_dir = Arc::new(DataDir::open(&config.data_dir, "master")?);
        data_dir.bind_id(config.id)?;
        // Bound early: a port in use is told before the journal is opened.
        let (listener, address) = bind(&config.listen).await?;
        let masters = masters(&config, &address);

        let metrics = Metrics::new();
        metrics.register(registry);
        let metrics = Arc::new(metrics);
        let hub = Arc::new(Hub::new());
        let transport = Arc::new(Peers::new(config.id, &masters, &data_dir));
        let (meta, raft) = open_state(&config, &masters, hub.clone(), transport).await?;
        let leadership = Arc::new(Leadership::new(config.id, masters, raft.clone()));
        let proposer = Arc::new(Proposer::new(raft));
        let office = Office {
            meta,
            proposer: proposer.clone(),
            opened,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
        };
        shutdown.spawn(leadership.clone().run(
            office,
            data_dir.clone(),
            metrics.clone(),
            shutdown.clone(),
        ));
        shutdown.spawn(watch_journal(proposer.clone(), shutdown.clone()));
        if leadership.masters().len() == 1 {
            leadership.begun().await?;
        }
        server::serve(
            listener,
            MetadataService {
                leadership: leadership.clone(),
                proposer: proposer.clone(),
                hub,
                metrics: metrics.clone(),
                shutdown: shutdown.clone(),
            },
            RegistryService {
                leadership: leadership.clone(),
                metrics: metrics.clone(),
            },
            AdminService {
                leadership: leadership.clone(),
                proposer: proposer.clone(),
                metrics: metrics.clone(),
            },
            RaftService {
                leadership: leadership.clone(),
                proposer: proposer.clone(),
                data_dir,
                shutdown: shutdown.clone(),
            },
            leadership.clone(),
            shutdown,
        );
        if let Some(listen) = config.http {
            serve_http(listen, &metrics, leadership, shutdown).await?;
        }
        tracing::info!(%address, id = config.id, "master serves");
        Ok(Master { address, proposer })
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

/// All masters by number; without peers this one alone, where it was bound.
fn masters(config: &config::MasterConfig, bound: &Address) -> BTreeMap<u64, Address> {
    if config.peers.is_empty() {
        return BTreeMap::from([(config.id, bound.clone())]);
    }
    let peers = config.peers.iter();
    peers.map(|peer| (peer.id, peer.address.clone())).collect()
}

/// Opens the databases and starts the journal, which may have much to apply again.
async fn open_state(
    config: &config::MasterConfig,
    masters: &BTreeMap<u64, Address>,
    hub: Arc<Hub>,
    transport: Arc<dyn Transport>,
) -> anyhow::Result<(Arc<Meta>, Raft<forebay_meta::Outcome>)> {
    let dir: &Path = &config.data_dir;
    let (journal_dir, meta_dir) = (dir.join("journal"), dir.join("meta"));
    let memory = config.memory.0;
    let raft = Options {
        id: config.id,
        voters: masters.keys().copied().collect(),
        tick: TICK,
        flush_bytes: FLUSH_BYTES,
    };
    let open = move || {
        // Half for inodes ready to answer with, most of the rest for RocksDB's blocks.
        let options = |memory_bytes| forebay_kv_rocksdb::Options { memory_bytes };
        let journal = RocksKv::open(&journal_dir, &options(memory / 8))
            .with_context(|| format!("cannot open the journal in {}", journal_dir.display()))?;
        let tables = RocksKv::open(&meta_dir, &options(memory / 8 * 3))
            .with_context(|| format!("cannot open the metadata in {}", meta_dir.display()))?;
        let meta = Arc::new(Meta::open(tables, memory / 2)?);
        let machine = Arc::new(Machine::new(meta.clone(), hub));
        let raft = Raft::start(raft, journal, machine, transport)?;
        Ok((meta, raft))
    };
    tokio::task::spawn_blocking(open).await?
}

async fn serve_http(
    listen: std::net::SocketAddr,
    metrics: &Metrics,
    leadership: Arc<Leadership>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let stopping = shutdown.clone();
    let readiness = Arc::new(move || {
        if stopping.has_begun() {
            return Some("stopping".to_owned());
        }
        leadership.unready()
    });
    forebay_service::http::serve(listen, Arc::new(registry), readiness, shutdown).await?;
    Ok(())
}

/// A journal that has stopped by itself takes the process down: it must not serve what it cannot
/// change.
async fn watch_journal(proposer: Arc<Proposer>, shutdown: Shutdown) {
    let reason = proposer.raft().stopped().await;
    tracing::error!(reason, "the journal has stopped: the master shuts down");
    shutdown.begin();
}
