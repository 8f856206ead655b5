//! Cache tiers of a worker.

use crate::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a tier is made of, fastest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub enum Medium {
    /// Memory.
    Mem,
    /// Flash.
    Ssd,
    /// Spinning disk.
    Hdd,
}

/// A part of the cache of each worker: so much of one medium. A tier of medium MEM needs no more; one of SSD
/// or HDD says where it lies: `hostPath`, `emptyDir` or `volumeClaim`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.medium != 'MEM' || !(has(self.hostPath) || has(self.emptyDir) || has(self.volumeClaim))")
        .message("a MEM tier lies in memory: remove hostPath, emptyDir and volumeClaim"),
    validation = Rule::new("self.medium == 'MEM' || [has(self.hostPath), has(self.emptyDir), has(self.volumeClaim)].exists_one(given, given)")
        .message("say where the tier lies: one of hostPath, emptyDir and volumeClaim"),
    validation = Rule::new("!isQuantity(self.quota) || quantity(self.quota).compareTo(quantity('64Mi')) >= 0")
        .message("quota: at least 64Mi"),
)]
pub struct Tier {
    /// What it is made of: `MEM`, `SSD` or `HDD`. Files begin in the fastest one that has room.
    pub medium: Medium,
    /// Most bytes to hold, per worker: at least 64Mi, such as `500Gi`. A MEM tier counts as memory of the worker's
    /// pod, beside `resources`.
    pub quota: Quantity,
    /// Directory of the node on that medium, such as `/mnt/nvme0`; it is made if it is not there. The cluster
    /// keeps its files in a directory of its own below it, and they stay when pods are replaced. Not on overlayfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(r"self.matches('^(/[^/]+)+$') && !self.matches('/[.][.]?(/|$)') && !self.matches('^/(proc|sys|dev)(/|$)')")
        .message("an absolute path without . and .., such as /var/lib/forebay; not / and not below /proc, /sys or /dev"))]
    pub host_path: Option<String>,
    /// `{}`: the disk of the node's pods. The cache is lost whenever the worker's pod is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// A volume of its own for every worker's pod, with the size of `quota`. It is claimed when the pod comes and
    /// deleted with it, and the cache, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim: Option<VolumeClaim>,
}

/// Nothing to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EmptyDir {}

/// Where a volume comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct VolumeClaim {
    /// Its StorageClass; use one of local disks. Default: the default one of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}
