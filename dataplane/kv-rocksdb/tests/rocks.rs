//! RocksDB against the suite, and what only a database on disk can show.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use forebay_kv::{Batch, Durability, Error, Kv, conformance};
use forebay_kv_rocksdb::{Options, RocksKv};
use std::{cell::Cell, path::Path, sync::Arc};

fn open(dir: &Path) -> Arc<dyn Kv> {
    RocksKv::open(
        dir,
        &Options {
            memory_bytes: 8 << 20,
        },
    )
    .unwrap()
}

fn one(key: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(key, b"value".to_vec());
    batch
}

#[test]
fn keeps_what_every_store_promises() {
    for durability in [Durability::Volatile, Durability::Logged, Durability::Synced] {
        let dir = tempfile::tempdir().unwrap();
        let stores = Cell::new(0);
        conformance::run(durability, &|| {
            stores.set(stores.get() + 1);
            open(&dir.path().join(stores.get().to_string()))
        });
        conformance::reopens(durability, &dir.path().join("again"), &open);
        let store = open(&dir.path().join("source"));
        conformance::checkpoints(durability, &*store, &dir.path().join("copy"), &open);
    }
}

#[test]
fn a_copy_of_the_files_of_a_running_database_has_the_synced_and_flushed_writes() {
    for durability in [Durability::Synced, Durability::Logged, Durability::Volatile] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("live"));
        store.write(&one(b"a"), durability).unwrap();
        if durability == Durability::Volatile {
            store.flush().unwrap();
        }
        store.write(&one(b"b"), durability).unwrap();
        // What a SIGKILL now would leave: the files as they are, never closed.
        let copy = dir.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(dir.path().join("live")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        let copy = open(&copy);
        assert!(copy.get(b"a").unwrap().is_some(), "{durability:?}");
        let second = copy.get(b"b").unwrap().is_some();
        assert_eq!(second, durability != Durability::Volatile, "{durability:?}");
    }
}

#[test]
fn a_checkpoint_takes_the_place_of_a_closed_database() {
    let dir = tempfile::tempdir().unwrap();
    let [source, checkpoint, target] =
        ["source", "checkpoint", "target"].map(|n| dir.path().join(n));
    let store = open(&source);
    store.write(&one(b"new"), Durability::Volatile).unwrap();
    store.checkpoint(&checkpoint).unwrap();
    // Once where there is a database, once where there is none.
    for _ in 0..2 {
        let old = open(&target);
        old.write(&one(b"old"), Durability::Volatile).unwrap();
        drop(old);
        forebay_kv_rocksdb::replace(&target, &checkpoint).unwrap();
        let new = open(&target);
        assert!(new.get(b"new").unwrap().is_some());
        assert!(new.get(b"old").unwrap().is_none());
        // The checkpoint stays as it was.
        new.write(&one(b"later"), Durability::Volatile).unwrap();
        drop(new);
        std::fs::remove_dir_all(&target).unwrap();
    }
    forebay_kv_rocksdb::replace(&target, &checkpoint).unwrap();
    let new = open(&target);
    assert!(new.get(b"later").unwrap().is_none());
    drop(new);

    // Interrupted half way: the old one is there, and what was made of the new one goes.
    let left = dir.path().join("target.other");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("CURRENT"), "half").unwrap();
    assert!(open(&target).get(b"new").unwrap().is_some());
    assert!(!left.exists());
}

#[test]
fn volatile_and_logged_writes_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(&one(b"a"), Durability::Logged).unwrap();
    store.write(&one(b"b"), Durability::Synced).unwrap();
    assert!(matches!(
        store.write(&one(b"c"), Durability::Volatile),
        Err(Error::Failed(_))
    ));
    assert!(store.get(b"c").unwrap().is_none());
}

#[test]
fn damage_is_told_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(
        RocksKv::open(dir.path(), &Options::default()),
        Err(Error::Failed(_))
    ));
    for n in 0..5000_u32 {
        store
            .write(&one(&n.to_be_bytes()), Durability::Volatile)
            .unwrap();
    }
    drop(store);
    let table = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[100] ^= 0xff;
    std::fs::write(&table, bytes).unwrap();
    let store = open(dir.path());
    assert!(matches!(
        store.get(&0_u32.to_be_bytes()),
        Err(Error::Corrupt(_))
    ));
    let mut scan = store.scan(b""..&[0xff; 5]);
    assert!(matches!(scan.next(), Some(Err(Error::Corrupt(_)))));
    assert!(scan.next().is_none());
}

/// The files of a database with 200 synced writes, as a crash would leave them, its log changed.
fn crashed(change: impl Fn(&mut Vec<u8>)) -> tempfile::TempDir {
    let running = tempfile::tempdir().unwrap();
    let store = open(running.path());
    for n in 0..200_u32 {
        store
            .write(&one(&n.to_be_bytes()), Durability::Synced)
            .unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(running.path())
        .unwrap()
        .map(Result::unwrap)
    {
        let mut bytes = std::fs::read(file.path()).unwrap();
        if file.path().extension().is_some_and(|e| e == "log") {
            assert!(bytes.len() > 200 * 8);
            change(&mut bytes);
        }
        std::fs::write(copy.path().join(file.file_name()), bytes).unwrap();
    }
    copy
}

#[test]
fn a_record_cut_short_at_the_end_of_the_log_is_dropped() {
    let dir = crashed(|log| log.truncate(log.len() - 7));
    let store = open(dir.path());
    assert!(store.get(&198_u32.to_be_bytes()).unwrap().is_some());
    assert!(store.get(&199_u32.to_be_bytes()).unwrap().is_none());
}

#[test]
fn damage_within_the_log_is_not_taken_for_its_end() {
    let dir = crashed(|log| {
        let middle = log.len() / 2;
        log[middle] ^= 0xff;
    });
    let Err(Error::Corrupt(cause)) = RocksKv::open(dir.path(), &Options::default()) else {
        panic!("opened");
    };
    let cause = cause.to_string();
    let mut files = std::fs::read_dir(dir.path()).unwrap();
    let log = files.find_map(|file| {
        let path = file.unwrap().path();
        path.extension().is_some_and(|e| e == "log").then_some(path)
    });
    let named = log.unwrap().display().to_string();
    assert!(cause.contains(&named), "{cause}");
    assert!(cause.contains("put back a copy"), "{cause}");
}

/// A record that is there in full was synced: it must not be cut off because its bytes changed.
#[test]
fn damage_in_the_last_record_of_the_log_is_not_taken_for_its_end() {
    let dir = crashed(|log| {
        let last = log.len() - 3;
        log[last] ^= 0xff;
    });
    assert!(matches!(
        RocksKv::open(dir.path(), &Options::default()),
        Err(Error::Corrupt(_))
    ));
}

#[test]
fn many_range_deletions_do_not_slow_reads_down() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let read = |label: &str| {
        let began = std::time::Instant::now();
        for n in 0..2000_u32 {
            store.get(&n.to_be_bytes()).unwrap();
        }
        println!("{label}: {:?}", began.elapsed());
        began.elapsed()
    };
    for n in 0..2000_u32 {
        store
            .write(&one(&n.to_be_bytes()), Durability::Volatile)
            .unwrap();
    }
    let before = read("before");
    for n in 10_000..12_000_u32 {
        let mut batch = Batch::default();
        batch.delete_range(n.to_be_bytes().to_vec()..(n + 1).to_be_bytes().to_vec());
        store.write(&batch, Durability::Volatile).unwrap();
        store.get(&n.to_be_bytes()).unwrap();
    }
    let after = read("after");
    // Generous: without the bound of the memtable the factor is in the hundreds.
    assert!(
        after < before * 20 + std::time::Duration::from_millis(50),
        "{before:?} {after:?}"
    );
}
