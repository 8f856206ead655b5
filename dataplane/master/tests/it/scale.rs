//! Large directories, and the price of a lookup.

use crate::{
    fixture::Cluster,
    worker::{Script, Worker},
};
use forebay_proto::v1;
use forebay_ufs::memory::MemStore;
use std::{sync::Arc, time::Instant};

async fn load_flat(entries: usize) -> f64 {
    let store = MemStore::new();
    for i in 0..entries {
        store.put(format!("file-{i:07}"), "x");
    }
    let cluster = Cluster::start(vec![("/", "never", Arc::new(store))]).await;
    let begun = Instant::now();
    assert!(
        cluster
            .lookup(1, "file-0000001")
            .await
            .unwrap()
            .attr
            .is_some()
    );
    let loading = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    assert_eq!(cluster.names("/").await.len(), entries);
    let listing = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let done = cluster.sync("/").await.unwrap();
    assert_eq!((done.added, done.changed, done.removed), (0, 0, 0));
    let comparing = begun.elapsed().as_secs_f64();
    let rate = |seconds: f64| entries as f64 / seconds;
    println!(
        "{entries} entries: load {:.0}/s, list {:.0}/s, compare {:.0}/s",
        rate(loading),
        rate(listing),
        rate(comparing),
    );
    cluster.stop().await;
    loading
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_100_000_entries_loads_in_seconds() {
    let seconds = load_flat(100_000).await;
    assert!(seconds < 20.0, "{seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "benchmark: 10^6 entries"]
async fn a_directory_of_a_million_entries() {
    load_flat(1_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "benchmark: lookups and small files a second"]
async fn rates() {
    let store = MemStore::new();
    for i in 0..10_000 {
        store.put(format!("d{}/f{i}", i / 1_000), "x");
    }
    let cluster = Cluster::start(vec![("/", "never", Arc::new(store))]).await;
    let _worker = Worker::start(&cluster, 1, Script::default()).await;
    let dir = cluster.resolve("/d0").await.unwrap().ino;
    cluster.names("/d0").await;
    let client = cluster.calls();
    let begun = Instant::now();
    for i in 0..1_000 {
        let name = format!("f{i}").into_bytes().into();
        let request = v1::LookupRequest { parent: dir, name };
        assert!(client.lookup(request).await.unwrap().attr.is_some());
    }
    println!("lookup: {:.1} us", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    let request = v1::LoadRequest {
        path: "/".into(),
        ..v1::LoadRequest::default()
    };
    let mut progress = cluster.admin().load(request).await.unwrap().into_inner();
    while let Some(message) = progress.message().await.unwrap() {
        if message.finished {
            assert_eq!(message.files_done, 10_000);
        }
    }
    println!(
        "load job: {:.0} files/s",
        10_000.0 / begun.elapsed().as_secs_f64()
    );
    cluster.stop().await;
}
