//! Each page is fetched once, and readers go on as soon as they can.

use crate::{
    support::{MIB, Rig, content, put, until},
    tap::Tap,
};
use forebay_client::{Ensured, LocalWorker};
use forebay_types::Code;
use forebay_ufs::memory::{MemStore, Operation};
use forebay_worker::prefetch::MAX_PIECE;
use futures::{FutureExt, future::join_all};
use std::{collections::HashMap, pin::pin, sync::Arc};

/// How often each page of the only object was asked for.
fn asked(store: &MemStore) -> HashMap<u64, usize> {
    let mut pages = HashMap::new();
    for (_, range) in store.reads() {
        assert!(
            range.end - range.start <= MAX_PIECE,
            "{range:?} is too large a request"
        );
        for page in range.start / MIB..range.end.div_ceil(MIB) {
            *pages.entry(page).or_default() += 1;
        }
    }
    pages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_fetched_once_however_many_readers_want_it() {
    let store = MemStore::new();
    let data = content(1, 20 * MIB + 123);
    let file = put(&store, "a", data.clone()).await;
    let rig = Arc::new(Rig::new(Arc::new(store.clone()), 100 * MIB));
    store.stall(Operation::Read);
    let readers = (0..40u64).map(|n| {
        let (rig, file, data) = (rig.clone(), file.clone(), data.clone());
        tokio::spawn(async move {
            let open = rig.local.open(&file).await.unwrap();
            let size = file.size();
            for step in 0..40 {
                let start = (n * 7_919 + step * 524_287 * (n % 5 + 1)) % size;
                let range = start..(start + 300_000).min(size);
                let got = rig.read(&file, &open, range.clone()).await;
                assert_eq!(got, data.slice(range.start as usize..range.end as usize));
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    until("someone asks", || !store.reads().is_empty()).await;
    store.resume();
    for reader in readers {
        reader.await.unwrap();
    }
    let asked = asked(&store);
    assert!(asked.values().all(|times| *times == 1), "{asked:?}");
    assert_eq!(
        rig.metrics.bytes_from_ufs.get(),
        asked
            .keys()
            .map(|p| (data.len() as u64 - p * MIB).min(MIB))
            .sum::<u64>()
    );
}

#[tokio::test]
async fn bytes_reach_the_reader_before_the_page_is_complete() {
    let tap = Tap::closed(MemStore::new());
    let data = content(2, 3 * MIB);
    let file = put(&tap.store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(tap.clone()), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    assert!(!open.whole);
    let mut page = pin!(rig.local.ensure(open.lease, 0..MIB));
    assert!(page.as_mut().now_or_never().is_none());
    tap.open_to(70_000);
    let head = rig.read(&file, &open, 0..64_000).await;
    assert_eq!(head, data.slice(..64_000));
    assert!(page.as_mut().now_or_never().is_none());
    assert_eq!(rig.store.get(file.id).unwrap().cached_bytes(), 0);
    tap.open_to(u64::MAX);
    assert_eq!(page.await.unwrap(), Ensured::Present);
    assert_eq!(rig.read(&file, &open, 0..3 * MIB).await, data);
    // A small file that is read from its beginning is one request.
    assert_eq!(tap.store.reads().len(), 1);
}

#[tokio::test]
async fn a_reader_who_goes_away_leaves_the_fill_to_the_others() {
    let tap = Tap::closed(MemStore::new());
    let file = put(&tap.store, "a", content(3, MIB)).await;
    let rig = Rig::new(Arc::new(tap.clone()), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    assert!(
        rig.local
            .ensure(open.lease, 0..MIB)
            .now_or_never()
            .is_none()
    );
    rig.local.release(open.lease);
    tap.open_to(u64::MAX);
    let cached = || rig.store.get(file.id).is_some_and(|f| f.is_whole());
    until("the file is whole", cached).await;
    let again = rig.local.open(&file).await.unwrap();
    assert!(again.whole);
    assert_eq!(tap.store.reads().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_reader_finds_the_bytes_there_and_requests_are_large() {
    let store = MemStore::new();
    let size = 200 * MIB;
    let data = content(4, size);
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 400 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    for at in (0..size).step_by(MIB as usize) {
        let got = rig.read(&file, &open, at..at + MIB).await;
        assert_eq!(got, data.slice(at as usize..(at + MIB) as usize), "at {at}");
    }
    assert!(asked(&store).values().all(|times| *times == 1));
    // A handful of small ones to begin with, then 8 MiB each.
    assert!(
        store.reads().len() <= 45,
        "{} requests",
        store.reads().len()
    );
    assert!(rig.local.open(&file).await.unwrap().whole);
}

#[tokio::test]
async fn a_random_read_of_a_large_file_fetches_its_own_page_only() {
    let store = MemStore::new();
    let data = content(5, 64 * MIB);
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    for at in [40 * MIB + 4096, 3 * MIB, 20 * MIB + 999] {
        let got = rig.read(&file, &open, at..at + 4096).await;
        assert_eq!(got, data.slice(at as usize..at as usize + 4096));
    }
    let ranges: Vec<_> = store.reads().into_iter().map(|(_, range)| range).collect();
    assert_eq!(
        ranges,
        [40 * MIB..41 * MIB, 3 * MIB..4 * MIB, 20 * MIB..21 * MIB]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_content_midway_is_stale_for_all_who_wait_and_the_master_knows_first() {
    let store = MemStore::new();
    let file = put(&store, "a", content(6, 4 * MIB)).await;
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    store.stall(Operation::Read);
    store.change_during_body(2 * MIB + 100_000, content(7, 4 * MIB));
    let wait = |range: std::ops::Range<u64>| {
        let (local, stale) = (rig.local.clone(), rig.stale.clone());
        tokio::spawn(async move {
            let ensured = local.ensure(open.lease, range).await;
            if let Err(error) = &ensured {
                assert_eq!(error.code, Code::Stale);
                assert_eq!(stale.lock().unwrap().len(), 1, "the master was not told");
            }
            ensured.is_ok()
        })
    };
    // The first one asks for the whole file; the others wait for its bytes.
    let mut waits = vec![wait(0..MIB)];
    until("the request is out", || !store.reads().is_empty()).await;
    waits.extend([MIB..2 * MIB, 2 * MIB..3 * MIB, 3 * MIB..4 * MIB].map(wait));
    store.resume();
    let done: Vec<bool> = join_all(waits)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(!done[2] && !done[3], "{done:?}");
    // What is cached stays readable, and is the old content.
    if rig.local.ensure(open.lease, 0..MIB).await.is_ok() {
        assert_eq!(
            crate::support::pread(&open, 0..MIB),
            content(6, 4 * MIB).slice(..MIB as usize)
        );
    }
    assert_eq!(*rig.stale.lock().unwrap(), [file.id]);
    assert_eq!(rig.metrics.stale_fills.get(), 1);
}
