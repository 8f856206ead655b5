//! The masters: StatefulSet, Service, PodDisruptionBudget, ConfigMap.

use crate::plan::{
    config,
    name::{COMPONENT, MASTER_PORTS, Names},
    pod::{Daemon, NOBODY},
};
use forebay_crds::CacheCluster;
use serde_json::{Value, json};

/// Component of masters in labels.
pub const MASTER: &str = "master";
/// Their volume.
pub const DATA: &str = "data";

/// Everything but the Secret, in the order in which it is applied.
///
/// `replicas` may differ from the specification while the quorum changes; `size` is that of the volumes at the
/// time when the StatefulSet was made: it cannot be changed there.
pub fn objects(cluster: &CacheCluster, image: &str, replicas: u32, size: &str) -> Vec<Value> {
    let names = Names::of(cluster);
    let labels = names.labels(MASTER);
    let masters = &cluster.spec.masters;
    let file = config::master(&names, replicas, &masters.pods);
    let [grpc, http] = MASTER_PORTS;
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": size}},
    });
    if let Some(class) = &masters.storage.storage_class_name {
        claim["storageClassName"] = json!(class);
    }
    let daemon = Daemon {
        name: "master",
        image,
        ports: MASTER_PORTS,
        settings: &masters.pods,
        memory_volumes: 0,
        env: json!([{
            "name": "FOREBAY_ID",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}},
        }]),
        mounts: vec![json!({"name": DATA, "mountPath": config::MASTER_DATA})],
        volumes: Vec::new(),
        security: json!({
            "runAsNonRoot": true,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "fsGroup": NOBODY,
            "fsGroupChangePolicy": "OnRootMismatch",
        }),
        affinity: json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": names.selector(MASTER)},
            },
        }]}}),
        config_map: names.master(),
        config_hash: file.hash,
    };
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": names.metadata(&names.master(), &labels),
            "data": {"master.toml": file.text},
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": names.metadata(&names.masters(), &labels),
            "spec": {
                "clusterIP": "None",
                // They must find each other before any of them serves.
                "publishNotReadyAddresses": true,
                "selector": names.selector(MASTER),
                "ports": [
                    {"name": "grpc", "port": grpc, "targetPort": grpc, "protocol": "TCP"},
                    {"name": "http", "port": http, "targetPort": http, "protocol": "TCP"},
                ],
            },
        }),
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": names.metadata(&names.master(), &labels),
            "spec": {
                // One may always go: of a single master, or its node could never be drained.
                "maxUnavailable": (replicas.saturating_sub(1) / 2).max(1),
                "selector": {"matchLabels": names.selector(MASTER)},
            },
        }),
        json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": names.metadata(&names.master(), &labels),
            "spec": {
                "replicas": replicas,
                "ordinals": {"start": 1},
                "serviceName": names.masters(),
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": names.selector(MASTER)},
                // A master that left the quorum must not come back with the disk that it had there.
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
                "template": daemon.template(&names, &labels),
                "volumeClaimTemplates": [{
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": DATA, "labels": {
                        crate::plan::name::MANAGED_BY: crate::plan::name::MANAGER,
                        crate::plan::name::CLUSTER: names.uid,
                        COMPONENT: MASTER,
                        "app.kubernetes.io/instance": names.key.name,
                    }},
                    "spec": claim,
                }],
            },
        }),
    ]
}
