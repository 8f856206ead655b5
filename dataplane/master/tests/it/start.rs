//! Starting, starting again, and refusing to start.

use crate::{
    fixture::{Cluster, config, opener},
    stores::Locked,
};
use forebay_master::Master;
use forebay_proto::v1;
use forebay_service::Shutdown;
use forebay_types::Address;
use forebay_ufs::memory::MemStore;
use prometheus_client::registry::Registry;
use std::sync::Arc;

fn store(keys: &[&str]) -> Arc<MemStore> {
    let store = MemStore::new();
    for key in keys {
        store.put(key, "x");
    }
    Arc::new(store)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_tree_is_there_without_a_listing() {
    let store = store(&["d/a", "d/b", "e"]);
    let cluster = Cluster::start(vec![("/", "never", store.clone())]).await;
    let name = cluster_name(&cluster).await;
    let ino = cluster.resolve("/d/a").await.unwrap().ino;
    let listed = store.requests().list;
    let dir = cluster.stop().await;
    let cluster = Cluster::start_in(dir, vec![("/", "never", store.clone())]).await;
    assert_eq!(cluster_name(&cluster).await, name);
    assert_eq!(cluster.resolve("/d/a").await.unwrap().ino, ino);
    assert_eq!(cluster.names("/d").await, ["a", "b"]);
    assert_eq!(store.requests().list, listed);
    cluster.stop().await;
}

async fn cluster_name(cluster: &Cluster) -> String {
    let request = v1::OpenSessionRequest {
        client: "test".into(),
    };
    let session = cluster
        .metadata()
        .open_session(request)
        .await
        .unwrap()
        .into_inner();
    assert!(session.session > 0 && session.cluster.len() == 36);
    session.cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_nest_and_follow_the_configuration() {
    let (root, inner, other) = (store(&["a", "m/hidden", "m"]), store(&["x"]), store(&["y"]));
    let both: crate::fixture::Stores = vec![
        ("/m/n", "never", inner.clone()),
        ("/", "never", root.clone()),
    ];
    let cluster = Cluster::start(both).await;
    assert_eq!(cluster.names("/").await, ["a", "m"]);
    assert_eq!(cluster.names("/m").await, ["hidden", "n"]);
    assert_eq!(cluster.names("/m/n").await, ["x"]);
    let dir = cluster.stop().await;
    let cluster = Cluster::start_in(
        dir,
        vec![("/", "never", root.clone()), ("/o/p", "1s", other)],
    )
    .await;
    assert_eq!(cluster.names("/m").await, ["hidden"]);
    assert_eq!(cluster.names("/").await, ["a", "m", "o"]);
    assert_eq!(cluster.names("/o/p").await, ["y"]);
    let topology = cluster
        .registry()
        .topology(v1::TopologyRequest::default())
        .await
        .unwrap()
        .into_inner();
    let paths: Vec<String> = topology.mounts.iter().map(|m| m.path.clone()).collect();
    assert_eq!(paths, ["/", "/o/p"]);
    assert_eq!(cluster.sync("/").await.unwrap().removed, 0);
    assert_eq!(cluster.names("/o/p").await, ["y"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_used_stops_the_start_with_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let stores: crate::fixture::Stores = vec![("/secret", "never", Arc::new(Locked))];
    let shutdown = Shutdown::new();
    let (config, mut registry) = (config(dir.path(), &stores), Registry::default());
    let started = Master::start_with(config, opener(&stores), &mut registry, &shutdown).await;
    let text = format!("{:#}", started.err().expect("it must not start"));
    assert!(
        text.contains("s3://bucket/secret") && text.contains("at /secret"),
        "{text}"
    );
    assert!(
        text.contains("unknown access key") && text.contains("check the credentials"),
        "{text}"
    );
    assert!(!text.contains('\n'));
    assert!(!dir.path().join("data").exists(), "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_master_tells_its_real_port() {
    let dir = tempfile::tempdir().unwrap();
    let stores: crate::fixture::Stores = vec![("/", "never", store(&["a"]))];
    let mut config = config(dir.path(), &stores);
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.http = Some("127.0.0.1:0".parse().unwrap());
    let shutdown = Shutdown::new();
    let master =
        Master::start_with(config, opener(&stores), &mut Registry::default(), &shutdown).await;
    let master = master.unwrap();
    let Address::Tcp(address) = master.address().clone() else {
        panic!("it is TCP")
    };
    assert!(!address.ends_with(":0"));
    let client = forebay_client::Master::new(master.address());
    let request = v1::LookupRequest {
        parent: 1,
        name: "a".into(),
    };
    assert!(client.calls().lookup(request).await.unwrap().attr.is_some());
    shutdown.finish().await;
    master.close().await;
}
