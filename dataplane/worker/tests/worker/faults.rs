//! Trouble with the cache or the store: served from elsewhere, byte for byte.

use crate::support::{MIB, Rig, content, pread, put};
use bytes::Bytes;
use forebay_client::{Ensured, LocalFile, LocalWorker};
use forebay_types::{Code, FileRef};
use forebay_ufs::memory::{MemStore, Operation};
use proptest::prelude::*;
use std::{ops::Range, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

/// The sparse files of a rig's tier.
fn cache_files(rig: &Rig) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![rig.dir.path().join("tier")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false if entry.metadata().unwrap().len() >= MIB => files.push(entry.path()),
                false => {}
            }
        }
    }
    files
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_served_without_the_cache_and_counted() {
    let store = MemStore::new();
    let data = content(1, 16 * MIB);
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 2 * MIB);
    let whole = match rig.local.open(&file).await {
        Ok(open) => {
            let mut whole = Vec::new();
            for at in (0..16 * MIB).step_by(MIB as usize) {
                whole.extend_from_slice(&rig.read(&file, &open, at..at + MIB).await);
            }
            Bytes::from(whole)
        }
        Err(error) => {
            assert_eq!(error.code, Code::NoSpace);
            rig.local.read(&file, 0..16 * MIB).await.unwrap()
        }
    };
    assert!(whole == data);
    assert!(rig.metrics.uncached_reads.get() > 0);
}

#[tokio::test]
async fn a_tier_that_vanishes_costs_time_and_no_error() {
    let store = MemStore::new();
    let data = content(2, 8 * MIB);
    let (first, second) = (
        put(&store, "a", data.clone()).await,
        put(&store, "b", data.clone()).await,
    );
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let open = rig.local.open(&first).await.unwrap();
    assert_eq!(rig.read(&first, &open, 0..1000).await, data.slice(..1000));
    std::fs::remove_dir_all(rig.dir.path().join("tier")).unwrap();
    rig.store.maintain();
    for file in [&first, &second] {
        for at in (0..8 * MIB).step_by(MIB as usize) {
            let got = match rig.local.open(file).await {
                Ok(open) => rig.read(file, &open, at..at + MIB).await,
                Err(error) => {
                    assert!(
                        matches!(error.code, Code::NoSpace | Code::Unavailable),
                        "{error}"
                    );
                    rig.local.read(file, at..at + MIB).await.unwrap()
                }
            };
            assert!(got == data.slice(at as usize..(at + MIB) as usize));
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_once_and_not_for_ever() {
    let store = MemStore::new();
    let data = content(3, 2 * MIB);
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    store.fail(Operation::Read, Code::Unavailable, 1);
    let error = rig.local.ensure(open.lease, 0..MIB).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    store.cut_body(MIB + 5);
    // The first page came in before the body was cut off.
    assert_eq!(
        rig.local.ensure(open.lease, 0..MIB).await.unwrap(),
        Ensured::Present
    );
    assert_eq!(rig.read(&file, &open, 0..2 * MIB).await, data);
    assert!(rig.stale.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_keeps_whole_files_and_finds_damaged_pages() {
    let store = MemStore::new();
    let data = content(4, 5 * MIB);
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    assert_eq!(rig.read(&file, &open, 0..5 * MIB).await, data);
    drop(open);
    let requests = store.reads().len();
    let rig = rig.restarted(Arc::new(store.clone()), 100 * MIB).await;
    assert!(rig.local.open(&file).await.unwrap().whole);
    assert_eq!(store.reads().len(), requests);

    let damaged = &cache_files(&rig)[0];
    let rig = rig.restarted(Arc::new(store.clone()), 100 * MIB).await;
    let sparse = std::fs::OpenOptions::new()
        .write(true)
        .open(damaged)
        .unwrap();
    sparse
        .write_all_at(b"not what it was", 2 * MIB + 17)
        .unwrap();
    let open = rig.local.open(&file).await.unwrap();
    assert!(!open.whole);
    assert_eq!(rig.read(&file, &open, 0..5 * MIB).await, data);
    let last = store.reads().pop().unwrap();
    assert_eq!(last.1, 2 * MIB..3 * MIB);
}

#[tokio::test]
async fn a_reference_to_an_unknown_mount_is_an_error_that_says_so() {
    let store = MemStore::new();
    let file = put(&store, "a", content(5, MIB)).await;
    let file = FileRef {
        mount: forebay_types::MountId(99),
        ..file
    };
    let rig = Rig::new(Arc::new(store), 100 * MIB);
    let error = rig.local.read(&file, 0..10).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains("mount 99"), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Read { at: u64, len: u64 },
    Reopen,
    Restart,
    Fail,
}

fn step(size: u64) -> impl Strategy<Value = Step> {
    let read = |len: u64| (0..size, 1..len).prop_map(|(at, len)| Step::Read { at, len });
    prop_oneof![
        8 => read(10_000),
        4 => read(3 * MIB),
        1 => Just(Step::Reopen),
        1 => Just(Step::Restart),
        1 => Just(Step::Fail),
    ]
}

const SIZE: u64 = 12 * MIB + 12_345;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mix_of_reads_sees_the_bytes_of_the_store(
        quota in prop_oneof![Just(4 * MIB), Just(9 * MIB), Just(64 * MIB)],
        steps in proptest::collection::vec(step(SIZE), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(mixed(quota, steps));
    }
}

/// Reads as often as it takes: each injected fault may fail one read, and no more.
async fn patiently(
    rig: &Rig,
    file: &FileRef,
    open: Option<&LocalFile>,
    range: Range<u64>,
    faults: usize,
) -> Bytes {
    let mut failed = 0;
    loop {
        let ensured = match open {
            Some(open) => rig.local.ensure(open.lease, range.clone()).await,
            None => Ok(Ensured::NotCached),
        };
        let read = match (ensured, open) {
            (Ok(Ensured::Present), Some(open)) => return pread(open, range),
            (Ok(_), _) => rig.local.read(file, range.clone()).await,
            (Err(error), _) => Err(error),
        };
        match read {
            Ok(bytes) => return bytes,
            Err(error) => assert_eq!(error.code, Code::Unavailable, "{error}"),
        }
        failed += 1;
        assert!(failed <= faults, "{failed} reads failed by {faults} faults");
    }
}

async fn mixed(quota: u64, steps: Vec<Step>) {
    let store = MemStore::new();
    let data = content(9, SIZE);
    let file = put(&store, "a", data.clone()).await;
    let mut rig = Rig::new(Arc::new(store.clone()), quota);
    let mut open = rig.local.open(&file).await.ok();
    let mut faults = 0;
    for step in steps {
        match step {
            Step::Read { at, len } => {
                let range = at..(at + len).min(SIZE);
                let expected = data.slice(range.start as usize..range.end as usize);
                let got = patiently(&rig, &file, open.as_ref(), range, faults).await;
                assert!(got == expected, "wrong bytes at {at}");
            }
            Step::Reopen => {
                if let Some(open) = &open {
                    rig.local.release(open.lease);
                }
                rig.store.maintain();
                open = rig.local.open(&file).await.ok();
            }
            Step::Restart => {
                drop(open.take());
                rig = rig.restarted(Arc::new(store.clone()), quota).await;
                open = rig.local.open(&file).await.ok();
            }
            Step::Fail => {
                store.fail(Operation::Read, Code::Unavailable, 1);
                faults += 1;
            }
        }
    }
}
