//! The worker: owns the cache devices of a node, fills them from other workers and under stores,
//! and hands descriptors to the node's FUSE host.
//!
//! One [`engine::Engine`] does the work; three doors lead to it: [`local`] (readers of the same
//! process), [`socket`] (readers of the same node, a Unix socket that hands out descriptors) and
//! [`service`] (gRPC: other nodes and the master). Below it, [`fill`] fetches each missing page once,
//! however many wait for it, from the sources that [`source`] knows; [`prefetch`] (pure) says what will
//! be wanted next; [`gate`] bounds what is under way. It is not the page store (`forebay-cache`), and
//! knows nothing of names and directories.
//!
//! Invariants: a page is asked for once at a time; a reader never sees bytes of another version than it
//! opened; trouble with the cache costs time and is no error; whatever waits has a bound.

use anyhow::Context as _;
use config::{Eviction, WorkerConfig};
use engine::Engine;
use forebay_cache::{PolicyKind, Store, StoreConfig, TierConfig};
use forebay_client::{LocalWorker, Master};
use forebay_kv::Error as KvError;
use forebay_kv_rocksdb::RocksKv;
use forebay_service::{Shutdown, data_dir::DataDir, http};
use forebay_types::Address;
use forebay_ufs::UnderStores;
use homes::Homes;
use local::Local;
use metrics::Metrics;
use prometheus_client::registry::Registry;
use report::Report;
use source::Sources;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tie::Tie;

pub mod config;
mod data;
pub mod disk;
pub mod engine;
pub mod fill;
pub mod flight;
pub mod gate;
mod homes;
mod identity;
mod lease;
pub mod local;
pub mod maintenance;
pub mod metrics;
pub mod opens;
pub mod pace;
pub mod prefetch;
mod report;
mod server;
pub mod service;
pub mod socket;
pub mod source;
pub mod tie;

/// Part of the memory budget that the page index gets: one in so many bytes, and at most …
const INDEX_SHARE: u64 = 4;
/// … this much.
const INDEX_MOST: u64 = 64 << 20;

/// A running worker.
pub struct Worker {
    local: Arc<Local>,
    address: Address,
}

impl Worker {
    /// Opens the store, registers with the master, and serves gRPC and the local socket. Returns
    /// when it is ready.
    pub async fn start(
        config: WorkerConfig,
        registry: &mut Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Worker> {
        config.check()?;
        let under_stores = UnderStores::new(config.seal_key.as_deref())?;
        let data_dir = DataDir::open(&config.data_dir, "worker")?;
        let id = identity::of(data_dir.path())?;
        let store = open_store(&config).await?;
        let metrics = Metrics::default();
        metrics.register(registry, &store);
        let master = Master::new(&config.master);
        let sources = Arc::new(Sources::new(id, config.memory.0, metrics.clone()));
        let stale = master.clone();
        let on_stale: fill::OnStale = Arc::new(move |file| report::tell_stale(stale.clone(), file));
        let engine = Engine::new(store.clone(), sources, metrics.clone(), on_stale, shutdown);
        maintenance::start(engine.clone(), shutdown);

        let ready = Arc::new(AtomicBool::new(false));
        if let Some(listen) = config.http {
            let (mut own, ready) = (Registry::default(), ready.clone());
            metrics.register(&mut own, &store);
            let readiness: http::Readiness = Arc::new(move || {
                let waits = !ready.load(Ordering::Acquire);
                waits.then(|| "waiting for the master".to_owned())
            });
            http::serve(listen, Arc::new(own), readiness, shutdown).await?;
        }
        // Others may call as soon as the master knows of us.
        let address = server::serve(&config.listen, engine.clone(), shutdown).await?;
        let told = config.advertise.unwrap_or_else(|| address.clone());
        let report = Report {
            id,
            address: told,
            data_dir,
            engine: engine.clone(),
            under_stores,
            homes: Arc::new(Homes::new(id, store)),
        };
        Tie::new(master, report).start(shutdown).await?;
        if let Some(path) = &config.socket {
            socket::serve(path, engine.clone(), shutdown)?;
        }
        ready.store(true, Ordering::Release);
        Ok(Worker {
            local: Arc::new(Local::new(engine)),
            address,
        })
    }

    /// The worker for a FUSE host in the same process.
    pub fn local(&self) -> Arc<dyn LocalWorker> {
        self.local.clone()
    }

    /// Where it serves (the port is the real one).
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Opens the page index. A damaged one is dropped: all that it knows can be fetched again.
fn open_index(dir: &Path, memory_bytes: u64) -> Result<Arc<RocksKv>, KvError> {
    let options = forebay_kv_rocksdb::Options { memory_bytes };
    match RocksKv::open(dir, &options) {
        Err(KvError::Corrupt(cause)) => {
            tracing::error!(dir = %dir.display(), %cause, "the page index is damaged: the cache starts empty");
            std::fs::remove_dir_all(dir).map_err(|error| KvError::Failed(error.into()))?;
            RocksKv::open(dir, &options)
        }
        opened => opened,
    }
}

/// Opens the tiers and the page index.
async fn open_store(config: &WorkerConfig) -> anyhow::Result<Arc<Store>> {
    let tiers = config.tiers.iter().map(|tier| TierConfig {
        medium: tier.medium,
        dir: tier.dir.clone(),
        quota: tier.size.0,
    });
    let policy = match config.eviction {
        Eviction::Lru => PolicyKind::Lru,
        Eviction::Lfu => PolicyKind::Lfu,
        Eviction::S3Fifo => PolicyKind::S3Fifo,
    };
    let settings = StoreConfig {
        tiers: tiers.collect(),
        policy,
        high_watermark: config.high_watermark,
        low_watermark: config.low_watermark,
    };
    let dir = config.data_dir.join("index");
    let memory_bytes = (config.memory.0 / INDEX_SHARE).min(INDEX_MOST);
    let open = move || {
        let index = open_index(&dir, memory_bytes)
            .with_context(|| format!("cannot open the page index in {}", dir.display()))?;
        Store::open(settings, index).context("cannot open the cache")
    };
    tokio::task::spawn_blocking(open)
        .await
        .context("opening the cache failed")?
}
