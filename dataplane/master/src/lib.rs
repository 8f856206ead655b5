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
    arrival::{Arrival, arrive, ask_to_join},
    leadership::Leadership,
    listen::bind,
    machine::{Machine, Outcomes},
    metrics::Metrics,
    mounts::Away,
    proposer::Proposer,
    reign::Office,
    service::{
        admin::AdminService, backup::Backups, metadata::MetadataService, raft::RaftService,
        registry::RegistryService,
    },
    tables::Tables,
    transport::Peers,
    watch::Hub,
};
use anyhow::Context;
use forebay_consensus::{Options, Raft, Transport};
use forebay_kv_rocksdb::RocksKv;
use forebay_service::{Shutdown, data_dir::DataDir};
use forebay_types::Address;
use forebay_ufs::UnderStores;
use prometheus_client::registry::Registry;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::timeout;

mod arrival;
pub mod backup;
pub mod config;
mod diff;
pub mod dump;
mod error;
mod flight;
mod follower;
mod freshness;
mod hint;
mod job;
mod leadership;
mod listen;
mod lock;
mod machine;
mod membership;
mod metrics;
mod mounts;
mod namespace;
mod naming;
mod node_id;
mod pace;
mod proposer;
mod reign;
mod roster;
mod server;
mod service;
mod sync;
mod tables;
mod transport;
mod usage;
mod watch;
mod workers;

pub use mounts::OpenUnderStore;
pub use watch::HEARTBEAT as WATCH_HEARTBEAT;

/// The journal is cut when it has grown by this many bytes.
const FLUSH_BYTES: u64 = 64 << 20;

/// Raft's clock. An election begins after 10 to 20 ticks without a leader: soon enough that a
/// killed leader is replaced within a second, late enough that a busy machine keeps the one it has.
const TICK: Duration = Duration::from_millis(40);
/// What stays of it for followers close behind.
const TAIL_BYTES: u64 = 16 << 20;

/// How long another master may take to take over the lead.
const HAND_OVER: Duration = Duration::from_secs(1);

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
        let under_stores = UnderStores::new(config.seal_key.as_deref())?;
        let open: OpenUnderStore = Arc::new(move |spec| under_stores.open(spec));
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
        let away = if config.peers.is_empty() && config.join.is_empty() {
            Away::Refused
        } else {
            Away::Told
        };
        let opened = mounts::open(&config.mounts, &under_stores, away).await?;
        let data_dir = Arc::new(DataDir::open(&config.data_dir, "master")?);
        // Bound early: a port in use is told before the journal is opened.
        let (listener, address) = bind(&config.listen).await?;
        let arrival = arrive(&config, &address, &listener, &data_dir, shutdown).await?;
        let node = arrival.node;

        let metrics = Metrics::new();
        metrics.register(registry);
        let metrics = Arc::new(metrics);
        let hub = Arc::new(Hub::new());
        // Where it listens may be every address of the machine: none by which others find it.
        let own = config.peers.iter().find(|peer| peer.id == config.id);
        let own = own.map_or_else(|| address.clone(), |peer| peer.address.clone());
        let peers = Arc::new(Peers::new(node, own.clone(), &data_dir));
        let (machine, raft) = open_state(&config, arrival, hub.clone(), peers.clone()).await?;
        let configured = config.peers.iter();
        let configured = configured.map(|peer| (peer.id, peer.address.clone()));
        let leadership = Leadership::new(node, configured.collect(), raft.clone(), peers);
        let leadership = Arc::new(leadership);
        let backups = Backups::new(machine.clone(), data_dir.path())
            .context("cannot remove what a backup has left")?;
        if !node_id::founded(node) {
            let joining = ask_to_join(raft.clone(), node, config.clone(), own);
            shutdown.spawn(joining);
        }
        let proposer = Arc::new(Proposer::new(raft));
        let office = Office {
            machine,
            proposer: proposer.clone(),
            opened,
            under_stores,
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
        if proposer.raft().members().len() == 1 {
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
                backups,
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

    /// Hands the lead to another master, if this one leads and there is one, so that clients need
    /// not wait for an election. Before `Shutdown::finish`.
    pub async fn step_down(&self) {
        let raft = self.proposer.raft();
        let status = raft.status();
        if !status.is_leader {
            return;
        }
        let members = raft.members();
        for other in members.iter().filter(|m| m.voter && m.id != status.leader) {
            match timeout(HAND_OVER, raft.transfer(other.id)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::info!(to = other.id, %error, "cannot hand over the lead");
                }
                Err(_) => tracing::info!(to = other.id, "does not take over the lead"),
            }
        }
    }

    /// Stops the journal after the services have stopped (`Shutdown::finish` first).
    pub async fn close(self) {
        self.proposer.raft().shutdown().await;
    }
}

/// Opens the databases and starts the journal, which may have much to apply again.
async fn open_state(
    config: &config::MasterConfig,
    arrival: Arrival,
    hub: Arc<Hub>,
    transport: Arc<dyn Transport>,
) -> anyhow::Result<(Arc<Machine>, Raft<Outcomes>)> {
    let dir: &Path = &config.data_dir;
    let (journal_dir, meta_dir) = (dir.join("journal"), dir.join("meta"));
    let raft = Options {
        id: arrival.node,
        bootstrap: arrival.bootstrap,
        dir: dir.join("raft"),
        tick: TICK,
        flush_bytes: FLUSH_BYTES,
        tail_bytes: TAIL_BYTES,
        max_bytes: 8 * FLUSH_BYTES,
    };
    let memory = config.memory.0;
    let open = move || {
        let options = forebay_kv_rocksdb::Options {
            memory_bytes: memory / 8,
        };
        let journal = RocksKv::open(&journal_dir, &options)
            .with_context(|| format!("cannot open the journal in {}", journal_dir.display()))?;
        // An inode in a block takes a third of what it takes ready to answer with, so more of it for
        // blocks: those of a tree ten times as large as the inode cache fit, or nearly.
        let tables = Tables::new(meta_dir, [memory / 16 * 9, memory / 16 * 5]);
        let machine = Arc::new(Machine::open(tables, hub)?);
        let raft = Raft::start(raft, journal, machine.clone(), transport)?;
        Ok((machine, raft))
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
