//! What the node's readers, other nodes and the master ask of a worker, without any transport.

use crate::{
    disk::Disk,
    fill::{Access, Filler, OnStale, Part, Pattern},
    gate::Urgency,
    lease::{Held, Leases},
    metrics::Metrics,
    pace::Pace,
    prefetch::MAX_PIECE,
    source::{Reach, Sources},
};
use bytes::{Bytes, BytesMut};
use forebay_cache::{CachedFile, Lease, Store};
use forebay_client::{Ensured, Error, LeaseId, LocalFile, Result};
use forebay_service::Shutdown;
use forebay_types::{Code, FileId, FileRef, PAGE_SIZE, error::chain, page::page_count};
use parking_lot::Mutex;
use std::{collections::HashSet, fmt, fs::File, ops::Range, sync::Arc};
use tokio_util::task::AbortOnDropHandle;

/// Unverified bytes up to which an open waits for the comparison of checksums.
const VERIFY_AT_OPEN: u64 = 64 << 20;
/// Pages compared in one call in the background.
const VERIFY_STEP: u32 = 64;
/// Files compared in the background at one time, and waiting.
const MOST_VERIFYING: usize = 256;
/// Attempts at a file that is just being dropped.
const MOST_ATTEMPTS: u32 = 3;
/// Most bytes of a read without the cache.
const MOST_UNCACHED: u64 = 64 << 20;

/// The worker's inside; shared by all its doors.
pub struct Engine {
    pub(crate) store: Arc<Store>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) filler: Arc<Filler>,
    pub(crate) leases: Leases,
    pub(crate) disk: Disk,
    pub(crate) metrics: Metrics,
    shutdown: Shutdown,
    verifying: Mutex<HashSet<FileId>>,
    verify_turn: tokio::sync::Semaphore,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("leases", &self.leases)
            .finish_non_exhaustive()
    }
}

/// What loading a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Bytes of the file.
    pub bytes: u64,
    /// Nothing had to be fetched.
    pub cached_before: bool,
}

impl Engine {
    /// A worker over `store` and `sources`. Must be called within the runtime that fills shall run on.
    pub fn new(
        store: Arc<Store>,
        sources: Arc<Sources>,
        metrics: Metrics,
        on_stale: OnStale,
        shutdown: &Shutdown,
    ) -> Arc<Engine> {
        let disk = Disk::new(tokio::runtime::Handle::current());
        let filler = Arc::new(Filler::new(
            store.clone(),
            sources.clone(),
            disk.clone(),
            metrics.clone(),
            on_stale,
            shutdown.clone(),
        ));
        Arc::new(Engine {
            store,
            sources,
            filler,
            leases: Leases::new(),
            disk,
            metrics,
            shutdown: shutdown.clone(),
            verifying: Mutex::default(),
            verify_turn: tokio::sync::Semaphore::new(1),
        })
    }

    /// A lease and a descriptor for the file. Ready at the first poll if it is whole and verified.
    pub(crate) async fn open(
        self: &Arc<Self>,
        owner: u64,
        file_ref: &FileRef,
    ) -> Result<LocalFile> {
        let (lease, descriptor) = self.descriptor(file_ref).await?;
        let file = lease.file();
        let cached = file.cached_bytes();
        if file.is_whole() && !file.is_verified() && cached <= VERIFY_AT_OPEN {
            let (store, whole) = (self.store.clone(), file.clone());
            let pages = 0..page_count(file.size());
            let verified = self
                .disk
                .blocking(move || store.verify(&whole, pages))
                .await;
            drop(verified.inspect_err(|error| tracing::debug!(%error, "cannot verify")));
        }
        let whole = file.is_whole() && file.is_verified();
        self.metrics.opens.count(file_ref.mount, whole);
        if whole {
            self.metrics.opens_whole.inc();
            self.metrics.bytes_opened_whole.inc_by(file.size());
        } else {
            let opens = match cached {
                0 => &self.metrics.opens_absent,
                _ => &self.metrics.opens_partial,
            };
            opens.inc();
            if !file.is_verified() {
                self.verify_later(file.clone());
            }
        }
        let lease = self
            .leases
            .insert(Held::new(lease, file_ref.clone(), owner));
        Ok(LocalFile {
            lease,
            file: descriptor,
            whole,
        })
    }

    /// Waits until the bytes of `range` are in the descriptor.
    pub(crate) async fn ensure(
        &self,
        owner: u64,
        lease: LeaseId,
        range: Range<u64>,
    ) -> Result<Ensured> {
        let Some(held) = self.leases.get(owner, lease) else {
            return Err(Error::new(Code::NotFound, format!("no lease {}", lease.0)));
        };
        held.part(&self.filler).ensure(range, Access::LOCAL).await
    }

    /// Reads bytes without the cache.
    pub(crate) async fn read(
        self: &Arc<Self>,
        file_ref: &FileRef,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let range = range.start..range.end.min(file_ref.size());
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let length = range.end - range.start;
        if length > MOST_UNCACHED {
            let text = format!("a read of {length} bytes: read at most {MOST_UNCACHED} at once");
            return Err(Error::new(Code::InvalidArgument, text));
        }
        self.metrics.uncached_reads.inc();
        // On the runtime, wherever the caller polls: connections and timers need one.
        let fetching = self.clone().fetch(Arc::new(file_ref.clone()), range);
        let task = AbortOnDropHandle::new(self.disk.spawn(fetching));
        let stopped = |_| Error::new(Code::Unavailable, "the worker is stopping");
        task.await.map_err(stopped)?
    }

    async fn fetch(self: Arc<Self>, file: Arc<FileRef>, range: Range<u64>) -> Result<Bytes> {
        let length = (range.end - range.start) as usize;
        let mut fetch = self
            .sources
            .fetch(file.clone(), range, Reach::Peers, Urgency::new(true));
        let mut whole = BytesMut::new();
        loop {
            match fetch.next().await {
                Ok(Some(piece)) if piece.len() == length => return Ok(piece),
                Ok(Some(piece)) => {
                    whole.reserve(length - whole.len());
                    whole.extend_from_slice(&piece);
                }
                Ok(None) => return Ok(whole.freeze()),
                Err(error) => return Err(self.filler.source_failed(&file, error).await),
            }
        }
    }

    /// Leases held by readers of this node.
    pub fn leases(&self) -> usize {
        self.leases.count()
    }

    /// Asks readers of this node to let go of `files`.
    pub fn recall(&self, files: &[FileId]) {
        self.leases.recall(files);
    }

    /// A lease on the file, which is made if it is not here.
    async fn lease(&self, file_ref: &FileRef) -> std::result::Result<Lease, forebay_cache::Error> {
        let (id, mount, size) = (file_ref.id, file_ref.mount, file_ref.size());
        if let Some(file) = self.store.get(id).filter(|file| file.size() == size) {
            return Ok(self.store.lease(&file));
        }
        let store = self.store.clone();
        let made = self.disk.run(move || store.get_or_create(id, mount, size));
        let file = made.await?;
        Ok(self.store.lease(&file))
    }

    /// A lease on the file and its descriptor.
    async fn descriptor(&self, file_ref: &FileRef) -> Result<(Lease, Arc<File>)> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let leased = match self.lease(file_ref).await {
                Ok(lease) => {
                    let file = lease.file().clone();
                    self.disk
                        .run(move || file.file())
                        .await
                        .map(|descriptor| (lease, descriptor))
                }
                Err(error) => Err(error),
            };
            match leased {
                Ok(leased) => return Ok(leased),
                // Evicted between the look and the lease: it can be made anew.
                Err(forebay_cache::Error::Busy(_)) if attempts < MOST_ATTEMPTS => {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(cannot_cache(&error)),
            }
        }
    }

    /// Takes part in the filling of a file; the lease and the descriptor must be kept as long.
    pub(crate) async fn part(&self, file_ref: &Arc<FileRef>) -> Result<(Lease, Arc<File>, Part)> {
        let (lease, descriptor) = self.descriptor(file_ref).await?;
        let part = self.filler.join(lease.file(), file_ref);
        Ok((lease, descriptor, part))
    }

    /// Makes a file whole, fetching at most `bandwidth` bytes a second (0: no limit) together with all who share the pace.
    pub async fn load(&self, file_ref: FileRef, pace: &Pace, bandwidth: u64) -> Result<Loaded> {
        let (bytes, file_ref) = (file_ref.size(), Arc::new(file_ref));
        let lease = self
            .lease(&file_ref)
            .await
            .map_err(|error| cannot_cache(&error))?;
        let part = self.filler.join(lease.file(), &file_ref);
        let cached_before = part.file().is_whole();
        if cached_before {
            return Ok(Loaded {
                bytes,
                cached_before,
            });
        }
        let mut position = 0;
        while position < bytes {
            let end = (position + MAX_PIECE).min(bytes);
            pace.take(end - position, bandwidth).await;
            let access = Access {
                pattern: Pattern::Until(if bandwidth == 0 { bytes } else { end }),
                reach: Reach::Peers,
                urgent: false,
            };
            if part.ensure(position..end, access).await? == Ensured::NotCached {
                let text = format!("no room in the cache for the {bytes} bytes of the file");
                return Err(Error::new(Code::NoSpace, text));
            }
            position = end;
        }
        Ok(Loaded {
            bytes,
            cached_before,
        })
    }

    /// Compares the checksums of a file in the background, so that a later open finds it verified.
    fn verify_later(self: &Arc<Self>, file: Arc<CachedFile>) {
        let id = file.id();
        {
            let mut verifying = self.verifying.lock();
            if verifying.len() >= MOST_VERIFYING || !verifying.insert(id) {
                return;
            }
        }
        let engine = self.clone();
        let _runtime = self.disk.enter();
        self.shutdown.spawn(async move {
            let lease = engine.store.lease(&file);
            if let Ok(_turn) = engine.verify_turn.acquire().await {
                let pages = page_count(file.size());
                for first in (0..pages).step_by(VERIFY_STEP as usize) {
                    let (store, file) = (engine.store.clone(), file.clone());
                    let step = first..(first + VERIFY_STEP).min(pages);
                    if engine
                        .disk
                        .blocking(move || store.verify(&file, step))
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            }
            drop(lease);
            engine.verifying.lock().remove(&id);
        });
    }
}

/// An error of the cache as readers know it: they go round the cache.
fn cannot_cache(error: &forebay_cache::Error) -> Error {
    let code = match error.code() {
        Code::NoSpace => Code::NoSpace,
        _ => Code::Unavailable,
    };
    Error::new(code, chain(error))
}

/// The bytes before the next page boundary after `offset`, at most `step` of them.
pub(crate) fn step(offset: u64, end: u64, step: u64) -> u64 {
    let boundary = (offset + 1).next_multiple_of(PAGE_SIZE);
    (offset + step).min(boundary).min(end)
}
