//! The inode table, and its rows in memory.

use crate::{Result, command::Access, etag::Etag, schema, stamp::Stamp};
use bytes::Bytes;
use forebay_kv::Read;
use forebay_types::{
    Attr, ContentVersion, FileId, FileKind, FileRef, Fingerprint, Ino, MountId, MountSpec, Name,
};
use quick_cache::{
    Weighter,
    sync::{Cache, GuardResult},
};
use serde::{Deserialize, Serialize};
use std::{ops::ControlFlow, sync::Arc};

/// Of a directory from an under store.
const DIRECTORY_ACCESS: Access = Access {
    mode: 0o755,
    uid: 0,
    gid: 0,
};
/// Of a file from an under store.
const FILE_ACCESS: Access = Access {
    mode: 0o644,
    uid: 0,
    gid: 0,
};
/// Of the top of a scratch mount: like `/tmp`, everybody makes names and removes his own.
pub(crate) const SCRATCH_ACCESS: Access = Access {
    mode: 0o1777,
    uid: 0,
    gid: 0,
};
/// Under stores replace contents whole, and a replaced file is a new inode: an inode has one
/// content.
const ONLY_VERSION: ContentVersion = ContentVersion(1);

/// A row of the inode table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InodeRow {
    /// Where it hangs, or hung; `None`: it is, or was, the root.
    pub(crate) place: Option<Place>,
    pub(crate) mtime: Stamp,
    /// `None`: what everything from under stores has.
    pub(crate) access: Option<Access>,
    pub(crate) body: Body,
}

/// Parent directory and own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) parent: Ino,
    pub(crate) name: Name,
    /// The name no longer leads here: an orphan.
    pub(crate) gone: bool,
}

/// What is particular to the kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    File(File),
    Directory(Directory),
}

/// The content of a file, as the under store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) size: u64,
    pub(crate) version: ContentVersion,
    pub(crate) mount: MountId,
    /// The fingerprint's time.
    pub(crate) changed: Stamp,
    pub(crate) etag: Etag,
}

/// Where a directory's entries come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Directory {
    pub(crate) owner: Option<Owner>,
    /// When the last complete listing began; `None`: never listed, or to be listed again.
    pub(crate) synced_ns: Option<i64>,
    /// Whether a listing was ever complete: only then others can have cached what is in it.
    pub(crate) listed: bool,
}

/// The mount that a directory belongs to, and its key in the under store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) mount: MountId,
    /// Empty, or ending in `/`. `None` in a scratch mount: there is no under store, and a
    /// directory can be renamed without a change of what is below.
    pub(crate) prefix: Option<Bytes>,
}

impl Owner {
    /// Of the top of a mount.
    pub(crate) fn top(mount: MountId, spec: &MountSpec) -> Owner {
        Owner {
            mount,
            prefix: (!spec.is_scratch()).then(Bytes::new),
        }
    }

    /// Of a directory within.
    pub(crate) fn child(&self, name: &Name) -> Owner {
        let prefix = self.prefix.as_ref().map(|above| {
            let mut prefix = Vec::with_capacity(above.len() + name.as_bytes().len() + 1);
            prefix.extend_from_slice(above);
            prefix.extend_from_slice(name.as_bytes());
            prefix.push(b'/');
            prefix.into()
        });
        Owner {
            mount: self.mount,
            prefix,
        }
    }

    /// Whether there is no under store behind the directory.
    pub(crate) fn is_scratch(&self) -> bool {
        self.prefix.is_none()
    }
}

impl InodeRow {
    pub(crate) fn directory(place: Option<Place>, mtime_ns: i64, owner: Option<Owner>) -> InodeRow {
        let directory = Directory {
            owner,
            synced_ns: None,
            listed: false,
        };
        InodeRow {
            place,
            mtime: Stamp(mtime_ns),
            access: None,
            body: Body::Directory(directory),
        }
    }

    pub(crate) fn file(
        place: Place,
        mtime_ns: i64,
        mount: MountId,
        fingerprint: &Fingerprint,
    ) -> InodeRow {
        let file = File {
            size: fingerprint.size,
            version: ONLY_VERSION,
            mount,
            changed: Stamp(fingerprint.mtime_ns),
            etag: fingerprint.etag.as_str().into(),
        };
        InodeRow {
            place: Some(place),
            mtime: Stamp(mtime_ns),
            access: None,
            body: Body::File(file),
        }
    }

    pub(crate) fn as_directory(&self) -> Option<&Directory> {
        match &self.body {
            Body::Directory(directory) => Some(directory),
            Body::File(_) => None,
        }
    }

    pub(crate) fn as_file(&self) -> Option<&File> {
        match &self.body {
            Body::File(file) => Some(file),
            Body::Directory(_) => None,
        }
    }

    /// Whether a name of a directory leads here.
    pub(crate) fn is_at(&self, dir: Ino, name: &Name) -> bool {
        let place = self.place.as_ref();
        place.is_some_and(|place| !place.gone && place.parent == dir && place.name == *name)
    }

    /// The row with another directory part; a file stays as it is.
    pub(crate) fn with_directory(&self, change: impl FnOnce(&mut Directory)) -> InodeRow {
        let mut row = self.clone();
        if let Body::Directory(directory) = &mut row.body {
            change(directory);
        }
        row
    }

    /// What `stat` shows; `ino` as others know it.
    pub(crate) fn attr(&self, ino: Ino) -> Attr {
        let (kind, access, size, version) = match &self.body {
            Body::File(file) => (FileKind::File, FILE_ACCESS, file.size, file.version),
            Body::Directory(_) => (FileKind::Directory, DIRECTORY_ACCESS, 0, ContentVersion(0)),
        };
        let access = self.access.unwrap_or(access);
        let mtime_ns = self.mtime.0;
        Attr {
            ino,
            kind,
            size,
            mtime_ns,
            mode: access.mode,
            uid: access.uid,
            gid: access.gid,
            version,
        }
    }

    fn weight(&self) -> u64 {
        let place = self
            .place
            .as_ref()
            .map_or(0, |place| place.name.as_bytes().len());
        let body = match &self.body {
            Body::File(File {
                etag: Etag::Text(text),
                ..
            }) => text.len(),
            Body::File(_) => 0,
            Body::Directory(directory) => directory
                .owner
                .as_ref()
                .and_then(|owner| owner.prefix.as_ref())
                .map_or(0, Bytes::len),
        };
        (size_of::<InodeRow>() + OVERHEAD + place + body) as u64
    }
}

impl File {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            size: self.size,
            mtime_ns: self.changed.0,
            etag: self.etag.to_string(),
        }
    }

    /// Whether the under store still has this content.
    pub(crate) fn matches(&self, fingerprint: &Fingerprint) -> bool {
        self.size == fingerprint.size
            && self.changed.0 == fingerprint.mtime_ns
            && self.etag == Etag::from(fingerprint.etag.as_str())
    }

    /// What a worker needs; `parent` is the directory that the file is or was in.
    pub(crate) fn file_ref(&self, ino: Ino, place: &Place, parent: &Directory) -> Option<FileRef> {
        let prefix = parent.owner.as_ref()?.prefix.as_ref()?;
        let mut key = Vec::with_capacity(prefix.len() + place.name.as_bytes().len());
        key.extend_from_slice(prefix);
        key.extend_from_slice(place.name.as_bytes());
        Some(FileRef {
            id: FileId {
                ino,
                version: self.version,
            },
            mount: self.mount,
            key: key.into(),
            fingerprint: self.fingerprint(),
        })
    }
}

/// A row straight from the store.
pub(crate) fn get(reader: &dyn Read, ino: Ino) -> Result<Option<InodeRow>> {
    reader
        .get(&schema::inode(ino))?
        .map(|bytes| decode(&bytes))
        .transpose()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<InodeRow> {
    schema::decode(bytes, "inode")
}

/// The rows of `inos`, in their order.
pub(crate) fn get_many(reader: &dyn Read, inos: &[Ino]) -> Result<Vec<Option<InodeRow>>> {
    read_many(reader, inos, |_, row| row)
}

/// What is wanted of the rows of `inos`, in their order. Those that lie close together (a directory
/// that was loaded at once, or filled by a few at the same time) are read by one scan, which costs a
/// fraction of single lookups; others by sorted lookups.
pub(crate) fn read_many<T: Clone>(
    reader: &dyn Read,
    inos: &[Ino],
    want: impl Fn(Ino, InodeRow) -> T,
) -> Result<Vec<Option<T>>> {
    let mut order: Vec<usize> = (0..inos.len()).collect();
    order.sort_unstable_by_key(|at| inos[*at]);
    let mut rows = vec![None; inos.len()];
    let mut singles = Vec::new();
    for run in order.chunk_by(|a, b| inos[*b].0 - inos[*a].0 <= GAP) {
        if run.len() < RUN {
            singles.extend_from_slice(run);
            continue;
        }
        let range = schema::inodes(inos[run[0]], inos[run[run.len() - 1]]);
        let mut wanted = run.iter().peekable();
        let mut take = |key: &[u8], value: &[u8]| -> Result<()> {
            let ino = schema::inode_of(key)?;
            while wanted.next_if(|at| inos[**at] < ino).is_some() {}
            while let Some(at) = wanted.next_if(|at| inos[**at] == ino) {
                rows[*at] = Some(want(ino, decode(value)?));
            }
            Ok(())
        };
        let mut ended = Ok(());
        let visitor = &mut |key: &[u8], value: &[u8]| {
            ended = take(key, value);
            match ended {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        reader.visit(range.start.as_slice()..range.end.as_slice(), visitor)?;
        ended?;
    }
    let keys: Vec<_> = singles.iter().map(|at| schema::inode(inos[*at])).collect();
    for (at, value) in singles.iter().zip(reader.multi_get(&keys)?) {
        if let Some(bytes) = value {
            rows[*at] = Some(want(inos[*at], decode(&bytes)?));
        }
    }
    Ok(rows)
}

/// Shorter runs of neighbours are looked up singly.
const RUN: usize = 16;
/// A larger step ends a run: to pass a row by costs a thirtieth of a lookup.
const GAP: u64 = 24;

/// Counted per cached row beside its bytes: the reference count, the allocator's rounding of two
/// allocations, and the cache's own tables.
const OVERHEAD: usize = 112;

#[derive(Clone)]
struct Bytewise;

impl Weighter<Ino, Arc<InodeRow>> for Bytewise {
    fn weight(&self, _ino: &Ino, row: &Arc<InodeRow>) -> u64 {
        row.weight()
    }
}

/// Rows in memory, bounded in bytes. Views fill it; apply drops or renews what it changed after the
/// commit. A view that has read a row before the commit cannot put it in afterwards: its
/// placeholder is gone by then.
pub(crate) struct InodeCache {
    rows: Cache<Ino, Arc<InodeRow>, Bytewise>,
}

impl InodeCache {
    pub(crate) fn new(bytes: u64) -> InodeCache {
        let items = (bytes / (size_of::<InodeRow>() + OVERHEAD + 16) as u64) as usize;
        InodeCache {
            rows: Cache::with_weighter(items, bytes, Bytewise),
        }
    }

    /// A row, from memory or else from `reader`, which must be the live store.
    pub(crate) fn load(&self, reader: &dyn Read, ino: Ino) -> Result<Option<Arc<InodeRow>>> {
        let guard = match self.rows.get_value_or_guard(&ino, None) {
            GuardResult::Value(row) => return Ok(Some(row)),
            GuardResult::Guard(guard) => guard,
            GuardResult::Timeout => return Ok(get(reader, ino)?.map(Arc::new)),
        };
        let Some(row) = get(reader, ino)?.map(Arc::new) else {
            return Ok(None);
        };
        // An error says that apply changed the row meanwhile: this one is then not kept.
        let _ = guard.insert(row.clone());
        Ok(Some(row))
    }

    pub(crate) fn forget(&self, ino: Ino) {
        self.rows.remove(&ino);
    }

    /// Keeps a row that was just committed in the place of an older one.
    pub(crate) fn renew(&self, ino: Ino, row: Arc<InodeRow>) {
        self.rows.insert(ino, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_kv::{Batch, Durability, Kv, MemKv};

    fn row(number: u64) -> InodeRow {
        let place = Place {
            parent: Ino(2),
            name: Name::new(format!("part-{number:05}.parquet")).unwrap(),
            gone: false,
        };
        let fingerprint = Fingerprint {
            size: 110_000 + number,
            mtime_ns: 0,
            etag: format!("\"{:032x}\"", u128::from(number) * 0x1234_5678_9abc_def1),
        };
        InodeRow::file(place, 1_700_000_000_000_000_000, MountId(1), &fingerprint)
    }

    fn store(inos: impl Iterator<Item = u64>) -> MemKv {
        let kv = MemKv::new();
        let mut batch = Batch::default();
        for ino in inos {
            batch.put(schema::inode(Ino(ino)), schema::encode(&row(ino)));
        }
        kv.write(&batch, Durability::Volatile).unwrap();
        kv
    }

    #[test]
    fn a_row_is_small_and_reads_back() {
        let bytes = schema::encode(&row(7));
        assert_eq!(decode(&bytes).unwrap(), row(7));
        assert!(bytes.len() <= 60, "{} bytes", bytes.len());
        let file = row(7);
        let file = file.as_file().unwrap();
        assert!(file.matches(&file.fingerprint()));
        assert!(!file.matches(&Fingerprint {
            mtime_ns: 1,
            ..file.fingerprint()
        }));
    }

    #[test]
    fn many_are_read_in_the_order_asked_for() {
        let kv = store((10..500).filter(|ino| ino % 3 != 0));
        for step in [1, 2, 5, 40] {
            for descending in [false, true] {
                let mut inos: Vec<_> = (0..600).step_by(step).map(Ino).collect();
                inos.push(Ino(11));
                if descending {
                    inos.reverse();
                }
                let rows = get_many(&kv, &inos).unwrap();
                for (ino, found) in inos.iter().zip(rows) {
                    let there = (10..500).contains(&ino.0) && ino.0 % 3 != 0;
                    assert_eq!(found, there.then(|| row(ino.0)), "{ino} by {step}");
                }
            }
        }
    }

    #[test]
    fn the_cache_is_bounded_and_never_keeps_what_was_forgotten() {
        let kv = store(0..5000);
        let cache = InodeCache::new(100_000);
        for ino in 0..5000 {
            assert_eq!(
                cache.load(&kv, Ino(ino)).unwrap().as_deref(),
                Some(&row(ino))
            );
        }
        assert!(cache.rows.weight() <= 100_000);
        assert!(cache.rows.len() > 100);
        let mut batch = Batch::default();
        batch.put(schema::inode(Ino(4999)), schema::encode(&row(1)));
        kv.write(&batch, Durability::Volatile).unwrap();
        cache.forget(Ino(4999));
        assert_eq!(
            cache.load(&kv, Ino(4999)).unwrap().as_deref(),
            Some(&row(1))
        );
        assert_eq!(cache.load(&kv, Ino(6000)).unwrap(), None);
    }

    #[test]
    fn a_row_read_before_a_change_is_not_kept_after_it() {
        /// A store in which the row changes right after it was read.
        struct Racing<'a>(&'a MemKv, &'a InodeCache);
        impl Read for Racing<'_> {
            fn get(&self, key: &[u8]) -> forebay_kv::Result<Option<Vec<u8>>> {
                let before = self.0.get(key);
                let mut batch = Batch::default();
                batch.put(key, schema::encode(&row(2)));
                self.0.write(&batch, Durability::Volatile)?;
                self.1.forget(schema::inode_of(key).unwrap());
                before
            }
            fn scan(&self, range: std::ops::Range<&[u8]>) -> forebay_kv::Scan<'_> {
                self.0.scan(range)
            }
        }
        let kv = store(1..2);
        let cache = InodeCache::new(1 << 20);
        let racing = Racing(&kv, &cache);
        assert_eq!(
            cache.load(&racing, Ino(1)).unwrap().as_deref(),
            Some(&row(1))
        );
        assert_eq!(cache.load(&kv, Ino(1)).unwrap().as_deref(), Some(&row(2)));
    }
}
