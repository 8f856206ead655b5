//! The volumes of a Dataset: PersistentVolumes, and the claim with the Dataset's name.

use crate::plan::name::{
    DATASET, DATASET_NAME, DATASET_NAMESPACE, DRIVER, Key, MANAGED_BY, MANAGER, Names, owner, root,
    texts,
};
use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};

/// A volume has to have a size, and nothing goes by it; small, since it counts in quotas.
const SIZE: &str = "1Mi";

/// Who claims a Dataset, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The claim.
    pub claim: Key,
    /// Its uid, if no other claim of the name is to have the volume.
    pub uid: Option<String>,
    /// Tells the volume from others; opaque.
    pub handle: String,
    /// The directory of the Dataset that it shows; none: all.
    pub sub_path: Option<String>,
    /// What the claim says of storage, for the volume to satisfy it: its class …
    pub class: String,
    /// … and its size.
    pub size: String,
}

impl Claimant {
    /// The claim with the Dataset's name.
    pub fn own(dataset: &Key, uid: &str) -> Claimant {
        Claimant {
            claim: dataset.clone(),
            uid: None,
            handle: uid.to_owned(),
            sub_path: None,
            class: String::new(),
            size: SIZE.to_owned(),
        }
    }
}

/// Name of the PersistentVolume with a handle.
pub fn name(handle: &str) -> String {
    format!("forebay-{handle}")
}

/// The handle of a PersistentVolume.
pub fn handle(volume: &PersistentVolume) -> Option<&str> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some(&csi.volume_handle)
}

/// The PersistentVolume of a Dataset (of that uid) for a claim.
pub fn volume(dataset: &Key, uid: &str, cluster: &Names, claimant: &Claimant) -> Value {
    let labels = [
        (MANAGED_BY, MANAGER),
        (DATASET, uid),
        (DATASET_NAMESPACE, &dataset.namespace),
        (DATASET_NAME, &dataset.name),
    ];
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": claimant.claim.namespace,
        "name": claimant.claim.name,
    });
    if let Some(uid) = &claimant.uid {
        claim["uid"] = json!(uid);
    }
    let mut attributes = json!({
        "cluster": cluster.uid,
        "masters": cluster.addresses().join(","),
        "path": root(dataset),
    });
    if let Some(path) = &claimant.sub_path {
        attributes["subPath"] = json!(path);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name(&claimant.handle), "labels": texts(&labels)},
        "spec": {
            "capacity": {"storage": claimant.size},
            "accessModes": ["ReadOnlyMany"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": claimant.class,
            "claimRef": claim,
            "csi": {
                "driver": DRIVER,
                "volumeHandle": claimant.handle,
                "readOnly": true,
                "volumeAttributes": attributes,
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
