//! Masters in number, and their volumes.

use super::{CLUSTER, cluster_says, operator, settings, until};
use crate::{api_server::ApiServer, master, process::port};
use forebay_crds::CacheCluster;
use forebay_service::Shutdown;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Secret},
};
use kube::Api;

/// From one master to three and back: the quorum follows, and pods go last.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver and forebay"]
async fn masters_come_and_go() {
    let server = ApiServer::start().await;
    let admin = server.client("admin");
    let shutdown = Shutdown::new();
    let at = port();
    operator(server.client("operator"), settings(at), &shutdown);
    server.apply(CLUSTER);
    let clusters: Api<CacheCluster> = Api::namespaced(admin.clone(), "default");
    let sets: Api<StatefulSet> = Api::namespaced(admin.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    until(&sets, "demo-master", "there", |set| set.is_some()).await;
    let key = secrets.get("demo-seal").await.unwrap().data.unwrap()["key"]
        .0
        .clone();
    let mut masters = Vec::new();
    let mut start = async |id: u16, of: u16| {
        let toml = maps.get("demo-master").await.unwrap().data.unwrap()["master.toml"].clone();
        let dir = server.dir.path().join(format!("master-{id}"));
        masters.push(master::start(&dir, &toml, &key, at, id, of));
    };
    start(1, 1).await;
    cluster_says(&clusters, "Ready", "False", "NoNodes").await;
    server.kubectl(&["scale", "cc", "demo", "--replicas=3"]);
    let replicas = |wanted: i32| {
        move |set: Option<&StatefulSet>| set.and_then(|s| s.spec.as_ref()?.replicas) == Some(wanted)
    };
    until(&sets, "demo-master", "three", replicas(3)).await;
    start(2, 3).await;
    start(3, 3).await;
    let ready = |wanted: u32| {
        move |cluster: Option<&CacheCluster>| {
            let masters = cluster.and_then(|c| c.status.as_ref()?.masters.as_ref());
            masters.is_some_and(|m| m.ready == wanted && m.replicas == wanted)
        }
    };
    until(&clusters, "demo", "three that serve", ready(3)).await;
    server.kubectl(&["scale", "cc", "demo", "--replicas=1"]);
    until(&sets, "demo-master", "one", replicas(1)).await;
    until(&clusters, "demo", "one that serves", ready(1)).await;
    shutdown.finish().await;
}

/// Larger volumes are asked for in the claims that are there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver"]
async fn volumes_of_masters_grow() {
    let server = ApiServer::start().await;
    let admin = server.client("admin");
    let shutdown = Shutdown::new();
    operator(server.client("operator"), settings(port()), &shutdown);
    let cluster = |size: &str| {
        let masters =
            format!("spec:\n  masters: {{storage: {{size: {size}, storageClassName: grows}}}}");
        CLUSTER.replace("spec:", &masters)
    };
    server.apply(
        "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: grows}
provisioner: example.com/grows
allowVolumeExpansion: true
",
    );
    server.apply(&cluster("1Gi"));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(admin.clone(), "default");
    let name = "data-demo-master-1";
    until(&claims, name, "there", |claim| claim.is_some()).await;
    // What a provisioner would do.
    server.apply(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {name: grows}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: grows
  claimRef: {namespace: default, name: data-demo-master-1}
  hostPath: {path: /nowhere}
",
    );
    until(&claims, name, "bound", |claim| {
        let status = claim.and_then(|c| c.status.as_ref());
        status.and_then(|s| s.phase.as_deref()) == Some("Bound")
    })
    .await;
    server.apply(&cluster("3Gi"));
    until(&claims, name, "as large as wanted", |claim| {
        let spec = claim.and_then(|c| c.spec.as_ref());
        let resources = spec.and_then(|s| s.resources.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        requests.is_some_and(|r| r["storage"].0 == "3Gi")
    })
    .await;
    shutdown.finish().await;
}
