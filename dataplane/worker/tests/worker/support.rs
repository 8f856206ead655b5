//! A worker's inside without a master, over under stores of the test's choice.

use bytes::Bytes;
use forebay_cache::{PolicyKind, Store, StoreConfig, TierConfig};
use forebay_client::{Ensured, LocalFile, LocalWorker, Topology};
use forebay_kv::{Kv, MemKv};
use forebay_service::Shutdown;
use forebay_types::{
    ContentVersion, FileId, FileRef, Ino, Medium, MountId, MountSpec, SyncPolicy, WorkerId,
};
use forebay_ufs::{UnderStore, memory::MemStore};
use forebay_worker::{
    engine::Engine,
    fill::OnStale,
    local::Local,
    metrics::Metrics,
    source::{Mounted, Sources, View},
};
use futures::FutureExt;
use std::{
    collections::HashMap,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const MOUNT: MountId = MountId(1);

pub(crate) struct Rig {
    pub(crate) engine: Arc<Engine>,
    pub(crate) local: Arc<Local>,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Metrics,
    pub(crate) stale: Arc<Mutex<Vec<FileId>>>,
    pub(crate) shutdown: Shutdown,
    pub(crate) index: Arc<dyn Kv>,
    pub(crate) dir: Arc<TempDir>,
}

impl Rig {
    /// A worker with one tier of `quota` bytes.
    pub(crate) fn new(under: Arc<dyn UnderStore>, quota: u64) -> Rig {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Rig::over(under, quota, dir, Arc::new(MemKv::new()))
    }

    /// The same after a restart.
    pub(crate) async fn restarted(self, under: Arc<dyn UnderStore>, quota: u64) -> Rig {
        let (dir, index) = (self.dir.clone(), self.index.clone());
        let old = Arc::downgrade(&self.store);
        self.shutdown.finish().await;
        drop(self);
        until("the old store is closed", || old.strong_count() == 0).await;
        Rig::over(under, quota, dir, index)
    }

    fn over(under: Arc<dyn UnderStore>, quota: u64, dir: Arc<TempDir>, index: Arc<dyn Kv>) -> Rig {
        let store = open_store(dir.path(), quota, index.clone());
        let metrics = Metrics::default();
        let sources = Arc::new(Sources::new(WorkerId(7), 256 * MIB, metrics.clone()));
        let spec = MountSpec {
            path: "/".into(),
            uri: "mem:".into(),
            options: std::collections::BTreeMap::default(),
            sync: SyncPolicy::Never,
            credentials: None,
        };
        let mounts = HashMap::from([(
            MOUNT,
            Mounted {
                spec,
                store: Ok(under),
            },
        )]);
        let topology = Topology::new("test".into(), Vec::new(), Vec::new());
        sources.set_view(View {
            topology: Arc::new(topology),
            mounts,
        });
        let stale: Arc<Mutex<Vec<FileId>>> = Arc::default();
        let told = stale.clone();
        let on_stale: OnStale = Arc::new(move |file| {
            told.lock().unwrap().push(file.id);
            async {}.boxed()
        });
        let shutdown = Shutdown::new();
        let engine = Engine::new(store.clone(), sources, metrics.clone(), on_stale, &shutdown);
        forebay_worker::maintenance::start(engine.clone(), &shutdown);
        let local = Arc::new(Local::new(engine.clone()));
        Rig {
            engine,
            local,
            store,
            metrics,
            stale,
            shutdown,
            index,
            dir,
        }
    }

    /// Reads a range as a FUSE host does: through the descriptor, or without the cache.
    pub(crate) async fn read(
        &self,
        file: &FileRef,
        open: &LocalFile,
        range: std::ops::Range<u64>,
    ) -> Bytes {
        match self.local.ensure(open.lease, range.clone()).await.unwrap() {
            Ensured::Present => pread(open, range),
            Ensured::NotCached => self.local.read(file, range).await.unwrap(),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

pub(crate) fn open_store(dir: &Path, quota: u64, index: Arc<dyn Kv>) -> Arc<Store> {
    let config = StoreConfig {
        tiers: vec![TierConfig {
            medium: Medium::Ssd,
            dir: dir.join("tier"),
            quota,
        }],
        policy: PolicyKind::S3Fifo,
        high_watermark: 0.95,
        low_watermark: 0.9,
    };
    Store::open(config, index).unwrap()
}

pub(crate) fn pread(open: &LocalFile, range: std::ops::Range<u64>) -> Bytes {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    open.file.read_exact_at(&mut bytes, range.start).unwrap();
    bytes.into()
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn content(seed: u64, size: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size as usize + 8);
    while (bytes.len() as u64) < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size as usize);
    bytes.into()
}

/// Puts an object and makes the reference that a master would hand out.
pub(crate) async fn put(store: &MemStore, key: &str, content: Bytes) -> FileRef {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    store.put(key, content);
    let object = store.stat(key.as_bytes()).await.unwrap();
    FileRef {
        id: FileId {
            ino: Ino(NEXT.fetch_add(1, Ordering::Relaxed)),
            version: ContentVersion(1),
        },
        mount: MOUNT,
        key: object.key,
        fingerprint: object.fingerprint,
    }
}

/// Waits until something is so, which other tasks bring about.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, wait)
        .await
        .unwrap_or_else(|_| panic!("never so: {what}"));
}
