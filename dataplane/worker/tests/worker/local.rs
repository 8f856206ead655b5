//! Leases and opens in the same process.

use crate::support::{MIB, Rig, content, put};
use forebay_client::{Ensured, LeaseId, LocalWorker};
use forebay_types::Code;
use forebay_ufs::memory::MemStore;
use futures::FutureExt;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_file_opens_at_the_first_poll_also_outside_the_runtime() {
    let store = MemStore::new();
    let file = put(&store, "a", content(1, 3 * MIB)).await;
    let empty = put(&store, "b", content(1, 0)).await;
    let rig = Rig::new(Arc::new(store), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    rig.read(&file, &open, 0..3 * MIB).await;
    let local = rig.local.clone();
    let outside = std::thread::spawn(move || {
        for file in [file, empty] {
            let open = local
                .open(&file)
                .now_or_never()
                .expect("ready at once")
                .unwrap();
            assert!(open.whole);
            let ensured = local
                .ensure(open.lease, 0..MIB)
                .now_or_never()
                .expect("ready at once");
            assert_eq!(ensured.unwrap(), Ensured::Present);
        }
    });
    outside.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_poll_outside_the_runtime_may_start_a_fill() {
    let store = MemStore::new();
    let file = put(&store, "a", content(1, MIB)).await;
    let rig = Rig::new(Arc::new(store), 100 * MIB);
    let open = rig.local.open(&file).await.unwrap();
    let (local, uncached) = (rig.local.clone(), rig.local.clone());
    let mut read = Box::pin(async move { uncached.read(&file, 5..105).await });
    let outside = std::thread::spawn(move || (read.as_mut().now_or_never(), read));
    let (first, rest) = outside.join().unwrap();
    let bytes = match first {
        Some(bytes) => bytes,
        None => rest.await,
    };
    assert_eq!(bytes.unwrap(), content(1, MIB).slice(5..105));
    let pending = std::thread::spawn(move || {
        let mut ensure = Box::pin(async move { local.ensure(open.lease, 0..MIB).await });
        let first = ensure.as_mut().now_or_never();
        (first, ensure)
    });
    let (first, rest) = pending.join().unwrap();
    let ensured = match first {
        Some(ensured) => ensured,
        None => rest.await,
    };
    assert_eq!(ensured.unwrap(), Ensured::Present);
}

#[tokio::test]
async fn leases_belong_to_their_holder_and_numbers_are_not_used_again() {
    let store = MemStore::new();
    let file = put(&store, "a", content(1, MIB)).await;
    let rig = Rig::new(Arc::new(store), 100 * MIB);
    let other = forebay_worker::local::Local::new(rig.engine.clone());
    let open = rig.local.open(&file).await.unwrap();
    for (holder, lease) in [(&other, open.lease), (&*rig.local, LeaseId(12_345))] {
        let error = holder.ensure(lease, 0..1).await.unwrap_err();
        assert_eq!(error.code, Code::NotFound);
    }
    other.release(open.lease);
    assert_eq!(rig.engine.leases(), 1);
    rig.local.release(open.lease);
    rig.local.release(open.lease);
    assert_eq!(rig.engine.leases(), 0);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let open = rig.local.open(&file).await.unwrap();
        assert!(seen.insert(open.lease), "{:?} again", open.lease);
        rig.local.release(open.lease);
    }
    let _left = other.open(&file).await.unwrap();
    drop(other);
    assert_eq!(rig.engine.leases(), 0);
}

#[tokio::test]
async fn leases_that_stand_in_the_way_are_recalled() {
    let store = MemStore::new();
    let file = put(&store, "a", content(1, MIB)).await;
    let rig = Rig::new(Arc::new(store), 100 * MIB);
    let mut recalls = rig.local.take_recalls().unwrap();
    assert!(rig.local.take_recalls().is_none());
    let open = rig.local.open(&file).await.unwrap();
    rig.engine.recall(&[file.id]);
    assert_eq!(recalls.recv().await, Some(open.lease));
}
