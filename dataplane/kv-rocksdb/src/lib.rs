//! The key-value trait over RocksDB; the only crate that links it.
//!
//! One column family, so that what is flushed is always a prefix of what was written. Block cache,
//! index and filter blocks and write buffers share one budget of memory; files, threads and logs
//! are bounded.
//!
//! A database takes either only [`Durability::Volatile`] writes (the metadata: the raft journal is
//! its log) or only [`Durability::Logged`] and [`Durability::Synced`] ones (the worker's page
//! index; the journal). A write that would mix them is refused.

use forebay_kv::{Batch, Durability, Error, Kv, Op, Read, Result, Scan, Visitor};
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBRawIterator, FlushOptions, ReadOptions, WriteBatch, WriteOptions,
};
use std::{
    fs,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

mod error;
mod tuning;

use error::{io_failed, mapped, not_opened};

/// Settings of a database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes for block cache (index and filter blocks included) and write buffers together.
    pub memory_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            memory_bytes: 64 << 20,
        }
    }
}

/// A RocksDB database.
pub struct RocksKv {
    db: DB,
    /// Which kind of write came first: see [`RocksKv::admit`].
    journal: AtomicU8,
}

/// The one column family.
const FAMILY: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

/// Values of [`RocksKv::journal`].
const UNDECIDED: u8 = 0;
const WITHOUT: u8 = 1;
const WITH: u8 = 2;

impl RocksKv {
    /// Opens the database in `dir`, making it if there is none. A directory belongs to one open
    /// database at a time.
    pub fn open(dir: &Path, options: &Options) -> Result<Arc<RocksKv>> {
        fs::create_dir_all(dir).map_err(io_failed)?;
        let options = tuning::options(options);
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        let db =
            DB::open_cf_descriptors(&options, dir, [family]).map_err(|e| not_opened(dir, e))?;
        db.set_options(tuning::CHANGED_AFTER_OPEN).map_err(mapped)?;
        Ok(Arc::new(RocksKv {
            db,
            journal: AtomicU8::new(UNDECIDED),
        }))
    }

    /// Rewrites everything without what is deleted or replaced; takes as long as that takes, beside
    /// readers and writers.
    pub fn compact(&self) {
        self.db.compact_range::<&[u8], &[u8]>(None, None);
    }

    /// Refuses to mix writes with and without RocksDB's own log.
    fn admit(&self, durability: Durability) -> Result<()> {
        let wanted = if durability == Durability::Volatile {
            WITHOUT
        } else {
            WITH
        };
        let before = self
            .journal
            .compare_exchange(UNDECIDED, wanted, Ordering::Relaxed, Ordering::Relaxed)
            .unwrap_or_else(|found| found);
        if before == UNDECIDED || before == wanted {
            return Ok(());
        }
        Err(Error::Failed(
            "volatile and logged writes must not be mixed in one database".into(),
        ))
    }
}

impl Read for RocksKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(mapped)
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        multi_get(&self.db, keys, &ReadOptions::default())
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        scan(&self.db, range, ReadOptions::default())
    }

    fn visit(&self, range: Range<&[u8]>, visitor: &mut Visitor<'_>) -> Result<()> {
        visit(&self.db, range, ReadOptions::default(), visitor)
    }
}

impl Kv for RocksKv {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        self.admit(durability)?;
        let mut rows = WriteBatch::default();
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => rows.put(key, value),
                Op::Delete(key) => rows.delete(key),
                Op::DeleteRange(range) if range.start < range.end => {
                    rows.delete_range(&range.start, &range.end);
                }
                Op::DeleteRange(_) => {}
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(durability == Durability::Volatile);
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(rows, &options).map_err(mapped)
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        Box::new(Snapshot {
            db: &self.db,
            inner: self.db.snapshot(),
        })
    }

    fn flush(&self) -> Result<()> {
        if self.journal.load(Ordering::Relaxed) == WITH {
            return self.db.flush_wal(true).map_err(mapped);
        }
        // The memtable becomes immutable and is written in the background; writers go on in the
        // next one.
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(mapped)
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        rocksdb::checkpoint::Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(mapped)
    }
}

/// One moment of a database.
struct Snapshot<'a> {
    db: &'a DB,
    inner: rocksdb::Snapshot<'a>,
}

impl Snapshot<'_> {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.inner);
        options
    }
}

impl Read for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(key).map_err(mapped)
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        multi_get(self.db, keys, &self.options())
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        scan(self.db, range, self.options())
    }

    fn visit(&self, range: Range<&[u8]>, visitor: &mut Visitor<'_>) -> Result<()> {
        visit(self.db, range, self.options(), visitor)
    }
}

/// Most keys that go to RocksDB in one call: it keeps the blocks of all of them pinned.
const MULTI_GET: usize = 512;

fn multi_get(db: &DB, keys: &[Vec<u8>], options: &ReadOptions) -> Result<Vec<Option<Vec<u8>>>> {
    let family = db
        .cf_handle(FAMILY)
        .expect("the database was opened with it");
    let sorted = keys.is_sorted();
    let mut values = Vec::with_capacity(keys.len());
    for part in keys.chunks(MULTI_GET) {
        for value in db.batched_multi_get_cf_opt(family, part, sorted, options) {
            values.push(value.map_err(mapped)?.map(|bytes| bytes.to_vec()));
        }
    }
    Ok(values)
}

fn scan<'a>(db: &'a DB, range: Range<&[u8]>, options: ReadOptions) -> Scan<'a> {
    match start(db, range, options) {
        Some(rows) => Box::new(Rows { rows, done: false }),
        None => Box::new(std::iter::empty()),
    }
}

fn visit(
    db: &DB,
    range: Range<&[u8]>,
    options: ReadOptions,
    visitor: &mut Visitor<'_>,
) -> Result<()> {
    let Some(mut rows) = start(db, range, options) else {
        return Ok(());
    };
    while let Some((key, value)) = rows.item() {
        if visitor(key, value).is_break() {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(mapped)
}

/// At the first pair of a range; `None`: there can be none.
fn start<'a>(
    db: &'a DB,
    range: Range<&[u8]>,
    mut options: ReadOptions,
) -> Option<DBRawIterator<'a>> {
    if range.start >= range.end {
        return None;
    }
    options.set_iterate_upper_bound(range.end);
    let mut rows = db.raw_iterator_opt(options);
    rows.seek(range.start);
    Some(rows)
}

/// Goes through a range.
struct Rows<'a> {
    rows: DBRawIterator<'a>,
    done: bool,
}

impl Iterator for Rows<'_> {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if let Some((key, value)) = self.rows.item() {
            let pair = (key.to_vec(), value.to_vec());
            self.rows.next();
            return Some(Ok(pair));
        }
        self.done = true;
        self.rows.status().map_err(mapped).err().map(Err)
    }
}
