//! A group of workers: DaemonSet and ConfigMap.

use crate::plan::{
    config::{self, WORKER_SOCKET},
    name::{CLUSTER, COMPONENT, GROUP, Names, WORKER_PORTS},
    pod::Daemon,
};
use forebay_crds::{CacheCluster, Medium, Tier, WorkerGroup};
use serde_json::{Value, json};

/// Component of workers in labels.
pub const WORKER: &str = "worker";
/// Where the worker keeps its identity and index if all its tiers are memory.
const OWN_DATA: &str = "/var/lib/forebay/data";
/// What a tier in memory takes beside its quota, in bytes: names, and files that are being written.
const MEMORY_MORE: u64 = 64 << 20;

/// Where the tier of that number is mounted.
pub fn tier_dir(number: usize) -> String {
    format!("/var/lib/forebay/tiers/{number}")
}

/// Where the worker's own directory goes: a disk that outlives the pod, if there is one.
pub fn data_dir(group: &WorkerGroup) -> String {
    let mut tiers = group.tiers.iter();
    let first = tiers.position(|tier| tier.medium != Medium::Mem);
    first.map_or(OWN_DATA.to_owned(), tier_dir)
}

/// ConfigMap and DaemonSet of a group, in the order in which they are applied.
pub fn objects(cluster: &CacheCluster, group: &WorkerGroup, image: &str) -> [Value; 2] {
    let names = Names::of(cluster);
    let name = names.worker(&group.name);
    let mut labels = names.labels(WORKER);
    labels.insert(GROUP.to_owned(), json!(group.name));
    let mut selector = names.selector(WORKER);
    selector.insert(GROUP.to_owned(), json!(group.name));
    let file = config::worker(&names, group);
    let [grpc, _] = WORKER_PORTS;
    let in_memory = group.tiers.iter().filter(|t| t.medium == Medium::Mem);
    let memory_volumes = in_memory.map(|tier| tier.quota.bytes() + MEMORY_MORE).sum();
    let tiers = group.tiers.iter().enumerate();
    let mut volumes: Vec<Value> = tiers.map(|(n, tier)| volume(&names, n, tier)).collect();
    let mut mounts: Vec<Value> = (0..group.tiers.len())
        .map(|n| json!({"name": format!("tier-{n}"), "mountPath": tier_dir(n)}))
        .collect();
    if data_dir(group) == OWN_DATA {
        volumes.push(json!({"name": "data", "emptyDir": {}}));
        mounts.push(json!({"name": "data", "mountPath": OWN_DATA}));
    }
    volumes.push(json!({"name": "run", "hostPath": {
        "path": format!("/run/forebay/{}", names.uid),
        "type": "DirectoryOrCreate",
    }}));
    let run = WORKER_SOCKET.rsplit_once('/').map_or("/", |(dir, _)| dir);
    mounts.push(json!({"name": "run", "mountPath": run}));
    let daemon = Daemon {
        name: "worker",
        image,
        ports: WORKER_PORTS,
        settings: &group.pods,
        memory_volumes,
        env: json!([
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            {"name": "FOREBAY_ADVERTISE", "value": format!("$(POD_IP):{grpc}")},
        ]),
        mounts,
        volumes,
        // The directories of the host are root's; it gets no capability, so it can do no more than their owner.
        security: json!({"runAsUser": 0, "runAsGroup": 0}),
        // A node has one worker of a cluster: two would share its socket.
        affinity: json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchExpressions": [
                {"key": CLUSTER, "operator": "In", "values": [names.uid]},
                {"key": COMPONENT, "operator": "In", "values": [WORKER]},
                {"key": GROUP, "operator": "NotIn", "values": [group.name]},
            ]},
        }]}}),
        config_map: name.clone(),
        config_hash: file.hash,
    };
    [
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": names.metadata(&name, &labels),
            "data": {"worker.toml": file.text},
        }),
        json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": names.metadata(&name, &labels),
            "spec": {
                "selector": {"matchLabels": selector},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
                "template": daemon.template(&names, &labels),
            },
        }),
    ]
}

fn volume(names: &Names, number: usize, tier: &Tier) -> Value {
    let name = format!("tier-{number}");
    if let Some(path) = &tier.host_path {
        return json!({"name": name, "hostPath": {
            "path": format!("{}/{}", path.trim_end_matches('/'), names.uid),
            "type": "DirectoryOrCreate",
        }});
    }
    if let Some(claim) = &tier.volume_claim {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": tier.quota.to_string()}},
        });
        if let Some(class) = &claim.storage_class_name {
            spec["storageClassName"] = json!(class);
        }
        return json!({"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": spec}}});
    }
    if tier.medium == Medium::Mem {
        let most = tier.quota.bytes() + MEMORY_MORE;
        return json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": most.to_string()}});
    }
    json!({"name": name, "emptyDir": {}})
}
