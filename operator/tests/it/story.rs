//! A CacheCluster and a Dataset, from `kubectl apply` to `kubectl delete`.

mod masters;

use crate::{
    api_server::ApiServer,
    locality::{affinity, pod, preferred, prefers, with_webhook},
    master,
    process::port,
    s3,
};
use forebay_crds::{CacheCluster, Dataset, WarmupPolicy};
use forebay_operator::{Operator, Settings};
use forebay_service::Shutdown;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, StatefulSet},
        core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Api, Client, Resource, ResourceExt, runtime::wait::await_condition};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{fmt::Debug, sync::Arc, time::Duration};
use tokio::time::timeout;

const CLUSTER: &str = "
apiVersion: forebay.io/v1alpha1
kind: CacheCluster
metadata: {name: demo, namespace: default}
spec:
  workers:
  - name: default
    tiers:
    - {medium: SSD, quota: 64Mi, emptyDir: {}}
";

pub(crate) async fn until<K>(api: &Api<K>, name: &str, what: &str, met: impl Fn(Option<&K>) -> bool)
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    tracing::info!(name, what, "waits");
    let seen = parking_lot::Mutex::new(None);
    let condition = |object: Option<&K>| {
        *seen.lock() = object.cloned();
        met(object)
    };
    let waiting = Box::pin(await_condition(api.clone(), name, condition));
    let waited = timeout(Duration::from_mins(1), waiting).await;
    match waited {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => panic!("{name}: {what}: {error}"),
        Err(late) => panic!("{name}: not {what}: {late}: {:?}", seen.lock()),
    }
}

fn says(conditions: &[Condition], kind: &str, status: &str, reason: &str) -> bool {
    let mut conditions = conditions.iter();
    conditions.any(|c| c.type_ == kind && c.status == status && c.reason == reason)
}

async fn dataset_says(api: &Api<Dataset>, name: &str, kind: &str, status: &str, reason: &str) {
    until(api, name, &format!("{kind}={status} {reason}"), |dataset| {
        let status_of = dataset.and_then(|d| d.status.as_ref());
        status_of.is_some_and(|s| says(&s.conditions, kind, status, reason))
    })
    .await;
}

async fn cluster_says(api: &Api<CacheCluster>, kind: &str, status: &str, reason: &str) {
    until(
        api,
        "demo",
        &format!("{kind}={status} {reason}"),
        |cluster| {
            let status_of = cluster.and_then(|c| c.status.as_ref());
            status_of.is_some_and(|s| says(&s.conditions, kind, status, reason))
        },
    )
    .await;
}

async fn warmup_says(api: &Api<WarmupPolicy>, name: &str, kind: &str, status: &str, reason: &str) {
    until(api, name, &format!("{kind}={status} {reason}"), |policy| {
        let status_of = policy.and_then(|p| p.status.as_ref());
        status_of.is_some_and(|s| says(&s.conditions, kind, status, reason))
    })
    .await;
}

/// An address of a worker that no other test has: pods have addresses, and the port is always the same.
fn address() -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.77.{high}.{low}")
}

/// A node, and the pod of a worker for it, as a kubelet would have it.
async fn node_and_pod(server: &ApiServer, client: &Client, ip: &str) -> String {
    server.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n");
    server.kubectl(&["taint", "node", "n1", "node.kubernetes.io/not-ready-"]);
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let labels = kube::api::ListParams::default().labels("app.kubernetes.io/component=worker");
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), "default");
    until(&daemons, "demo-worker-default", "scheduled", |set| {
        let status = set.and_then(|s| s.status.as_ref());
        status.is_some_and(|s| s.current_number_scheduled == 1)
    })
    .await;
    let pod = pods.list(&labels).await.unwrap().items.remove(0).name_any();
    let running = format!(
        "{{\"status\":{{\"podIP\":\"{ip}\",\"podIPs\":[{{\"ip\":\"{ip}\"}}],\"phase\":\"Running\"}}}}"
    );
    server.kubectl(&["patch", "pod", &pod, "--subresource=status", "-p", &running]);
    pod
}

/// The scheduler's last word: from then on only a kubelet could end the pod.
async fn bind(client: &Client, pod: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
    });
    let params = kube::api::PostParams::default();
    let bound = pods.create_subresource("binding", pod, &params, &binding);
    let _: Value = bound.await.unwrap();
}

pub(crate) async fn gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    until(api, name, "gone", |object| object.is_none()).await;
}

/// An operator whose first master is at that port.
pub(crate) fn settings(masters: u16) -> Settings {
    Settings {
        image: "forebay:test".to_owned(),
        namespace: "forebay-system".to_owned(),
        identity: "operator-1".to_owned(),
        http: "127.0.0.1:0".parse().unwrap(),
        webhook: "127.0.0.1:0".parse().unwrap(),
        pod_ip: None,
        placements: Arc::default(),
        dial: Arc::new(move |_, id| format!("127.0.0.1:{}", masters + id as u16 - 1).parse()),
    }
}

/// Runs an operator with the rights that the manifests give it.
pub(crate) fn operator(client: Client, settings: Settings, shutdown: &Shutdown) {
    let stop = shutdown.clone();
    shutdown.spawn_graceful(|_| async move {
        let operator = Operator::start(client, settings, &stop).await.unwrap();
        assert!(operator.run().await);
    });
}

fn dataset(endpoint: &str, bucket: &str) -> String {
    format!(
        "
apiVersion: forebay.io/v1alpha1
kind: Dataset
metadata: {{name: imagenet, namespace: default}}
spec:
  clusterRef: {{name: demo}}
  mounts:
  - uri: s3://{bucket}
    options: {{endpoint: \"http://{endpoint}\", pathStyle: \"true\", region: us-east-1}}
    secretRef: {{name: credentials}}
"
    )
}

fn secret(key: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: credentials, namespace: default}}
stringData: {{AWS_ACCESS_KEY_ID: {key}, AWS_SECRET_ACCESS_KEY: x}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver and forebay"]
async fn from_apply_to_delete() {
    forebay_service::telemetry::init();
    let server = ApiServer::start().await;
    let admin = server.client("admin");
    let shutdown = Shutdown::new();
    let at = port();
    operator(server.client("operator"), settings(at), &shutdown);
    let clusters: Api<CacheCluster> = Api::namespaced(admin.clone(), "default");
    let datasets: Api<Dataset> = Api::namespaced(admin.clone(), "default");
    let sets: Api<StatefulSet> = Api::namespaced(admin.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(admin.clone(), "default");

    // A Dataset may come first.
    let serving = s3::Store::start("127.0.0.1:0").await;
    let store = serving.address.clone();
    server.apply(&dataset(&store, "bucket"));
    dataset_says(&datasets, "imagenet", "Ready", "False", "ClusterNotFound").await;
    server.apply(CLUSTER);
    cluster_says(&clusters, "Ready", "False", "MastersStarting").await;
    dataset_says(&datasets, "imagenet", "Ready", "False", "MastersStarting").await;
    until(&sets, "demo-master", "there", |set| set.is_some()).await;

    // A master with the files that were made for it.
    let key = secrets.get("demo-seal").await.unwrap().data.unwrap()["key"]
        .0
        .clone();
    let toml = |map: ConfigMap, file: &str| map.data.unwrap()[file].clone();
    let master_toml = toml(maps.get("demo-master").await.unwrap(), "master.toml");
    let dir = server.dir.path().join("master");
    let master = master::master(&dir, &master_toml, &key, at);
    cluster_says(&clusters, "Ready", "False", "NoNodes").await;

    // No Secret, a wrong one, the right one; each by a condition.
    dataset_says(&datasets, "imagenet", "Ready", "False", "SecretNotFound").await;
    server.apply(&secret("bad"));
    dataset_says(&datasets, "imagenet", "Ready", "False", "AccessDenied").await;
    server.apply(&secret("good"));
    dataset_says(&datasets, "imagenet", "Ready", "False", "NoWorkers").await;
    let worker_toml = toml(
        maps.get("demo-worker-default").await.unwrap(),
        "worker.toml",
    );
    let ip = address();
    node_and_pod(&server, &admin, &ip).await;
    cluster_says(&clusters, "Ready", "False", "WorkersStarting").await;
    let worker_dir = server.dir.path().join("worker");
    let worker_at = format!("{ip}:7100");
    let worker = master::worker(&worker_dir, &worker_toml, &key, at, &worker_at);
    cluster_says(&clusters, "Ready", "True", "Serving").await;
    dataset_says(&datasets, "imagenet", "Ready", "True", "Readable").await;
    until(&claims, "imagenet", "bound", |claim| {
        let status = claim.and_then(|c| c.status.as_ref());
        status.and_then(|s| s.phase.as_deref()) == Some("Bound")
    })
    .await;

    // An edit that fails leaves what was there; one that does not takes effect.
    server.apply(&secret("bad"));
    dataset_says(&datasets, "imagenet", "Degraded", "True", "AccessDenied").await;
    dataset_says(&datasets, "imagenet", "Ready", "True", "Readable").await;
    server.apply(&secret("good"));
    dataset_says(&datasets, "imagenet", "Degraded", "False", "Healthy").await;
    server.apply(&dataset(&store, "other"));
    dataset_says(&datasets, "imagenet", "Ready", "False", "StoreNotFound").await;
    server.apply(&dataset(&store, "bucket/prefix"));
    dataset_says(&datasets, "imagenet", "Ready", "True", "Readable").await;

    // The store dies, and comes back.
    drop(serving);
    let died = std::time::Instant::now();
    dataset_says(
        &datasets,
        "imagenet",
        "Degraded",
        "True",
        "StoreUnreachable",
    )
    .await;
    let noticed = died.elapsed();
    tracing::info!(?noticed, "the store is known to be dead");
    assert!(noticed < Duration::from_secs(15), "{noticed:?}");
    dataset_says(&datasets, "imagenet", "Ready", "True", "Readable").await;
    let _serving = s3::Store::start(&store).await;
    dataset_says(&datasets, "imagenet", "Degraded", "False", "Healthy").await;

    // Workers and masters go, and come back.
    drop(worker);
    cluster_says(&clusters, "Ready", "False", "NoWorkers").await;
    dataset_says(&datasets, "imagenet", "Ready", "False", "NoWorkers").await;
    drop(master);
    cluster_says(&clusters, "Ready", "False", "NoLeader").await;
    dataset_says(
        &datasets,
        "imagenet",
        "Ready",
        "False",
        "MastersUnavailable",
    )
    .await;
    let dir = server.dir.path().join("master");
    let _master = master::master(&dir, &master_toml, &key, at);
    dataset_says(&datasets, "imagenet", "Ready", "False", "NoWorkers").await;
    let _worker = master::worker(&worker_dir, &worker_toml, &key, at, &worker_at);
    dataset_says(&datasets, "imagenet", "Ready", "True", "Readable").await;

    // What is changed by hand is as it was; what is deleted comes again, and is bound again.
    server.kubectl(&["scale", "statefulset", "demo-master", "--replicas=2"]);
    until(&sets, "demo-master", "one", |set| {
        set.is_some_and(|s| {
            s.metadata.generation > Some(2)
                && s.spec.as_ref().is_some_and(|s| s.replicas == Some(1))
        })
    })
    .await;
    let old = claims.get("imagenet").await.unwrap().uid();
    server.kubectl(&["delete", "pvc", "imagenet", "--wait=false"]);
    until(&claims, "imagenet", "bound again", |claim| {
        let bound = claim
            .filter(|c| c.uid() != old)
            .and_then(|c| c.status.as_ref());
        bound.and_then(|s| s.phase.as_deref()) == Some("Bound")
    })
    .await;

    // In use: it stays, and says why.
    server.kubectl(&["delete", "cachecluster", "demo", "--wait=false"]);
    cluster_says(&clusters, "DeletionBlocked", "True", "InUse").await;
    let handle = datasets.get("imagenet").await.unwrap().uid().unwrap();
    server.kubectl(&["delete", "dataset", "imagenet", "--wait=false"]);
    gone(&datasets, "imagenet").await;
    gone(&clusters, "demo").await;
    gone(&sets, "demo-master").await;
    gone(&claims, "imagenet").await;
    gone(&secrets, "demo-seal").await;
    let volumes: Api<PersistentVolume> = Api::all(admin.clone());
    gone(&volumes, &format!("forebay-{handle}")).await;
    let events = server.kubectl(&["get", "events", "-o", "custom-columns=R:.reason,T:.type"]);
    let mut beginnings = events.lines().filter(|line| {
        let mut words = line.split_whitespace();
        let reason = words.next().unwrap_or_default();
        ["MastersStarting", "WorkersStarting", "Mounting"].contains(&reason)
            && words.next() != Some("Normal")
    });
    assert_eq!(beginnings.next(), None, "{events}");
    for reason in [
        "ClusterNotFound",
        "AccessDenied",
        "Readable",
        "NoLeader",
        "InUse",
    ] {
        assert!(events.contains(reason), "{reason}: {events}");
    }
    shutdown.finish().await;
    let leases = server.kubectl(&[
        "get",
        "lease",
        "-n",
        "forebay-system",
        "-o",
        "jsonpath={..holderIdentity}",
    ]);
    assert_eq!(leases, "", "released");
}

/// A WarmupPolicy says what it waits for, and goes when nobody can be asked.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver"]
async fn a_warmup_says_what_it_waits_for() {
    forebay_service::telemetry::init();
    let server = ApiServer::start().await;
    let admin = server.client("admin");
    let shutdown = Shutdown::new();
    operator(server.client("operator"), settings(port()), &shutdown);
    let policies: Api<WarmupPolicy> = Api::namespaced(admin.clone(), "default");
    server.apply(&warmup("all", ""));
    warmup_says(&policies, "all", "Ready", "False", "DatasetNotFound").await;
    let zone = "schedule: {cron: \"0 3 * * *\", timeZone: Europe/Atlantis}";
    server.apply(&warmup("all", zone));
    warmup_says(&policies, "all", "Ready", "False", "InvalidTimeZone").await;
    server.apply(&warmup("all", &zone.replace("Atlantis", "Berlin")));
    until(&policies, "all", "promised", |policy| {
        policy.is_some_and(|p| p.status.as_ref().is_some_and(|s| s.next_run_time.is_some()))
    })
    .await;
    server.apply(&dataset("127.0.0.1:1", "bucket"));
    warmup_says(&policies, "all", "Ready", "False", "MastersUnavailable").await;
    server.kubectl(&["delete", "warmup", "all", "--wait=false"]);
    gone(&policies, "all").await;
    shutdown.finish().await;
}

fn warmup(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: forebay.io/v1alpha1
kind: WarmupPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  datasetRef: {{name: imagenet}}
  {spec}
"
    )
}

/// From `kubectl apply` to every file in place, and again after an edit; the figures of the Dataset follow, and pods.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver and forebay"]
async fn a_warmup_from_apply_to_complete() {
    forebay_service::telemetry::init();
    let server = ApiServer::start_without_policies().await;
    let admin = server.client("admin");
    let shutdown = Shutdown::new();
    let at = port();
    let told = with_webhook(settings(at));
    operator(server.client("operator"), told, &shutdown);
    let store = s3::Store::start("127.0.0.1:0").await;
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let sets: Api<StatefulSet> = Api::namespaced(admin.clone(), "default");
    let datasets: Api<Dataset> = Api::namespaced(admin.clone(), "default");
    let policies: Api<WarmupPolicy> = Api::namespaced(admin.clone(), "default");
    server.apply(CLUSTER);
    server.apply(&secret("good"));
    server.apply(&dataset(&store.address, "bucket"));
    server.apply(&warmup("all", "pin: true"));
    until(&sets, "demo-master", "there", |set| set.is_some()).await;
    let key = secrets.get("demo-seal").await.unwrap().data.unwrap()["key"]
        .0
        .clone();
    let toml =
        async |map: &str, file: &str| maps.get(map).await.unwrap().data.unwrap()[file].clone();
    let master_toml = toml("demo-master", "master.toml").await;
    let worker_toml = toml("demo-worker-default", "worker.toml").await;
    let _master = master::master(&server.dir.path().join("m"), &master_toml, &key, at);
    warmup_says(&policies, "all", "Ready", "False", "DatasetNotReady").await;
    let ip = address();
    let pod_of_worker = node_and_pod(&server, &admin, &ip).await;
    bind(&admin, &pod_of_worker).await;
    let worker = server.dir.path().join("w");
    let _worker = master::worker(&worker, &worker_toml, &key, at, &format!("{ip}:7100"));
    warmup_says(&policies, "all", "Complete", "True", "Succeeded").await;
    let all = policies.get("all").await.unwrap().status.unwrap();
    let run = all.run.unwrap();
    assert_eq!((run.generation, run.files.total, run.files.done), (1, 1, 1));
    assert_eq!(all.summary.unwrap().progress, "100%");
    until(&datasets, "imagenet", "cached", |dataset| {
        let summary = dataset.and_then(|d| d.status.as_ref()?.summary.as_ref());
        summary.is_some_and(|s| s.cached.as_deref() == Some("100%"))
    })
    .await;
    let reader = pod(&["imagenet"], json!({}), json!({}));
    let n1 = preferred(&[prefers("n1", 100)]);
    assert_eq!(affinity(&server, "default", &reader).await, n1);
    // An edit is carried out, too; no file matches any more.
    server.apply(&warmup("all", "include: [nothing/**]"));
    until(&policies, "all", "run again", |policy| {
        let run = policy.and_then(|p| p.status.as_ref()?.run.as_ref());
        run.is_some_and(|run| run.generation == 2 && run.completion_time.is_some())
    })
    .await;
    server.kubectl(&["delete", "warmup", "all", "--wait=false"]);
    gone(&policies, "all").await;
    server.kubectl(&["delete", "dataset", "imagenet", "--wait=false"]);
    gone(&datasets, "imagenet").await;
    assert_eq!(affinity(&server, "default", &reader).await, Value::Null);
    shutdown.finish().await;
}

/// Whoever may write Datasets, but not read Secrets, cannot use one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver"]
async fn a_dataset_is_no_way_round_the_rights_to_secrets() {
    let server = ApiServer::start().await;
    let role = "create clusterrole writer --verb=create,patch,get --resource=datasets.forebay.io";
    server.kubectl(&role.split(' ').collect::<Vec<_>>());
    let binding = "create clusterrolebinding writer --clusterrole=writer --user=alice";
    server.kubectl(&binding.split(' ').collect::<Vec<_>>());
    let datasets: Api<Dataset> = Api::namespaced(server.client("alice"), "default");
    let make = |name: &str, mount: serde_json::Value| -> Dataset {
        let mut dataset = serde_json::json!({"metadata": {"name": name}});
        dataset["spec"] = serde_json::json!({"clusterRef": {"name": "c"}, "mounts": [mount]});
        serde_json::from_value(dataset).unwrap()
    };
    let secret = serde_json::json!({"uri": "s3://b", "secretRef": {"name": "credentials"}});
    let public = serde_json::json!({"uri": "s3://b", "options": {"anonymous": "true"}});
    let params = kube::api::PostParams::default();
    // The API server takes a moment to load the policy.
    let mut said = String::new();
    for n in 0..100 {
        match datasets
            .create(&params, &make(&format!("d{n}"), secret.clone()))
            .await
        {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => {
                said = error.to_string();
                break;
            }
        }
    }
    assert!(
        said.contains("may not read all of these Secrets") && said.contains("credentials"),
        "{said}"
    );
    datasets
        .create(&params, &make("public", public))
        .await
        .unwrap();
    let admin: Api<Dataset> = Api::namespaced(server.client("admin"), "default");
    admin
        .create(&params, &make("secret", secret))
        .await
        .unwrap();
}
