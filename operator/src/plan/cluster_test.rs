use super::*;
use crate::plan::{
    condition,
    membership::{Member, Quorum},
    mount::{Held, Row, Table},
    view::{Tier, Worker},
};
use k8s_openapi::{
    api::{core::v1::ConfigMap, core::v1::Service, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::sync::Arc;

fn cluster() -> CacheCluster {
    serde_json::from_value(json!({
        "metadata": {"name": "demo", "namespace": "ns", "uid": "U", "generation": 2},
        "spec": {
            "masters": {"replicas": 3, "priorityClassName": "high", "storage": {"size": "20Gi", "storageClassName": "fast"}},
            "workers": [
                {
                    "name": "gpu",
                    "nodeSelector": {"gpu": "true"},
                    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "tiers": [
                        {"medium": "MEM", "quota": "1Gi"},
                        {"medium": "SSD", "quota": "10Gi", "hostPath": "/mnt/nvme0"},
                        {"medium": "SSD", "quota": "10Gi", "emptyDir": {}},
                        {"medium": "HDD", "quota": "1Ti", "volumeClaim": {"storageClassName": "slow"}},
                    ],
                },
                {"name": "memory", "eviction": "LRU", "tiers": [{"medium": "MEM", "quota": "1Gi"}]},
            ],
        },
    }))
    .unwrap()
}

fn pod(name: &str, component: &str, status: &Value) -> PodSeen {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "app.kubernetes.io/component": component, "forebay.io/cluster": "U", "forebay.io/group": "gpu",
        }},
        "spec": {"nodeName": "n1"},
        "status": status,
    }))
    .unwrap()
}

/// A cluster in good order.
struct Case {
    cluster: CacheCluster,
    users: Vec<ObjectRef>,
    view: View,
    masters: Option<StatefulSet>,
    daemons: BTreeMap<String, DaemonSet>,
    erasers: BTreeMap<String, DaemonSet>,
    refused: bool,
    pods: Vec<PodSeen>,
    claims: Vec<PersistentVolumeClaim>,
}

impl Default for Case {
    fn default() -> Case {
        let daemon = |nodes: u32| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": {"generation": 1},
                "status": {
                    "observedGeneration": 1, "desiredNumberScheduled": nodes, "currentNumberScheduled": nodes,
                    "numberMisscheduled": 0, "numberReady": nodes, "updatedNumberScheduled": nodes,
                },
            }))
            .unwrap()
        };
        let masters = json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 3, "selector": {}, "template": {}, "volumeClaimTemplates": [
                {"spec": {"resources": {"requests": {"storage": "10Gi"}}}},
            ]},
            "status": {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3},
        });
        let worker = |address: &str| Worker {
            id: 1,
            address: address.to_owned(),
            alive: true,
            tiers: vec![Tier {
                medium: "SSD".to_owned(),
                quota: 10 << 30,
                used: 1 << 30,
                fault: None,
            }],
        };
        Case {
            cluster: cluster(),
            users: Vec::new(),
            view: View {
                following: [1, 2, 3].into(),
                quorum: Some(Quorum {
                    leader: 2,
                    term: 7,
                    members: (1..=3).map(|id| Member { id, voter: true }).collect(),
                }),
                workers: vec![worker("10.0.0.1:7100"), worker("10.0.0.2:7100")],
                ..View::default()
            },
            masters: Some(serde_json::from_value(masters).unwrap()),
            daemons: [
                ("gpu".to_owned(), daemon(2)),
                ("memory".to_owned(), daemon(0)),
            ]
            .into(),
            erasers: BTreeMap::new(),
            refused: false,
            pods: vec![
                pod("w1", "worker", &json!({"podIP": "10.0.0.1"})),
                pod("w2", "worker", &json!({"podIP": "10.0.0.2"})),
            ],
            claims: Vec::new(),
        }
    }
}

impl Case {
    fn plan(&self) -> Plan {
        plan(&Observed {
            cluster: &self.cluster,
            users: self.users.clone(),
            datasets: &[Key::new("ns", "there")].into(),
            seal: Some("S"),
            masters: self.masters.as_ref(),
            workers: self.daemons.iter().map(|(k, v)| (k.clone(), v)).collect(),
            erasers: self.erasers.iter().map(|(k, v)| (k.clone(), v)).collect(),
            pods: self.pods.iter().collect(),
            claims: self.claims.iter().collect(),
            not_grown: None,
            not_applied: self.refused.then(|| ("Forbidden", "not here".to_owned())),
            refused: self.refused,
            view: &self.view,
            image: "forebay:1",
            now: Timestamp::from_second(1000).unwrap(),
        })
    }

    fn deleted(mut self) -> Case {
        let mut value = serde_json::to_value(&self.cluster).unwrap();
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        value["metadata"]["finalizers"] = json!([FINALIZER]);
        self.cluster = serde_json::from_value(value).unwrap();
        self
    }
}

fn said(plan: &Plan) -> String {
    let of = |finding: &Finding| {
        let not = if finding.holds { "" } else { "!" };
        format!("{not}{}", finding.reason)
    };
    assert!(!condition::merge(&[], &plan.findings, None, Timestamp::UNIX_EPOCH).is_empty());
    plan.findings.iter().map(of).collect::<Vec<_>>().join(" ")
}

#[test]
fn conditions_say_what_is_the_matter() {
    let case = |change: &dyn Fn(&mut Case)| {
        let mut case = Case::default();
        change(&mut case);
        said(&case.plan())
    };
    assert_eq!(case(&|_| {}), "Serving !Settled !Healthy");
    assert_eq!(
        case(&|c| c.view.workers[1].alive = false),
        "Serving !Settled WorkersDown"
    );
    assert_eq!(
        case(&|c| c.view.workers.clear()),
        "!WorkersStarting !Settled !NotReady"
    );
    let served = |c: &mut Case| {
        let serving = [Finding::yes(condition::READY, "Serving", "")];
        let conditions = condition::merge(&[], &serving, None, Timestamp::UNIX_EPOCH);
        c.cluster.status = Some(CacheClusterStatus {
            conditions,
            ..CacheClusterStatus::default()
        });
        c.view.workers.clear();
    };
    assert_eq!(case(&served), "!NoWorkers !Settled !NotReady");
    let overlapping = |c: &mut Case| {
        let mut other = pod(
            "m1",
            "worker",
            &json!({"conditions": [
                {"type": "PodScheduled", "status": "False", "message": "anti-affinity"},
            ]}),
        );
        let labels = other.metadata.labels.as_mut().unwrap();
        labels.insert("forebay.io/group".to_owned(), "memory".to_owned());
        other.spec = serde_json::from_value(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
            ]},
        }}}))
        .unwrap();
        other.shrink();
        c.pods.push(other);
    };
    assert_eq!(case(&overlapping), "Serving !Settled GroupsOverlap");
    let alone = |c: &mut Case| {
        overlapping(c);
        c.daemons
            .insert("memory".to_owned(), c.daemons["gpu"].clone());
    };
    assert_eq!(case(&alone), "!GroupsOverlap !Settled !NotReady");
    let moved = |c: &mut Case| {
        overlapping(c);
        c.pods.last_mut().unwrap().spec.meant_for = Some("n2".to_owned());
    };
    assert_eq!(
        case(&moved),
        "Serving !Settled !Healthy",
        "another node is another matter"
    );
    let broken = |c: &mut Case| c.view.workers[0].tiers[0].fault = Some("disk".into());
    assert_eq!(case(&broken), "Serving !Settled TierFailed");
    let lost = |c: &mut Case| {
        c.view.following.remove(&3);
    };
    assert_eq!(case(&lost), "Serving !Settled MastersDown");
    let silent = |c: &mut Case| c.view.quorum = None;
    assert_eq!(case(&silent), "!MastersStarting !Settled !NotReady");
    let unplaced = |c: &mut Case| {
        c.view.quorum = None;
        let status = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]});
        c.pods.push(pod("m1", "master", &status));
    };
    assert_eq!(case(&unplaced), "!PodsUnschedulable !Settled !NotReady");
    let empty = |c: &mut Case| {
        c.daemons.remove("gpu");
    };
    assert_eq!(case(&empty), "!NoNodes Replacing !NotReady");
}

#[test]
fn the_status_counts_what_serves() {
    let mut case = Case::default();
    case.view.workers[1].alive = false;
    let status = case.plan().status;
    let masters = status.masters.unwrap();
    assert_eq!(
        (masters.ready, masters.leader.as_deref()),
        (3, Some("demo-master-2"))
    );
    assert_eq!(
        (status.workers[0].ready, status.workers[0].replicas),
        (1, 2)
    );
    assert_eq!(status.tiers[0].capacity_bytes, 10 << 30);
    assert_eq!(status.summary.unwrap().workers, "1/2");
}

#[test]
fn a_cluster_in_use_stays() {
    let user = ObjectRef {
        namespace: "a".into(),
        name: "b".into(),
    };
    let case = Case {
        users: vec![user],
        ..Case::default()
    }
    .deleted();
    let plan = case.plan();
    let blocked = plan.findings.last().unwrap();
    assert!(plan.finalizer && blocked.message.ends_with("a/b"));
    // Nobody is asked: whether masters are there does not count.
    let mut free = Case::default().deleted();
    free.view = View::default();
    free.erasers = [("gpu".to_owned(), free.daemons["memory"].clone())].into();
    assert!(!free.plan().finalizer);
}

#[test]
fn a_cluster_that_goes_erases_the_disks_of_nodes_before() {
    let mut case = Case::default().deleted();
    let plan = case.plan();
    assert!(plan.finalizer && plan.again.is_some());
    let applied = kept(&plan.apply.unwrap());
    let eraser = ("DaemonSet".to_owned(), "demo-eraser-gpu".to_owned());
    assert_eq!(applied, [eraser].into(), "all else goes");
    let mut set = case.daemons["gpu"].clone();
    set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(990).unwrap()));
    set.status.as_mut().unwrap().number_ready = 1;
    case.erasers = [("gpu".to_owned(), set.clone())].into();
    // A Dataset that comes now is too late.
    case.users = vec![ObjectRef {
        namespace: "a".into(),
        name: "b".into(),
    }];
    assert_eq!(case.plan().again, Some(Duration::from_secs(50)));
    set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(900).unwrap()));
    case.erasers = [("gpu".to_owned(), set)].into();
    let plan = case.plan();
    let (reason, note) = plan.note.unwrap();
    assert!(!plan.finalizer && reason == "NotErased", "{note}");
    assert!(
        note.starts_with("1 nodes have not answered within 60 s"),
        "{note}"
    );
}

#[test]
fn what_cannot_be_erased_does_not_keep_a_cluster() {
    let mut case = Case::default().deleted();
    case.refused = true;
    let plan = case.plan();
    assert!(!plan.finalizer);
    let (_, note) = plan.note.unwrap();
    assert!(note.starts_with("not here: what workers had"), "{note}");
}

#[test]
fn mounts_without_a_dataset_go_but_scratch_and_what_is_elsewhere() {
    let row = |uri: &str| Row {
        uri: uri.to_owned(),
        options: BTreeMap::new(),
        sync: "60s".parse().unwrap(),
        held: Held::Nothing,
    };
    let table: Table = [
        ("/ns/gone", "s3://b"),
        ("/ns/gone/in", "s3://c"),
        ("/ns/there", "s3://d"),
        ("/ns/work", "scratch:"),
        ("/by-hand", "s3://e"),
    ]
    .map(|(path, uri)| (path.to_owned(), row(uri)))
    .into();
    let mut case = Case::default();
    case.view.table = Arc::new(table);
    assert_eq!(case.plan().unmount, ["/ns/gone/in", "/ns/gone"]);
}

#[test]
fn claims_grow_and_the_template_stays() {
    let claim = |name: &str, size: &str| -> PersistentVolumeClaim {
        let metadata = json!({"name": name, "namespace": "ns"});
        let spec = json!({"resources": {"requests": {"storage": size}}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    };
    let case = Case {
        claims: vec![
            claim("data-demo-master-1", "10Gi"),
            claim("data-demo-master-2", "20Gi"),
        ],
        ..Case::default()
    };
    let plan = case.plan();
    assert_eq!(
        plan.grow,
        [(Key::new("ns", "data-demo-master-1"), "20Gi".to_owned())]
    );
    let size = "/spec/volumeClaimTemplates/0/spec/resources/requests/storage";
    let apply = plan.apply.unwrap();
    let set = apply.iter().find(|o| o["kind"] == "StatefulSet").unwrap();
    assert_eq!(set.pointer(size), Some(&json!("10Gi")));
}

/// An object that says nothing but what its type knows: what is misspelt would be lost.
fn typed<K: DeserializeOwned + Serialize>(object: &Value) {
    let known: K = serde_json::from_value(object.clone()).unwrap();
    let mut back = serde_json::to_value(known).unwrap();
    // A Service without a status and so on.
    if object.get("status").is_none() {
        back.as_object_mut().unwrap().remove("status");
    }
    assert_eq!(&back, object);
}

#[test]
fn objects_say_only_what_kubernetes_knows() {
    let objects = Case::default().plan().apply.unwrap();
    assert_eq!(objects.len(), 8);
    for object in &objects {
        match object["kind"].as_str().unwrap() {
            "StatefulSet" => typed::<StatefulSet>(object),
            "DaemonSet" => typed::<DaemonSet>(object),
            "ConfigMap" => typed::<ConfigMap>(object),
            "Service" => typed::<Service>(object),
            "PodDisruptionBudget" => typed::<PodDisruptionBudget>(object),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn workers_get_their_tiers() {
    let objects = Case::default().plan().apply.unwrap();
    let find = |kind: &str, name: &str| {
        let mut objects = objects.iter();
        objects
            .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
            .unwrap()
    };
    let set = find("DaemonSet", "demo-worker-gpu");
    let volumes = &set["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[1]["emptyDir"]["medium"], "Memory");
    assert_eq!(volumes[2]["hostPath"]["path"], "/mnt/nvme0/U");
    assert_eq!(volumes[5]["hostPath"]["path"], "/run/forebay/U");
    let limits = &set["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(
        limits["memory"], "2112Mi",
        "1 GiB, a tier of 1 GiB, and what that takes beside"
    );
    let toml = |name: &str| -> toml::Table {
        let text = find("ConfigMap", name)["data"]["worker.toml"]
            .as_str()
            .unwrap();
        text.parse().unwrap()
    };
    let file = toml("demo-worker-gpu");
    assert_eq!(
        file["data_dir"].as_str(),
        Some("/var/lib/forebay/tiers/1/worker")
    );
    assert_eq!(file["memory"].as_integer(), Some(512 << 20));
    assert_eq!(file["high_watermark"].as_float(), Some(0.95));
    assert_eq!(file["tiers"].as_array().unwrap().len(), 4);
    let file = toml("demo-worker-memory");
    assert_eq!(
        file["data_dir"].as_str(),
        Some("/var/lib/forebay/data/worker")
    );
    assert_eq!(file["eviction"].as_str(), Some("lru"));
}

#[test]
fn an_edit_replaces_pods_and_another_number_of_masters_does_not() {
    let hash = |change: &dyn Fn(&mut Case), kind: &str| {
        let mut case = Case::default();
        change(&mut case);
        let objects = case.plan().apply.unwrap();
        let object = objects.iter().find(|o| o["kind"] == kind).unwrap().clone();
        object
            .pointer("/spec/template/metadata/annotations")
            .unwrap()
            .clone()
    };
    let same = hash(&|_| {}, "StatefulSet");
    let five = |c: &mut Case| c.cluster.spec.masters.replicas = 5;
    assert_eq!(hash(&five, "StatefulSet"), same);
    let memory = |c: &mut Case| {
        let resources = json!({"limits": {"memory": "8Gi"}});
        c.cluster.spec.masters.pods.resources = serde_json::from_value(resources).unwrap();
    };
    assert_ne!(hash(&memory, "StatefulSet"), same);
    let lru = |c: &mut Case| c.cluster.spec.workers[0].eviction = forebay_crds::Eviction::Lru;
    assert_ne!(hash(&lru, "DaemonSet"), hash(&|_| {}, "DaemonSet"));
}
