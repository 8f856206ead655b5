//! A state machine in memory, and short ways to say what it is told.

use bytes::Bytes;
use forebay_kv::{Batch, Durability, Kv, MemKv};
use forebay_meta::{Change, Command, Entry, Meta, Outcome, Reply, UfsEntry, UfsKind, Usage};
use forebay_types::{Attr, FileKind, Fingerprint, Ino, MountId, MountSpec, Name, SyncPolicy};
use std::{collections::BTreeMap, sync::Arc};

pub(crate) const CACHE: u64 = 1 << 20;

/// A state machine whose commands come a second apart.
pub(crate) struct World {
    pub(crate) kv: Arc<MemKv>,
    pub(crate) meta: Meta,
    pub(crate) index: u64,
}

pub(crate) fn second(index: u64) -> i64 {
    1_000_000_000 * index as i64
}

impl World {
    pub(crate) fn new() -> World {
        let kv = Arc::new(MemKv::new());
        let meta = Meta::open(kv.clone(), CACHE).unwrap();
        World { kv, meta, index: 0 }
    }

    /// With an under store at `/`.
    pub(crate) fn mounted() -> World {
        let mut world = World::new();
        world.mount("/", "mem://a");
        world
    }

    pub(crate) fn apply(&mut self, change: Change) -> Outcome {
        self.index += 1;
        let command = Command {
            now_ns: second(self.index),
            request: None,
            change,
        };
        apply_one(&self.meta, self.index, &command)
    }

    pub(crate) fn mount(&mut self, path: &str, uri: &str) -> MountId {
        match self.apply(mount_of(spec(path, uri))).reply {
            Reply::Mount(id) => id,
            other => panic!("mount {path}: {other:?}"),
        }
    }

    pub(crate) fn scratch() -> World {
        let mut world = World::mounted();
        world.mount("/s", MountSpec::SCRATCH);
        world
    }

    pub(crate) fn upsert(&mut self, dir: &str, entries: &[UfsEntry]) -> Outcome {
        let parent = self.ino(dir);
        self.apply(Change::UpsertEntries {
            parent,
            entries: entries.to_vec(),
        })
    }

    pub(crate) fn remove(&mut self, dir: &str, names: &[&str]) -> Outcome {
        let parent = self.ino(dir);
        let names = names.iter().map(|text| name(text)).collect();
        self.apply(Change::RemoveEntries { parent, names })
    }

    pub(crate) fn finish(&mut self, dir: &str) -> Outcome {
        let dir = self.ino(dir);
        let started_ns = second(self.index);
        self.apply(Change::FinishSync { dir, started_ns })
    }

    /// A whole listing of a directory for the first time.
    pub(crate) fn load(&mut self, dir: &str, entries: &[UfsEntry]) {
        self.upsert(dir, entries);
        self.finish(dir);
    }

    pub(crate) fn reap_all(&mut self) {
        while self.reap(1000) > 0 {}
    }

    pub(crate) fn reap(&mut self, limit: u32) -> u64 {
        match self
            .apply(Change::Reap {
                before_ns: i64::MAX,
                limit,
            })
            .reply
        {
            Reply::Reaped(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn find(&self, path: &str) -> Option<Attr> {
        let mut at = self.meta.attr(Ino::ROOT).unwrap()?;
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            at = self.meta.lookup(at.ino, &name(segment)).unwrap()?;
        }
        Some(at)
    }

    pub(crate) fn ino(&self, path: &str) -> Ino {
        self.find(path)
            .unwrap_or_else(|| panic!("{path} is not there"))
            .ino
    }

    /// Every path below a directory, directories with a slash.
    pub(crate) fn tree(&self, path: &str) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(self.ino(path), "", &mut paths);
        paths
    }

    fn collect(&self, dir: Ino, above: &str, paths: &mut Vec<String>) {
        for (name, attr) in self.meta.read_dir(dir, None, usize::MAX).unwrap() {
            if attr.kind == FileKind::Directory {
                paths.push(format!("{above}{name}/"));
                self.collect(attr.ino, &format!("{above}{name}/"), paths);
            } else {
                paths.push(format!("{above}{name}"));
            }
        }
    }

    /// The mount and key prefix of a directory.
    pub(crate) fn origin(&self, path: &str) -> (Option<MountId>, Bytes) {
        let state = self.meta.dir_state(self.ino(path)).unwrap().unwrap();
        (state.mount, state.prefix)
    }

    pub(crate) fn synced_ns(&self, path: &str) -> Option<i64> {
        self.meta
            .dir_state(self.ino(path))
            .unwrap()
            .unwrap()
            .synced_ns
    }
}

/// Applies one command as an entry of its own.
pub(crate) fn apply_one(meta: &Meta, index: u64, command: &Command) -> Outcome {
    let commands = vec![command.clone()];
    let entry = Entry { index, commands };
    let mut outcomes = meta.apply(&[entry]).unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0).remove(0)
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.to_owned()).unwrap()
}

pub(crate) fn spec(path: &str, uri: &str) -> MountSpec {
    MountSpec {
        path: path.to_owned(),
        uri: uri.to_owned(),
        options: [].into(),
        sync: SyncPolicy::Never,
        credentials: None,
    }
}

/// As the masters' configuration has it.
pub(crate) fn mount_of(spec: MountSpec) -> Change {
    Change::Mount {
        spec,
        configured: true,
    }
}

pub(crate) fn file(text: &str, content: &str) -> UfsEntry {
    let etag = format!("\"{content}\"");
    let fingerprint = Fingerprint {
        size: content.len() as u64,
        mtime_ns: 0,
        etag,
    };
    UfsEntry {
        name: name(text),
        kind: UfsKind::File {
            fingerprint,
            mtime_ns: 5,
        },
    }
}

pub(crate) fn dir(text: &str) -> UfsEntry {
    UfsEntry {
        name: name(text),
        kind: UfsKind::Directory { mtime_ns: 0 },
    }
}

pub(crate) fn entries(added: u64, changed: u64, removed: u64) -> Reply {
    Reply::Entries {
        added,
        changed,
        removed,
    }
}

/// Every row of a store.
pub(crate) fn rows(kv: &dyn Kv) -> Vec<(Vec<u8>, Vec<u8>)> {
    kv.scan(b""..&[0xff]).map(Result::unwrap).collect()
}

/// What the mounts have, as it was kept.
pub(crate) fn usages(meta: &Meta) -> BTreeMap<MountId, Usage> {
    let mounts = meta.mounts().into_iter();
    mounts
        .map(|(id, _)| (id, meta.usage(id).unwrap()))
        .collect()
}

/// Without the times of the latest listings, of which the tree keeps no trace.
pub(crate) fn without_times(mut usages: BTreeMap<MountId, Usage>) -> BTreeMap<MountId, Usage> {
    for usage in usages.values_mut() {
        usage.last_sync_ns = 0;
    }
    usages
}

/// What the mounts have in the tree, without times.
pub(crate) fn recount(meta: &Meta) -> BTreeMap<MountId, Usage> {
    let mounts = meta.mounts().into_iter();
    let mut usages = mounts.map(|(id, _)| (id, Usage::default())).collect();
    recount_below(meta, Ino::ROOT, &mut usages);
    usages
}

fn recount_below(meta: &Meta, dir: Ino, usages: &mut BTreeMap<MountId, Usage>) {
    let state = meta.dir_state(dir).unwrap().unwrap();
    let listing = meta.read_dir(dir, None, usize::MAX).unwrap();
    if let Some(mount) = state.mount {
        let usage = usages.get_mut(&mount).unwrap();
        let files = listing.iter().map(|(_, attr)| attr);
        for file in files.filter(|attr| attr.kind == FileKind::File) {
            usage.files += 1;
            usage.bytes += file.size;
        }
        let scratch = meta.mount(mount).unwrap().spec.is_scratch();
        usage.unlisted += u64::from(!scratch && state.synced_ns.is_none());
    }
    for (_, attr) in listing {
        if attr.kind == FileKind::Directory {
            recount_below(meta, attr.ino, usages);
        }
    }
}

/// What a version would have written that kept no figures of mounts.
pub(crate) fn without_usage(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    const COUNTERS: &[u8] = &[0x02];
    const USAGE: u8 = 0x1a;
    let mut rows = rows.to_vec();
    rows.retain(|(key, _)| key[0] != USAGE);
    for (_, value) in rows.iter_mut().filter(|(key, _)| key == COUNTERS) {
        assert_eq!(value.pop(), Some(1), "the mark behind the counters");
    }
    rows
}

/// A store with these rows.
pub(crate) fn store_of(rows: &[(Vec<u8>, Vec<u8>)]) -> Arc<MemKv> {
    let kv = MemKv::new();
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.put(key.as_slice(), value.as_slice());
    }
    kv.write(&batch, Durability::Volatile).unwrap();
    Arc::new(kv)
}
