//! Measures the metadata state machine over RocksDB: one flat directory of a million files.
//!
//!     cargo run --release -p forebay-kv-rocksdb --example metadata -- DIR [ENTRIES]
#![expect(clippy::unwrap_used, reason = "a measurement may panic")]

use forebay_kv_rocksdb::{Options, RocksKv};
use forebay_meta::{Change, Command, Entry, Meta, UfsEntry, UfsKind};
use forebay_types::{Fingerprint, Ino, MountSpec, Name, SyncPolicy};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

const BATCH: u64 = 4000;
const PROBES: u64 = 200_000;
const MEMORY: u64 = 128 << 20;
const CACHE: u64 = 64 << 20;

fn open(dir: &Path) -> Arc<Meta> {
    let kv = RocksKv::open(
        dir,
        &Options {
            memory_bytes: MEMORY,
        },
    )
    .unwrap();
    Arc::new(Meta::open(kv, CACHE).unwrap())
}

fn apply(meta: &Meta, index: u64, command: &Command) {
    let commands = vec![command.clone()];
    meta.apply(&[Entry { index, commands }]).unwrap();
}

fn name(number: u64) -> Name {
    Name::new(format!("train-{number:07}.parquet")).unwrap()
}

/// Spreads over 64 bits (Steele, Lea, Flood 2014): etags do not compress.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn entry(number: u64) -> UfsEntry {
    let etag = format!("\"{:016x}{:016x}\"", mixed(number), mixed(!number));
    let size = 50_000 + mixed(number) % 100_000;
    let mtime_ns = 1_000_000_000 * (1_700_000_000 + (mixed(number) % 1_000_000) as i64);
    let fingerprint = Fingerprint {
        size,
        mtime_ns: 0,
        etag,
    };
    UfsEntry {
        name: name(number),
        kind: UfsKind::File {
            fingerprint,
            mtime_ns,
        },
    }
}

fn measured(what: &str, count: u64, act: impl FnOnce()) {
    let began = Instant::now();
    act();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{what:48} {:>10.0}/s  {seconds:.2} s",
        count as f64 / seconds
    );
}

fn disk_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = PathBuf::from(arguments.next().expect("usage: metadata DIR [ENTRIES]"));
    let entries: u64 = arguments
        .next()
        .map_or(1_000_000, |text| text.parse().unwrap());
    let dir = parent.join("metadata-measurement");
    let mut index = 0;
    let mut command = |change| {
        index += 1;
        (
            index,
            Command {
                now_ns: index as i64,
                request: None,
                change,
            },
        )
    };
    let meta = open(&dir);
    let spec = MountSpec {
        path: "/".to_owned(),
        uri: "mem://a".to_owned(),
        options: [].into(),
        sync: SyncPolicy::Never,
    };
    let (at, mount) = command(Change::Mount {
        spec,
        configured: true,
    });
    apply(&meta, at, &mount);
    let batches: Vec<_> = (0..entries / BATCH)
        .map(|part| {
            let entries = (part * BATCH..(part + 1) * BATCH).map(entry).collect();
            command(Change::UpsertEntries {
                parent: Ino::ROOT,
                entries,
            })
        })
        .collect();
    measured("apply UpsertEntries of 4,000 new, entries", entries, || {
        for (at, batch) in &batches {
            apply(&meta, *at, batch);
        }
    });
    measured("flush, bytes written", disk_bytes(&dir), || {
        meta.flush().unwrap();
    });
    let again: Vec<_> = batches
        .into_iter()
        .map(|(_, batch)| command(batch.change))
        .collect();
    measured(
        "apply UpsertEntries of 4,000 unchanged, entries",
        entries,
        || {
            for (at, batch) in &again {
                apply(&meta, *at, batch);
            }
        },
    );
    drop(again);
    reads(&meta, entries, "as loaded");
    drop(meta);
    let meta = open(&dir);
    reads(&meta, entries, "reopened");
    println!(
        "{:48} {:>10.1} bytes",
        "on disk per entry",
        disk_bytes(&dir) as f64 / entries as f64
    );
    let names: Vec<_> = (0..entries).map(name).collect();
    measured("apply RemoveEntries of 4,000, entries", entries / 2, || {
        for part in names[..entries as usize / 2].chunks(BATCH as usize) {
            let names = part.to_vec();
            let (at, remove) = command(Change::RemoveEntries {
                parent: Ino::ROOT,
                names,
            });
            apply(&meta, at, &remove);
        }
    });
    measured("apply Reap of 4,000, inodes", entries / 2, || {
        for _ in 0..=entries / 2 / BATCH {
            let (at, reap) = command(Change::Reap {
                before_ns: i64::MAX,
                limit: BATCH as u32,
            });
            apply(&meta, at, &reap);
        }
    });
    reads(&meta, entries, "half removed");
    drop(meta);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn reads(meta: &Meta, entries: u64, when: &str) {
    let list = |batch: usize| {
        let mut after: Option<Name> = None;
        let mut inos = Vec::new();
        loop {
            let part = meta.read_dir(Ino::ROOT, after.as_ref(), batch).unwrap();
            let Some((last, _)) = part.last() else {
                return inos;
            };
            after = Some(last.clone());
            inos.extend(part.iter().map(|(_, attr)| attr.ino));
        }
    };
    for batch in [1000, 4096] {
        measured(
            &format!("read_dir in batches of {batch}, {when}, entries"),
            entries,
            || {
                list(batch);
            },
        );
    }
    let inos = list(4096);
    let inos = &inos;
    for threads in [1, 2] {
        let spread = |act: &(dyn Fn(u64) + Sync)| {
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    scope.spawn(move || {
                        (0..PROBES / threads).for_each(|n| act(n * threads + thread));
                    });
                }
            });
        };
        measured(
            &format!("lookup, random, {threads} threads, {when}"),
            PROBES,
            || {
                spread(&|n| {
                    meta.lookup(Ino::ROOT, &name(mixed(n) % entries)).unwrap();
                });
            },
        );
        measured(
            &format!("lookup of absent names, {threads} threads, {when}"),
            PROBES,
            || {
                spread(&|n| {
                    let absent = Name::new(format!("train-{:07}.x", mixed(n) % entries)).unwrap();
                    assert!(meta.lookup(Ino::ROOT, &absent).unwrap().is_none());
                });
            },
        );
        measured(
            &format!("attr, random, {threads} threads, {when}"),
            PROBES,
            || {
                spread(&|n| {
                    meta.attr(inos[mixed(n) as usize % inos.len()]).unwrap();
                });
            },
        );
        measured(
            &format!("attr of 10,000, {threads} threads, {when}"),
            PROBES,
            || {
                spread(&|n| {
                    meta.attr(inos[mixed(n) as usize % 10_000]).unwrap();
                });
            },
        );
        measured(
            &format!("file_ref of 10,000, {threads} threads, {when}"),
            PROBES,
            || {
                spread(&|n| {
                    meta.file_ref(inos[mixed(n) as usize % 10_000]).unwrap();
                });
            },
        );
    }
}
