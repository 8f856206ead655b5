//! CacheCluster: masters and workers.

use crate::{Access, Medium, ObjectRef, Percent, PodSettings, Quantity, Tier};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Masters and workers of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "forebay.io",
    version = "v1alpha1",
    kind = "CacheCluster",
    namespaced,
    status = "CacheClusterStatus",
    derive = "PartialEq",
    shortname = "cc",
    category = "forebay",
    doc = "A cache of remote data on the disks and in the memory of nodes: masters that know the files, and workers that hold their bytes. Datasets say what it caches.",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: at most 40 lower-case letters, digits and -, beginning with a letter: names of Services are made of it"),
    scale(
        spec_replicas_path = ".spec.masters.replicas",
        status_replicas_path = ".status.masters.replicas",
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether masters and workers serve."
    ),
    printcolumn(
        name = "Masters",
        type_ = "string",
        json_path = ".status.summary.masters",
        description = "Masters that serve, of those that there should be."
    ),
    printcolumn(
        name = "Workers",
        type_ = "string",
        json_path = ".status.summary.workers",
        description = "Workers that serve, of those that there should be."
    ),
    printcolumn(
        name = "Capacity",
        type_ = "string",
        json_path = ".status.summary.capacity",
        description = "Bytes that the workers can hold."
    ),
    printcolumn(
        name = "Used",
        type_ = "string",
        json_path = ".status.summary.used",
        description = "How much of the capacity is in use."
    ),
    printcolumn(
        name = "Datasets",
        type_ = "integer",
        json_path = ".status.usedBy.count",
        description = "Datasets that refer to it."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not.",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CacheClusterSpec {
    /// Image of masters and workers, such as `registry.example/forebay:0.1.0`. Changed: masters and workers are
    /// replaced one by one. Default: the image that the operator was released with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The masters. Default: one, with 10Gi of the default StorageClass.
    #[serde(default)]
    pub masters: Masters,
    /// Groups of workers, each with nodes and tiers of its own; one worker runs on every node that a group
    /// selects. Groups must select different nodes: condition `Degraded` names a node that two select.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub workers: Vec<WorkerGroup>,
    /// Which other namespaces may have Datasets in this cluster. Default: none. See `Dataset.spec.clusterRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// The processes that know the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Masters {
    /// How many: `1`, `3` or `5`. Of three one may fail, of five two. Can be changed while pods read. Default: 1.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self in [1, 3, 5]").message("1, 3 or 5 masters: an even number bears no more failures than the odd one below it"))]
    pub replicas: u32,
    /// The volume of each master: journal and metadata, about 1 KiB for every file. Default: 10Gi of the
    /// default StorageClass.
    #[serde(default)]
    pub storage: MasterStorage,
    /// Where they run and what they get.
    #[serde(flatten)]
    pub pods: PodSettings,
}

impl Default for Masters {
    fn default() -> Masters {
        Masters {
            replicas: one(),
            storage: MasterStorage::default(),
            pods: PodSettings::default(),
        }
    }
}

fn one() -> u32 {
    1
}

/// The volume of a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storageClassName cannot be changed: back up, and restore into a new CacheCluster"),
)]
pub struct MasterStorage {
    /// Its size, at least 1Gi. Can grow where the StorageClass lets volumes grow, and never shrink. Default: 10Gi.
    #[serde(default = "ten_gibibytes")]
    #[x_kube(
        validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity('1Gi')) >= 0").message("at least 1Gi"),
        validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a volume cannot shrink"),
    )]
    pub size: Quantity,
    /// Its StorageClass; `""` binds volumes that exist already. Cannot be changed. Default: the default one of
    /// the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for MasterStorage {
    fn default() -> MasterStorage {
        MasterStorage {
            size: ten_gibibytes(),
            storage_class_name: None,
        }
    }
}

fn ten_gibibytes() -> Quantity {
    "10Gi".parse().expect("a size")
}

/// Workers that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerGroup {
    /// Name of the group: at most 20 lower-case letters, digits and `-`, such as `default` or `gpu`.
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("lower-case letters, digits and -, beginning with a letter, such as gpu"))]
    pub name: String,
    /// Where the cache lies: at least one tier. Changed: workers are replaced one by one; files in directories
    /// that remain are kept.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(a, !has(a.hostPath) || self.filter(b, has(b.hostPath) && (b.hostPath + '/').startsWith(a.hostPath + '/')).size() == 1)")
            .message("two tiers share a directory: give each a hostPath of its own, none inside another"),
    )]
    pub tiers: Vec<Tier>,
    /// What goes first when a tier is full: `LRU` (least recently used), `LFU` (least frequently used) or `S3FIFO`
    /// (queues; withstands scans). Default: S3FIFO.
    #[serde(default)]
    pub eviction: Eviction,
    /// When eviction begins and ends. Default: 95 and 90.
    #[serde(default)]
    pub watermarks: Watermarks,
    /// Which nodes it has and what its pods get.
    #[serde(flatten)]
    pub pods: PodSettings,
}

/// An eviction policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub enum Eviction {
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO.
    #[default]
    S3Fifo,
}

/// When eviction begins and ends, in percent of a tier's quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.low < self.high").message("low must be less than high"))]
pub struct Watermarks {
    /// Eviction begins above it: 2 to 100. Default: 95.
    #[serde(default = "high")]
    #[schemars(range(min = 2, max = 100))]
    pub high: u8,
    /// Eviction ends below it: 1 to 99. Default: 90.
    #[serde(default = "low")]
    #[schemars(range(min = 1, max = 99))]
    pub low: u8,
}

impl Default for Watermarks {
    fn default() -> Watermarks {
        Watermarks {
            high: high(),
            low: low(),
        }
    }
}

fn high() -> u8 {
    95
}

fn low() -> u8 {
    90
}

/// What was observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheClusterStatus {
    /// The `metadata.generation` that the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: masters and workers serve. `Progressing`: an edit is being carried out. `Degraded`: it serves, but
    /// something is broken. `DeletionBlocked`: it is to be deleted, but Datasets refer to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The masters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masters: Option<MastersStatus>,
    /// The workers of each group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub workers: Vec<WorkerGroupStatus>,
    /// All tiers of each medium together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["medium".into()]))]
    pub tiers: Vec<TierStatus>,
    /// The Datasets that refer to it. While there are any, it is not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<UsedBy>,
    /// The same for people, as `kubectl get` shows it; not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<CacheClusterSummary>,
}

/// Masters that were observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct MastersStatus {
    /// How many there should be.
    pub replicas: u32,
    /// How many of them serve.
    pub ready: u32,
    /// The pod of the one that leads. Absent: none does; nothing can be changed until one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The raft term: how often a leader was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
}

/// Workers of a group that were observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct WorkerGroupStatus {
    /// Name of the group.
    pub name: String,
    /// How many there should be: the nodes that the group selects.
    pub replicas: u32,
    /// How many of them serve.
    pub ready: u32,
}

/// All tiers of a medium, over all workers that serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct TierStatus {
    /// `MEM`, `SSD` or `HDD`.
    pub medium: Medium,
    /// Bytes that they can hold.
    pub capacity_bytes: u64,
    /// Bytes that they hold.
    pub used_bytes: u64,
}

/// Who refers to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsedBy {
    /// How many.
    count: u32,
    /// The first of them by namespace and name, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into(), "name".into()]))]
    first: Vec<ObjectRef>,
}

impl UsedBy {
    /// All of them, in any order.
    pub fn new(mut users: Vec<ObjectRef>) -> UsedBy {
        users.sort();
        users.dedup();
        let count = users.len() as u32;
        users.truncate(100);
        UsedBy {
            count,
            first: users,
        }
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The first of them by namespace and name, at most 100.
    pub fn first(&self) -> &[ObjectRef] {
        &self.first
    }
}

/// A status for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct CacheClusterSummary {
    /// Masters that serve, of those that there should be: `3/3`.
    pub masters: String,
    /// Workers that serve, of those that there should be: `12/12`.
    pub workers: String,
    /// Bytes that the workers can hold: `1.20Ti`.
    pub capacity: String,
    /// How much of it is in use: `87%`. Absent: there is nothing that could be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
}

impl CacheClusterSummary {
    /// The summary of the rest of `status`.
    pub fn of(status: &CacheClusterStatus) -> CacheClusterSummary {
        let masters = status.masters.clone().unwrap_or_default();
        let sum =
            |count: fn(&WorkerGroupStatus) -> u32| status.workers.iter().map(count).sum::<u32>();
        let capacity = status.tiers.iter().map(|t| t.capacity_bytes).sum();
        let used = status.tiers.iter().map(|t| t.used_bytes).sum();
        CacheClusterSummary {
            masters: format!("{}/{}", masters.ready, masters.replicas),
            workers: format!("{}/{}", sum(|g| g.ready), sum(|g| g.replicas)),
            capacity: Quantity::rounded(capacity),
            used: Percent::of(used, capacity).map(|percent| percent.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_adds_up() {
        let status = CacheClusterStatus {
            masters: Some(MastersStatus {
                replicas: 3,
                ready: 2,
                ..MastersStatus::default()
            }),
            workers: [("a", 4, 4), ("b", 2, 1)]
                .map(|(name, replicas, ready)| WorkerGroupStatus {
                    name: name.to_owned(),
                    replicas,
                    ready,
                })
                .into(),
            tiers: [(Medium::Mem, 1, 1), (Medium::Ssd, 3, 2)]
                .map(|(medium, capacity, used)| TierStatus {
                    medium,
                    capacity_bytes: capacity << 40,
                    used_bytes: used << 40,
                })
                .into(),
            ..CacheClusterStatus::default()
        };
        let text = |text: &str| text.to_owned();
        let expected = CacheClusterSummary {
            masters: text("2/3"),
            workers: text("5/6"),
            capacity: text("4.00Ti"),
            used: Some(text("75%")),
        };
        assert_eq!(CacheClusterSummary::of(&status), expected);
        let nothing = CacheClusterSummary::of(&CacheClusterStatus::default());
        assert_eq!((nothing.masters, nothing.used), (text("0/0"), None));
    }

    #[test]
    fn users_are_counted_all_and_named_in_part() {
        let user = |n: u32| ObjectRef {
            namespace: format!("ns-{:03}", n % 150),
            name: "d".to_owned(),
        };
        let used = UsedBy::new((0..300).rev().map(user).collect());
        assert_eq!((used.count(), used.first().len()), (150, 100));
        assert_eq!(used.first()[99], user(99));
    }
}
