//! Tier directories, stores over them, and content that tells every byte apart.

use forebay_cache::{CachedFile, Error, PolicyKind, Store, StoreConfig, TierConfig};
use forebay_kv::{Batch, Durability, Kv, MemKv, Read, Scan};
use forebay_types::{
    ContentVersion, FileId, Ino, Medium, MountId, PAGE_SIZE, PageIndex,
    page::{bytes_of, page_count},
};
use std::{
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};
use tempfile::TempDir;

pub(crate) const MIB: u64 = PAGE_SIZE;

pub(crate) fn id(ino: u64) -> FileId {
    FileId {
        ino: Ino(ino),
        version: ContentVersion(1),
    }
}

/// The bytes of a file: every eight of them depend on file and place.
pub(crate) fn content(id: FileId, range: Range<u64>) -> Vec<u8> {
    let word = |n: u64| {
        let mut x = (id.ino.0 << 40) ^ (id.version.0 << 56) ^ n;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    };
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize + 16);
    for n in range.start / 8..range.end.div_ceil(8) {
        bytes.extend_from_slice(&word(n));
    }
    let skip = (range.start % 8) as usize;
    bytes.drain(..skip);
    bytes.truncate((range.end - range.start) as usize);
    bytes
}

/// A key-value store that counts writes and can fail.
pub(crate) struct TestKv {
    pub(crate) inner: MemKv,
    pub(crate) writes: AtomicU64,
    pub(crate) broken: AtomicBool,
    /// Takes writes and keeps nothing, to see what the store itself keeps.
    pub(crate) forgets: AtomicBool,
}

impl TestKv {
    pub(crate) fn new() -> Arc<TestKv> {
        Arc::new(TestKv {
            inner: MemKv::new(),
            writes: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
        })
    }
}

impl Read for TestKv {
    fn get(&self, key: &[u8]) -> forebay_kv::Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }
    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        self.inner.scan(range)
    }
}

impl Kv for TestKv {
    fn write(&self, batch: &Batch, durability: Durability) -> forebay_kv::Result<()> {
        assert_eq!(durability, Durability::Logged);
        if self.broken.load(SeqCst) {
            return Err(forebay_kv::Error::Failed("broken".into()));
        }
        self.writes.fetch_add(1, SeqCst);
        if self.forgets.load(SeqCst) {
            return Ok(());
        }
        self.inner.write(batch, durability)
    }
    fn snapshot(&self) -> Box<dyn Read + '_> {
        self.inner.snapshot()
    }
    fn flush(&self) -> forebay_kv::Result<()> {
        panic!("the store never flushes");
    }
    fn checkpoint(&self, dir: &Path) -> forebay_kv::Result<()> {
        self.inner.checkpoint(dir)
    }
}

/// Tiers in a temporary directory, and an index that outlives the store.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) kv: Arc<TestKv>,
    pub(crate) config: StoreConfig,
}

impl Fixture {
    /// One SSD tier of `quota` bytes.
    pub(crate) fn new(base: &Path, quota: u64) -> Fixture {
        Fixture::tiered(base, &[(Medium::Ssd, quota)])
    }

    pub(crate) fn tiered(base: &Path, tiers: &[(Medium, u64)]) -> Fixture {
        let dir = tempfile::tempdir_in(base).unwrap();
        let tiers = tiers
            .iter()
            .enumerate()
            .map(|(n, (medium, quota))| TierConfig {
                medium: *medium,
                dir: dir.path().join(format!("tier{n}")),
                quota: *quota,
            })
            .collect();
        Fixture {
            dir,
            kv: TestKv::new(),
            config: StoreConfig {
                tiers,
                policy: PolicyKind::Lru,
                high_watermark: 0.9,
                low_watermark: 0.5,
            },
        }
    }

    pub(crate) fn open(&self) -> Arc<Store> {
        Store::open(self.config.clone(), Arc::clone(&self.kv) as Arc<dyn Kv>).unwrap()
    }

    /// Where a file's bytes lie.
    pub(crate) fn path(&self, tier: usize, id: FileId) -> PathBuf {
        self.config.tiers[tier].dir.join(format!(
            "files/{:02x}/{}.{}",
            id.ino.0 & 0xff,
            id.ino,
            id.version
        ))
    }

    pub(crate) fn rows(&self) -> usize {
        self.kv.scan(b"".as_slice()..[0xff].as_slice()).count()
    }
}

/// The directories to test on: the disk, and tmpfs where there is one.
pub(crate) fn bases() -> Vec<PathBuf> {
    let mut bases = vec![tempfile::env::temp_dir()];
    let shm = PathBuf::from("/dev/shm");
    if tempfile::tempdir_in(&shm).is_ok() {
        bases.push(shm);
    }
    bases
}

/// The fastest of them, for tests of many steps.
pub(crate) fn fast() -> PathBuf {
    bases().pop().unwrap()
}

pub(crate) fn disk() -> PathBuf {
    tempfile::env::temp_dir()
}

/// Makes a file and fills it.
pub(crate) fn put(store: &Arc<Store>, id: FileId, size: u64) -> Result<Arc<CachedFile>, Error> {
    let file = store.get_or_create(id, MountId(1), size)?;
    fill(store, &file, 0..page_count(size))?;
    Ok(file)
}

/// Writes some pages, in pieces that fit no page.
pub(crate) fn fill(
    store: &Arc<Store>,
    file: &Arc<CachedFile>,
    pages: Range<PageIndex>,
) -> Result<(), Error> {
    let range = bytes_of(pages.clone(), file.size());
    if range.is_empty() {
        return Ok(());
    }
    let mut writer = store.writer(file, pages.start, range.end - range.start)?;
    for piece in content(file.id(), range).chunks(300_007) {
        writer.write(piece)?;
    }
    Ok(())
}

/// Verifies a file, compares the bytes of all its pages with the content; returns them.
pub(crate) fn check(store: &Arc<Store>, file: &Arc<CachedFile>) -> Vec<PageIndex> {
    let all = 0..page_count(file.size());
    store.verify(file, all.clone()).unwrap();
    let missing: Vec<PageIndex> = file.missing(all.clone()).into_iter().flatten().collect();
    let present: Vec<PageIndex> = all.filter(|page| !missing.contains(page)).collect();
    if !present.is_empty() {
        let disk = file.file().unwrap();
        assert_eq!(disk.metadata().unwrap().len(), file.size());
        for page in &present {
            let range = bytes_of(*page..page + 1, file.size());
            let mut bytes = vec![0; (range.end - range.start) as usize];
            disk.read_exact_at(&mut bytes, range.start).unwrap();
            assert!(
                bytes == content(file.id(), range),
                "page {page} of {}",
                file.id()
            );
        }
    }
    present
}
