//! The Unix socket, with the client that FUSE hosts use.

use crate::support::{MIB, Rig, content, pread, put, until};
use forebay_client::{Ensured, LocalWorker, ReadAhead, RemoteReader, SocketWorker};
use forebay_types::{Address, Code};
use forebay_ufs::memory::{MemStore, Operation};
use std::{os::unix::fs::PermissionsExt, sync::Arc};
use tokio_util::sync::CancellationToken;

async fn connect(path: &std::path::Path) -> (Arc<SocketWorker>, CancellationToken) {
    let nobody: Address = "127.0.0.1:1".parse().unwrap();
    let remote = Arc::new(RemoteReader::new(&nobody, &ReadAhead::new(1 << 20)));
    let token = CancellationToken::new();
    (
        SocketWorker::connect(path, remote, token.clone())
            .await
            .unwrap(),
        token,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_in_another_process_gets_descriptors_and_its_death_frees_its_leases() {
    let store = MemStore::new();
    let data = content(1, 3 * MIB);
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let path = rig.dir.path().join("run/worker.sock");
    forebay_worker::socket::serve(&path, rig.engine.clone(), &rig.shutdown).unwrap();
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    let (client, token) = connect(&path).await;
    let open = client.open(&file).await.unwrap();
    assert!(!open.whole);
    assert_eq!(
        client.ensure(open.lease, 0..3 * MIB).await.unwrap(),
        Ensured::Present
    );
    assert_eq!(pread(&open, 0..3 * MIB), data);
    let again = client.open(&file).await.unwrap();
    assert!(again.whole);
    client.release(again.lease);
    until("one lease is left", || rig.engine.leases() == 1).await;

    // Errors keep their code.
    let other = put(&store, "b", content(2, MIB)).await;
    let broken = client.open(&other).await.unwrap();
    store.fail(Operation::Read, Code::PermissionDenied, 1);
    let error = client.ensure(broken.lease, 0..1).await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);

    // A recall reaches the holder.
    let mut recalls = client.take_recalls().unwrap();
    rig.engine.recall(&[file.id]);
    assert_eq!(recalls.recv().await, Some(open.lease));

    token.cancel();
    drop(client);
    until("the leases are free", || rig.engine.leases() == 0).await;
    // The descriptor outlives them.
    assert_eq!(
        pread(&open, MIB..MIB + 10),
        data.slice(MIB as usize..MIB as usize + 10)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_waits_share_a_connection_and_quick_calls_pass_slow_ones() {
    let store = MemStore::new();
    let slow = put(&store, "slow", content(1, MIB)).await;
    let quick = put(&store, "quick", content(2, MIB)).await;
    let rig = Rig::new(Arc::new(store.clone()), 100 * MIB);
    let path = rig.dir.path().join("s");
    forebay_worker::socket::serve(&path, rig.engine.clone(), &rig.shutdown).unwrap();
    let (client, _token) = connect(&path).await;
    let quick_open = client.open(&quick).await.unwrap();
    client.ensure(quick_open.lease, 0..MIB).await.unwrap();
    let slow_open = client.open(&slow).await.unwrap();
    store.stall(Operation::Read);
    let waits: Vec<_> = (0..50)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.ensure(slow_open.lease, n..n + 100).await })
        })
        .collect();
    until("the slow fill is under way", || store.reads().len() == 2).await;
    assert_eq!(
        client.ensure(quick_open.lease, 0..MIB).await.unwrap(),
        Ensured::Present
    );
    store.resume();
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap(), Ensured::Present);
    }
    assert_eq!(store.reads().len(), 2);
}
