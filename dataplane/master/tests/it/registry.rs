//! What workers and everybody else hear of the cluster.

use crate::fixture::{Cluster, PATIENCE};
use forebay_client::{Master, TopologyCache};
use forebay_proto::v1::{self, registry_client::RegistryClient};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

type Registry = RegistryClient<Channel>;

async fn register(registry: &mut Registry, id: u64) {
    let request = v1::RegisterRequest {
        worker: Some(v1::Worker {
            id,
            address: format!("127.0.0.1:{id}"),
            capacity: 1,
        }),
        ..v1::RegisterRequest::default()
    };
    registry.register(request).await.unwrap();
}

async fn ask(registry: &mut Registry, asked: &v1::TopologyRequest) -> v1::TopologyResponse {
    registry.topology(asked.clone()).await.unwrap().into_inner()
}

/// The version that a heartbeat tells, once the leader can say.
async fn version(registry: &mut Registry, worker: u64) -> v1::TopologyVersion {
    let end = Instant::now() + PATIENCE;
    loop {
        let beat = v1::HeartbeatRequest {
            worker,
            ..v1::HeartbeatRequest::default()
        };
        let answer = registry.heartbeat(beat).await.unwrap().into_inner();
        assert!(answer.known && answer.heartbeat_ms == 1_000);
        if let Some(version) = answer.topology {
            return version;
        }
        assert!(Instant::now() < end, "the leader does not settle");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topologies_are_told_by_what_changed_also_after_a_change_of_the_leader() {
    let cluster = Cluster::start(Vec::new()).await;
    let mut registry = cluster.registry();
    for id in 1..=50 {
        register(&mut registry, id).await;
    }
    let mut asked = v1::TopologyRequest::default();
    let whole = ask(&mut registry, &asked).await;
    assert!(whole.whole && whole.workers.len() == 50);
    asked.known = whole.version;
    assert_eq!(whole.version, Some(version(&mut registry, 7).await));
    let client = TopologyCache::new(Master::new(cluster.address()));
    assert_eq!(client.get().await.unwrap().workers.len(), 50);
    register(&mut registry, 51).await;
    let news = version(&mut registry, 7).await;
    let changes = ask(&mut registry, &asked).await;
    assert_eq!((changes.workers.len(), changes.version), (1, Some(news)));
    assert!(!changes.whole && changes.removed.is_empty());

    let cluster = Cluster::start_in(cluster.stop().await, Vec::new()).await;
    let mut registry = cluster.registry();
    let early = ask(&mut registry, &asked).await;
    assert!(early.workers.is_empty() && early.removed.is_empty());
    // One has moved away with the old leader, the others are as they were.
    for id in 2..=51 {
        register(&mut registry, id).await;
    }
    version(&mut registry, 7).await;
    assert!(ask(&mut registry, &asked).await.digests_wanted);
    let topology = client.refresh().await.unwrap();
    assert_eq!(topology.workers.len(), 50);
    assert!(topology.workers.iter().all(|worker| worker.id.0 >= 2));
    cluster.stop().await;
}
