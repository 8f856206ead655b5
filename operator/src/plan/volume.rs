//! The volume of a Dataset: a PersistentVolume, and the claim with the Dataset's name.

use crate::plan::name::{
    DATASET, DATASET_NAME, DATASET_NAMESPACE, DRIVER, Key, MANAGED_BY, MANAGER, Names, owner, root,
    texts,
};
use serde_json::{Value, json};

/// A volume has to have a size, and nothing goes by it; small, since it counts in quotas.
const SIZE: &str = "1Mi";

/// Who claims a Dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The claim.
    pub claim: Key,
    /// Tells the volume from others; opaque.
    pub handle: String,
}

/// Name of the PersistentVolume with a handle.
pub fn name(handle: &str) -> String {
    format!("forebay-{handle}")
}

/// The PersistentVolume of a Dataset (of that uid) for a claim.
pub fn volume(dataset: &Key, uid: &str, cluster: &Names, claimant: &Claimant) -> Value {
    let labels = [
        (MANAGED_BY, MANAGER),
        (DATASET, uid),
        (DATASET_NAMESPACE, &dataset.namespace),
        (DATASET_NAME, &dataset.name),
    ];
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name(&claimant.handle), "labels": texts(&labels)},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadOnlyMany"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claimant.claim.namespace,
                "name": claimant.claim.name,
            },
            "csi": {
                "driver": DRIVER,
                "volumeHandle": claimant.handle,
                "readOnly": true,
                "volumeAttributes": {
                    "cluster": cluster.uid,
                    "masters": cluster.addresses().join(","),
                    "path": root(dataset),
                },
            },
        },
    })
}

/// The claim with the Dataset's name. It does not name the volume, which names it: were both to name each other, two
/// workers of the controller manager would bind them at the same time, one of them would fail, and look again only after
/// a quarter of a minute.
pub fn claim(dataset: &Key, uid: &str) -> Value {
    let labels = [
        (MANAGED_BY, MANAGER),
        (DATASET, uid),
        (DATASET_NAME, &dataset.name),
    ];
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": dataset.name,
            "namespace": dataset.namespace,
            "labels": texts(&labels),
            "ownerReferences": [owner("Dataset", &dataset.name, uid)],
        },
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "volumeMode": "Filesystem",
            "storageClassName": "",
            "resources": {"requests": {"storage": SIZE}},
        },
    })
}
