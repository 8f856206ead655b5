//! What a master tells of its mounts, with real workers.

use crate::fixture::{Cluster, PATIENCE, eventually};
use forebay_client::{Ensured, LocalWorker};
use forebay_proto::v1;
use forebay_service::{ByteSize, Shutdown};
use forebay_types::{FileRef, Medium, MountSpec};
use forebay_worker::{
    Worker,
    config::{Eviction, TierSpec, WorkerConfig},
};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

const MIB: u64 = 1 << 20;

async fn worker(cluster: &Cluster, name: &str) -> (Worker, Shutdown) {
    let (dir, shutdown) = (cluster.dir.path().join(name), Shutdown::new());
    let tier = TierSpec {
        medium: Medium::Ssd,
        dir: dir.join("tier"),
        size: ByteSize(100 * MIB),
    };
    let config = WorkerConfig {
        data_dir: dir.join("data"),
        master: (&cluster.address()).into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        socket: None,
        http: None,
        tiers: vec![tier],
        eviction: Eviction::default(),
        high_watermark: 0.95,
        low_watermark: 0.9,
        seal_key: None,
        memory: ByteSize(32 * MIB),
    };
    let mut registry = prometheus_client::registry::Registry::default();
    let worker = Worker::start(config, &mut registry, &shutdown).await;
    (worker.unwrap(), shutdown)
}

async fn mount(cluster: &Cluster, path: &str, uri: String) -> u32 {
    let mount = v1::Mount {
        path: path.to_owned(),
        uri,
        sync: "never".to_owned(),
        ..v1::Mount::default()
    };
    let request = v1::MountRequest { mount: Some(mount) };
    cluster
        .admin()
        .mount(request)
        .await
        .unwrap()
        .into_inner()
        .id
}

async fn usage(cluster: &Cluster) -> BTreeMap<u32, v1::MountUsage> {
    let report = cluster.admin().report(v1::ReportRequest {}).await.unwrap();
    let rows = report.into_inner().usage.into_iter();
    rows.map(|usage| (usage.mount, usage)).collect()
}

async fn file(cluster: &Cluster, path: &str) -> FileRef {
    let ino = cluster.resolve(path).await.unwrap().ino;
    let request = v1::OpenFileRequest { ino };
    let file = cluster.calls().open_file(request).await.unwrap();
    file.try_into().unwrap()
}

/// Opens and reads all of a file; whether it was whole.
async fn read(local: &Arc<dyn LocalWorker>, file: &FileRef) -> bool {
    let open = local.open(file).await.unwrap();
    let ensured = local.ensure(open.lease, 0..file.size()).await.unwrap();
    assert_eq!(ensured, Ensured::Present);
    local.release(open.lease);
    open.whole
}

/// Files of 100,000 bytes and a little more; returns the bytes of all.
fn put(dir: &Path, files: u64) -> u64 {
    fs::create_dir_all(dir).unwrap();
    for n in 0..files {
        fs::write(dir.join(format!("f{n}")), vec![b'x'; 100_000 + n as usize]).unwrap();
    }
    (0..files).map(|n| 100_000 + n).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mounts_have_and_what_of_it_is_cached() {
    const FILES: u64 = 40;
    let cluster = Cluster::start(Vec::new()).await;
    let remote = cluster.dir.path().join("remote");
    let bytes = put(&remote.join("d"), FILES);
    fs::create_dir(remote.join("e")).unwrap();
    let data = mount(&cluster, "/data", format!("file://{}", remote.display())).await;
    let scratch = mount(&cluster, "/scratch", MountSpec::SCRATCH.to_owned()).await;
    let (a, stop_a) = worker(&cluster, "a").await;
    let (b, stop_b) = worker(&cluster, "b").await;
    eventually("both workers know of each other", || async {
        let report = cluster.admin().report(v1::ReportRequest {}).await.unwrap();
        report.into_inner().workers.len() == 2
    })
    .await;
    let nothing = usage(&cluster).await;
    assert_eq!((nothing.len(), nothing[&data].unlisted), (2, 1));
    assert_eq!(
        nothing[&scratch],
        v1::MountUsage {
            mount: scratch,
            ..v1::MountUsage::default()
        }
    );

    // Loading lists all of it, and brings each file to its home.
    let request = v1::LoadRequest {
        path: b"/data".as_slice().into(),
        ..v1::LoadRequest::default()
    };
    let mut progress = cluster.admin().load(request).await.unwrap().into_inner();
    let run = async {
        while progress
            .message()
            .await
            .unwrap()
            .is_some_and(|m| !m.finished)
        {}
    };
    tokio::time::timeout(PATIENCE, run).await.unwrap();
    let told = |what: &'static str, check: fn(&v1::MountUsage, u64) -> bool| {
        let cluster = &cluster;
        async move {
            let now = || async move { check(&usage(cluster).await[&data], bytes) };
            eventually(what, now).await;
            usage(cluster).await[&data].clone()
        }
    };
    let loaded = told("workers tell what they hold", |u, bytes| {
        u.unique_bytes == bytes
    })
    .await;
    assert_eq!(
        (loaded.files, loaded.bytes, loaded.unlisted),
        (FILES, bytes, 0)
    );
    assert_eq!((loaded.cached_bytes, loaded.opens), (bytes, 0));
    assert!(loaded.last_sync_ns > 0);

    // Reading on both nodes brings each file to the other one, too.
    let mut whole = 0;
    for n in 0..FILES {
        let file = file(&cluster, &format!("/data/d/f{n}")).await;
        whole += u64::from(read(&a.local(), &file).await);
        whole += u64::from(read(&b.local(), &file).await);
    }
    assert_eq!(whole, FILES, "each is whole on the worker that is its home");
    let twice = told("opens and copies are told", |u, bytes| {
        u.opens == 2 * FILES && u.cached_bytes == 2 * bytes
    });
    let twice = twice.await;
    assert_eq!((twice.opens_whole, twice.unique_bytes), (FILES, bytes));

    // A worker that is gone takes its copies with it; the other one is home of all then.
    stop_b.finish().await;
    drop(b);
    let alone = told("one worker is left", |u, bytes| u.cached_bytes == bytes).await;
    assert_eq!((alone.unique_bytes, alone.opens), (bytes, FILES));
    assert_eq!((twice.holders.len(), alone.holders.len()), (2, 1));
    assert_eq!(alone.holders[0].cached_bytes, bytes);

    // What the under store no longer has is no longer counted.
    fs::remove_file(remote.join("d/f0")).unwrap();
    cluster.sync("/data").await.unwrap();
    let less = usage(&cluster).await[&data].clone();
    assert_eq!((less.files, less.bytes), (FILES - 1, bytes - 100_000));
    assert!(less.unique_bytes <= less.bytes);

    // The figures survive the master; the worker tells its own again.
    let stores = Vec::new();
    let (address, dir) = (cluster.address(), cluster.stop().await);
    let cluster = Cluster::start_in(dir, stores).await;
    assert_eq!(cluster.address(), address);
    assert_eq!(usage(&cluster).await[&data].files, FILES - 1);
    eventually("the worker tells all again", || async {
        usage(&cluster).await[&data].opens == FILES
    })
    .await;
    stop_a.finish().await;
    drop(a);
    cluster.stop().await;
}
