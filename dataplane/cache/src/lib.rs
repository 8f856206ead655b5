//! The tiered page store: one sparse file per (inode, content version) on a tier, a page bitmap
//! in memory, and a row with a CRC32C per page in the index.
//!
//! It is not: a fetcher (the worker's fills write here), nor a network service. Decisions (which
//! tier, what to evict, what to move) are pure functions in `policy`, `admission` and `tier`;
//! [`Store`] executes them. Invariants: a page is in the bitmap only if all its bytes were
//! written and its row is in the index; a leased file is neither moved, unlinked nor punched; bytes of
//! two content versions never lie in one file.

use forebay_kv::Kv;
use forebay_types::{Code, FileId, Medium, MountId, PageIndex};
use std::{fs::File, ops::Range, path::PathBuf, sync::Arc};

/// A tier of the store.
#[derive(Clone, Debug)]
pub struct TierConfig {
    /// What it is made of.
    pub medium: Medium,
    /// Where; made if missing.
    pub dir: PathBuf,
    /// Most bytes to hold.
    pub quota: u64,
}

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The tiers, in any order; at least one.
    pub tiers: Vec<TierConfig>,
    /// Which eviction policy.
    pub policy: PolicyKind,
    /// Eviction begins when a tier holds more than this fraction of its quota …
    pub high_watermark: f64,
    /// … and ends below this one.
    pub low_watermark: f64,
}

/// The eviction policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO (Yang et al., SOSP 2023).
    S3Fifo,
}

/// An error of the store. Readers never see one: the caller goes to another source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No tier has room now.
    #[error("no tier has room for {0} bytes")]
    NoSpace(u64),
    /// A tier's directory failed.
    #[error("tier {dir} failed")]
    Device {
        /// Which.
        dir: PathBuf,
        /// How.
        #[source]
        source: std::io::Error,
    },
    /// The index failed.
    #[error("page index failed")]
    Index(#[from] forebay_kv::Error),
    /// The configuration cannot be; the text says what to do.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// The kind.
    pub fn code(&self) -> Code {
        match self {
            Error::NoSpace(_) => Code::NoSpace,
            Error::Device { .. } => Code::Unavailable,
            Error::Index(_) => Code::Corrupt,
            Error::Config(_) => Code::InvalidArgument,
        }
    }
}

/// The page store of a worker.
pub struct Store {}

/// A file of the store: the sparse file and what is known of its pages. Stays readable for as long
/// as it is held, whatever happens to the store.
pub struct CachedFile {}

/// Keeps a file from being moved, evicted or freed (free waits for the last lease). Dropping it
/// gives the lease back.
pub struct Lease {}

/// Writes contiguous bytes into a file, from a page boundary on; each page becomes present
/// when its last byte is in.
pub struct PageWriter {}

/// State of one tier.
#[derive(Clone, Debug)]
pub struct TierStatus {
    /// Medium.
    pub medium: Medium,
    /// Directory.
    pub dir: PathBuf,
    /// Quota in bytes.
    pub quota: u64,
    /// Bytes of present pages.
    pub used: u64,
    /// Files.
    pub files: u64,
    /// Why it does not serve, if it does not.
    pub fault: Option<String>,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Pages evicted.
    pub evicted_pages: u64,
    /// Pages whose checksum was wrong.
    pub corrupt_pages: u64,
    /// Files moved to a faster, and to a slower tier.
    pub promoted_files: u64,
    /// Files moved to a slower tier.
    pub demoted_files: u64,
}

impl Store {
    /// Opens the tiers and loads the index. What lies on a tier without a row, or has a row without
    /// a file, is dropped. Pages found count as unverified until their checksum was compared.
    pub fn open(_config: StoreConfig, _index: Arc<dyn Kv>) -> Result<Arc<Store>, Error> {
        todo!()
    }

    /// The file, if any page of it is or was here. Counts as a use for the policy.
    pub fn get(&self, _id: FileId) -> Option<Arc<CachedFile>> {
        todo!()
    }

    /// The file, made empty on the tier that admission chooses if it is not here.
    pub fn get_or_create(
        &self,
        _id: FileId,
        _mount: MountId,
        _size: u64,
    ) -> Result<Arc<CachedFile>, Error> {
        todo!()
    }

    /// A lease on a file that is here.
    pub fn lease(self: &Arc<Self>, _file: &Arc<CachedFile>) -> Lease {
        todo!()
    }

    /// A writer for the missing pages from `first` on. Fails with `NoSpace` when the tier cannot
    /// take `bytes` more even after eviction.
    pub fn writer(
        self: &Arc<Self>,
        _file: &Arc<CachedFile>,
        _first: PageIndex,
        _bytes: u64,
    ) -> Result<PageWriter, Error> {
        todo!()
    }

    /// Compares the checksums of unverified pages in `pages`; drops the wrong ones (they count as
    /// missing from then on). Cheap when nothing is unverified.
    pub fn verify(
        &self,
        _file: &Arc<CachedFile>,
        _pages: Range<PageIndex>,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Drops a file (after its last lease, if leased). Returns the bytes it held.
    pub fn free(&self, _id: FileId) -> u64 {
        todo!()
    }

    /// Drops all files of mounts other than these.
    pub fn retain_mounts(&self, _mounts: &[MountId]) {
        todo!()
    }

    /// Pinned files are never evicted. Survives a restart.
    pub fn set_pinned(&self, _id: FileId, _pinned: bool) -> Result<(), Error> {
        todo!()
    }

    /// One round of background work: eviction down to the low watermark, demotion, promotion. Returns
    /// the leased files that stand in the way of the low watermark: their holders should be asked to let go.
    pub fn maintain(&self) -> Vec<FileId> {
        todo!()
    }

    /// Resolves the caller's wait until a tier passes its high watermark: true at once if one has.
    pub fn needs_maintenance(&self) -> bool {
        todo!()
    }

    /// The tiers, fastest first.
    pub fn tiers(&self) -> Vec<TierStatus> {
        todo!()
    }

    /// Counters.
    pub fn counters(&self) -> Counters {
        todo!()
    }
}

impl CachedFile {
    /// Its key.
    pub fn id(&self) -> FileId {
        todo!()
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Where it lies.
    pub fn medium(&self) -> Medium {
        todo!()
    }

    /// Bytes of present pages.
    pub fn cached_bytes(&self) -> u64 {
        todo!()
    }

    /// Whether it is pinned.
    pub fn is_pinned(&self) -> bool {
        todo!()
    }

    /// Whether every page is present.
    pub fn is_whole(&self) -> bool {
        todo!()
    }

    /// Whether every present page's checksum was compared since the store was opened.
    pub fn is_verified(&self) -> bool {
        todo!()
    }

    /// The runs of missing pages within a range.
    pub fn missing(&self, _pages: Range<PageIndex>) -> Vec<Range<PageIndex>> {
        todo!()
    }

    /// The sparse file, open for reading.
    pub fn file(&self) -> &Arc<File> {
        todo!()
    }
}

impl PageWriter {
    /// Writes the next bytes. After an error the pages complete so far remain.
    pub fn write(&mut self, _bytes: &[u8]) -> Result<(), Error> {
        todo!()
    }

    /// Bytes of the file up to here (exclusive) have been written.
    pub fn position(&self) -> u64 {
        todo!()
    }
}
