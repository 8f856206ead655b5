//! The end of what is out of the tree.

use crate::support::*;
use forebay_kv::{Batch, Durability, Kv, MemKv, Read, Result, Scan};
use forebay_meta::{Change, Command, Meta, Reply, UfsEntry};
use forebay_types::Ino;
use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts what a command reads and writes.
#[derive(Default)]
struct Counting {
    kv: MemKv,
    read: AtomicUsize,
    written: AtomicUsize,
}

impl Read for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.kv.get(key)
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        Box::new(self.kv.scan(range).inspect(|_| {
            self.read.fetch_add(1, Ordering::Relaxed);
        }))
    }
}

impl Kv for Counting {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        self.written.fetch_add(batch.ops.len(), Ordering::Relaxed);
        self.kv.write(batch, durability)
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        self.kv.snapshot()
    }

    fn flush(&self) -> Result<()> {
        self.kv.flush()
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        self.kv.checkpoint(dir)
    }
}

#[test]
fn removing_a_large_directory_is_constant_work_and_reaping_is_bounded() {
    const ENTRIES: u64 = 20_000;
    let kv = Arc::new(Counting::default());
    let meta = Meta::open(kv.clone(), CACHE).unwrap();
    let mut index = 0;
    let mut apply = |change| {
        index += 1;
        let command = Command {
            now_ns: second(index),
            request: None,
            change,
        };
        let before = (
            kv.read.load(Ordering::Relaxed),
            kv.written.load(Ordering::Relaxed),
        );
        let outcome = apply_one(&meta, index, &command);
        let reads = kv.read.load(Ordering::Relaxed) - before.0;
        let writes = kv.written.load(Ordering::Relaxed) - before.1;
        (outcome, reads, writes)
    };
    apply(mount_of(spec("/", "mem://a")));
    apply(Change::UpsertEntries {
        parent: Ino::ROOT,
        entries: vec![dir("d")],
    });
    let d = meta.lookup(Ino::ROOT, &name("d")).unwrap().unwrap().ino;
    for part in 0..ENTRIES / 4000 {
        let entries: Vec<UfsEntry> = (0..4000)
            .map(|n| file(&format!("{:06}", part * 4000 + n), "x"))
            .collect();
        let (outcome, reads, writes) = apply(Change::UpsertEntries { parent: d, entries });
        assert_eq!(outcome.reply, entries_reply(4000));
        assert!(
            reads < 50,
            "{reads} reads: loading needs no lookup per name"
        );
        assert_eq!(writes, 8002, "two rows an entry, counters and usage");
    }
    let names = vec![name("d")];
    let (_, reads, writes) = apply(Change::RemoveEntries {
        parent: Ino::ROOT,
        names,
    });
    assert!(reads < 20 && writes < 10, "{reads} reads, {writes} writes");
    assert_eq!(
        meta.inode_count().unwrap(),
        ENTRIES + 3,
        "root, old root, d"
    );

    let mut rows = 0;
    loop {
        let (outcome, reads, writes) = apply(Change::Reap {
            before_ns: i64::MAX,
            limit: 1000,
        });
        assert!(
            reads <= 2100 && writes <= 2100,
            "{reads} reads, {writes} writes"
        );
        match outcome.reply {
            Reply::Reaped(0) => break,
            Reply::Reaped(some) => rows += some,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rows, ENTRIES + 2);
    assert_eq!(meta.inode_count().unwrap(), 1);
    let (_, reads, _) = apply(Change::Reap {
        before_ns: i64::MAX,
        limit: 1000,
    });
    assert_eq!(reads, 0);
}

fn entries_reply(added: u64) -> Reply {
    entries(added, 0, 0)
}

#[test]
fn only_orphans_of_before_the_time_are_reaped_oldest_first() {
    let mut world = World::mounted();
    world.reap_all();
    world.load("/", &[file("a", "1"), file("b", "1"), file("c", "1")]);
    let inos = ["/a", "/b", "/c"].map(|path| world.ino(path));
    let mut times = Vec::new();
    for path in ["a", "b", "c"] {
        world.remove("/", &[path]);
        times.push(second(world.index));
    }
    let there = |world: &World| inos.map(|ino| world.meta.attr(ino).unwrap().is_some());
    let reap =
        |world: &mut World, before_ns, limit| world.apply(Change::Reap { before_ns, limit }).reply;
    assert_eq!(reap(&mut world, times[0], 10), Reply::Reaped(0));
    assert_eq!(reap(&mut world, times[2], 0), Reply::Reaped(0));
    assert_eq!(there(&world), [true; 3]);
    assert_eq!(reap(&mut world, times[2], 1), Reply::Reaped(1));
    assert_eq!(there(&world), [false, true, true]);
    assert_eq!(reap(&mut world, times[2], 10), Reply::Reaped(1));
    assert_eq!(there(&world), [false, false, true]);
    assert_eq!(reap(&mut world, i64::MAX, 10), Reply::Reaped(1));
    assert_eq!(reap(&mut world, i64::MAX, 10), Reply::Reaped(0));
}

#[test]
fn deep_trees_are_reaped_in_steps_of_any_size() {
    for limit in [1, 2, 3, 7, 1000] {
        let mut world = World::mounted();
        world.reap_all();
        let mut path = String::from("/");
        for depth in 0..6 {
            let names = ["a", "b", "c", "f"].map(|n| format!("{n}{depth}"));
            world.load(
                &path,
                &[
                    dir(&names[0]),
                    dir(&names[1]),
                    dir(&names[2]),
                    file(&names[3], "x"),
                ],
            );
            path = format!("{path}{}/", names[1]);
        }
        assert_eq!(world.meta.inode_count().unwrap(), 25);
        world.upsert("/", &[file("f0", "y")]);
        world.remove("/", &["a0", "b0", "c0"]);
        while world.reap(limit) > 0 {}
        assert_eq!(world.tree("/"), ["f0"], "by {limit}");
        assert_eq!(world.meta.inode_count().unwrap(), 2, "by {limit}");
        assert_eq!(
            rows(&*world.kv).len(),
            7,
            "format, counters, mount, its usage, root, file and its edge"
        );
    }
}
