//! SIGKILL at any point: what is on the disk and in the index at that moment is copied, and another
//! store is opened over the copies. It must serve right bytes only, and every page that was present.

use crate::fixture::{Fixture, MIB, TestKv, check, content, fast, fill, id, put};
use forebay_cache::{Store, StoreConfig};
use forebay_kv::{Batch, Durability, Kv, Read, Scan};
use forebay_types::{FileId, Medium, MountId, page::page_count};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

/// An index that stops the world before and after every write, and looks at what a crash would leave.
struct CrashKv {
    inner: Arc<TestKv>,
    config: StoreConfig,
    store: OnceLock<Arc<Store>>,
    crashes: Mutex<u32>,
}

impl CrashKv {
    fn crash(&self) {
        let dir = tempfile::tempdir_in(fast()).unwrap();
        let mut config = self.config.clone();
        for (n, tier) in config.tiers.iter_mut().enumerate() {
            let copy = dir.path().join(n.to_string());
            copy_tree(&tier.dir, &copy);
            tier.dir = copy;
        }
        let kv = TestKv::new();
        let mut rows = Batch::default();
        for pair in self.inner.scan(b"".as_slice()..[0xff].as_slice()) {
            let (key, value) = pair.unwrap();
            rows.put(key, value);
        }
        kv.inner.write(&rows, Durability::Logged).unwrap();
        let store = Store::open(config, kv as Arc<dyn Kv>).unwrap();
        for file in store.files() {
            check(&store, &file);
        }
        // The state of files cannot be asked for here, under the locks of the store that is
        // writing; what must be there is known from the rows.
        assert_eq!(store.counters().corrupt_pages, 0, "no torn page has a row");
        let used: u64 = store.tiers().iter().map(|tier| tier.used).sum();
        let sum: u64 = store.files().iter().map(|file| file.cached_bytes()).sum();
        assert_eq!(used, sum);
        *self.crashes.lock() += 1;
    }
}

impl Read for CrashKv {
    fn get(&self, key: &[u8]) -> forebay_kv::Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }
    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        self.inner.scan(range)
    }
}

impl Kv for CrashKv {
    fn write(&self, batch: &Batch, durability: Durability) -> forebay_kv::Result<()> {
        if self.store.get().is_some() {
            self.crash();
        }
        self.inner.write(batch, durability)?;
        if self.store.get().is_some() {
            self.crash();
        }
        Ok(())
    }
    fn snapshot(&self) -> Box<dyn Read + '_> {
        self.inner.snapshot()
    }
    fn flush(&self) -> forebay_kv::Result<()> {
        self.inner.flush()
    }
    fn checkpoint(&self, dir: &Path) -> forebay_kv::Result<()> {
        self.inner.checkpoint(dir)
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn crashing() -> (Fixture, Arc<CrashKv>, Arc<Store>) {
    let fixture = Fixture::tiered(&fast(), &[(Medium::Mem, 9 * MIB), (Medium::Ssd, 12 * MIB)]);
    let kv = Arc::new(CrashKv {
        inner: Arc::clone(&fixture.kv),
        config: fixture.config.clone(),
        store: OnceLock::new(),
        crashes: Mutex::new(0),
    });
    let store = Store::open(fixture.config.clone(), Arc::clone(&kv) as Arc<dyn Kv>).unwrap();
    assert!(kv.store.set(Arc::clone(&store)).is_ok());
    (fixture, kv, store)
}

#[test]
fn a_crash_during_fills_moves_evictions_and_frees_leaves_right_bytes() {
    let (_fixture, kv, store) = crashing();
    for ino in 1..=9 {
        put(&store, id(ino), MIB - ino).unwrap();
    }
    let large = store
        .get_or_create(id(20), MountId(1), 7 * MIB + 3)
        .unwrap();
    fill(&store, &large, 2..8).unwrap();
    store.set_pinned(id(3), true).unwrap();
    store.maintain();
    assert!(store.counters().demoted_files > 0);
    for ino in 30..=36 {
        let _ = put(&store, id(ino), MIB);
        store.maintain();
    }
    assert!(store.counters().evicted_pages > 0);
    store.set_pinned(id(3), false).unwrap();
    for file in store.files() {
        store.free(file.id());
    }
    assert!(*kv.crashes.lock() > 60, "{}", *kv.crashes.lock());
}

#[test]
fn a_crash_between_any_two_chunks_keeps_the_pages_that_were_complete() {
    let fixture = Fixture::new(&fast(), 64 * MIB);
    let store = fixture.open();
    let size = 3 * MIB + 1000;
    let file = store.get_or_create(id(1), MountId(1), size).unwrap();
    let mut writer = store.writer(&file, 0, size).unwrap();
    for piece in content(id(1), 0..size).chunks(400_000) {
        writer.write(piece).unwrap();
        let copy = tempfile::tempdir_in(fast()).unwrap();
        let mut config = fixture.config.clone();
        copy_tree(&config.tiers[0].dir, &copy.path().join("tier"));
        config.tiers[0].dir = copy.path().join("tier");
        let kv = TestKv::new();
        let mut rows = Batch::default();
        for pair in fixture.kv.scan(b"".as_slice()..[0xff].as_slice()) {
            let (key, value) = pair.unwrap();
            rows.put(key, value);
        }
        kv.inner.write(&rows, Durability::Logged).unwrap();
        let after = Store::open(config, kv as Arc<dyn Kv>).unwrap();
        let complete = if writer.position() == size {
            4
        } else {
            (writer.position() / MIB) as u32
        };
        match after.get(id(1)) {
            Some(found) => assert_eq!(check(&after, &found), (0..complete).collect::<Vec<_>>()),
            None => assert_eq!(complete, 0),
        }
    }
}

/// A loss of power: rows and bytes reach the disk in any order.
#[test]
fn rows_and_bytes_that_do_not_belong_together_cost_pages_only() {
    let fixture = Fixture::new(&fast(), 64 * MIB);
    let store = fixture.open();
    for ino in 1..=6 {
        put(&store, id(ino), 2 * MIB).unwrap();
    }
    drop(store);
    let path = |ino| fixture.path(0, id(ino));
    let zeros = |ino| {
        let file = std::fs::File::options()
            .write(true)
            .open(path(ino))
            .unwrap();
        file.set_len(0).unwrap();
        file.set_len(2 * MIB).unwrap();
    };
    zeros(1);
    std::fs::copy(path(3), path(2)).unwrap();
    std::fs::File::create(path(4)).unwrap();
    let rows: Vec<Vec<u8>> = fixture
        .kv
        .scan(b"".as_slice()..[0xff].as_slice())
        .map(|pair| pair.unwrap().0)
        .collect();
    let key = |id: FileId, page: Option<u32>| {
        let mut key = vec![b'f'];
        key.extend_from_slice(&id.ino.0.to_be_bytes());
        key.extend_from_slice(&id.version.0.to_be_bytes());
        key.extend(page.iter().flat_map(|page| page.to_be_bytes()));
        key
    };
    let mut batch = Batch::default();
    for (gone, there) in [(key(id(5), None), true), (key(id(6), Some(0)), true)] {
        assert_eq!(rows.contains(&gone), there);
        batch.delete(gone);
    }
    batch.put(key(id(3), Some(77)), [0; 4]);
    batch.put(key(id(3), None), [0xff; 3]);
    fixture.kv.inner.write(&batch, Durability::Logged).unwrap();
    let store = fixture.open();
    let mut left = BTreeSet::new();
    for file in store.files() {
        for page in check(&store, &file) {
            left.insert((file.id().ino.0, page));
        }
        assert!(page_count(file.size()) == 2);
    }
    assert_eq!(left, BTreeSet::from([(6, 1)]));
    assert_eq!(store.counters().corrupt_pages, 6);
}
