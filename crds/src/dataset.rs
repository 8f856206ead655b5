//! Dataset: remote data as a directory.

use crate::{Access, Mount, Percent, Quantity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Remote data as a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "forebay.io",
    version = "v1alpha1",
    kind = "Dataset",
    namespaced,
    status = "DatasetStatus",
    derive = "PartialEq",
    shortname = "dset",
    category = "forebay",
    doc = "Remote data as a directory: one or more buckets, cached by a CacheCluster. Pods mount it by a PersistentVolumeClaim.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name: at most 63 characters"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether pods can read it."
    ),
    printcolumn(
        name = "Files",
        type_ = "integer",
        json_path = ".status.underStore.files",
        description = "Files in the under stores."
    ),
    printcolumn(
        name = "Size",
        type_ = "string",
        json_path = ".status.summary.size",
        description = "Bytes in the under stores."
    ),
    printcolumn(
        name = "Cached",
        type_ = "string",
        json_path = ".status.summary.cached",
        description = "How much of it is in the cache."
    ),
    printcolumn(
        name = "Hits",
        type_ = "string",
        json_path = ".status.summary.hits",
        description = "How many opens found their file whole in the cache."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name",
        description = "The CacheCluster that caches it.",
        priority = 1
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
pub struct DatasetSpec {
    /// The CacheCluster that caches it. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef cannot be changed: create another Dataset"))]
    pub cluster_ref: ClusterRef,
    /// What the Dataset shows: at least one under store, at most 64, each at a path of its own.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub mounts: Vec<Mount>,
    /// Which other namespaces may have claims of this Dataset. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// A CacheCluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ClusterRef {
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Its namespace; it must grant the use in `spec.access`. Default: the namespace of the Dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What was observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetStatus {
    /// The `metadata.generation` that the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: pods can read it. `Progressing`: an edit is being carried out. `Degraded`: it can be read, but
    /// something is broken. The message says which mount it is and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What the under stores hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_store: Option<UnderStoreStatus>,
    /// What the cache holds of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheStatus>,
    /// How it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens: Option<OpensStatus>,
    /// The same for people, as `kubectl get` shows it; not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<DatasetSummary>,
}

/// What the under stores hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct UnderStoreStatus {
    /// Files that are known.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether every directory was listed. Until then there are more files than these.
    pub complete: bool,
    /// When the last comparison with a store ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,
}

/// What the cache holds of a Dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct CacheStatus {
    /// Bytes of the Dataset that are in the cache, each counted once, on however many nodes it is.
    pub unique_bytes: u64,
    /// Bytes that further copies take up.
    pub replica_bytes: u64,
    /// How much of the under stores is in the cache, in percent, rounded down. Absent as long as not everything
    /// was listed, and if there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<Percent>,
}

impl CacheStatus {
    /// What the cache holds of an under store.
    pub fn new(unique_bytes: u64, replica_bytes: u64, of: &UnderStoreStatus) -> CacheStatus {
        CacheStatus {
            unique_bytes,
            replica_bytes,
            percent: Percent::of(unique_bytes, of.bytes).filter(|_| of.complete),
        }
    }

    /// How much of the under store that is.
    pub fn percent(&self) -> Option<Percent> {
        self.percent
    }
}

/// How a Dataset was read since the workers started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct OpensStatus {
    /// Files that pods opened.
    pub count: u64,
    /// How many of them were whole in the cache of the node.
    pub hits: u64,
    /// Hits of all, in percent, rounded down. Absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hit_percent: Option<Percent>,
}

impl OpensStatus {
    /// `hits` of `count` opens.
    pub fn new(count: u64, hits: u64) -> OpensStatus {
        OpensStatus {
            count,
            hits,
            hit_percent: Percent::of(hits, count),
        }
    }

    /// Hits of all.
    pub fn hit_percent(&self) -> Option<Percent> {
        self.hit_percent
    }
}

/// A status for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct DatasetSummary {
    /// Bytes in the under stores: `138Gi`, or `>138Gi` as long as not everything was listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// How much of it is in the cache: `96%`; bytes, such as `12.4Gi`, as long as not everything was listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<String>,
    /// How many opens found their file whole in the cache: `99%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<String>,
}

impl DatasetSummary {
    /// The summary of the rest of `status`.
    pub fn of(status: &DatasetStatus) -> DatasetSummary {
        let size = |store: &UnderStoreStatus| {
            let more = if store.complete { "" } else { ">" };
            format!("{more}{}", Quantity::rounded(store.bytes))
        };
        let cached = |cache: &CacheStatus| match cache.percent {
            Some(percent) => percent.to_string(),
            None => Quantity::rounded(cache.unique_bytes),
        };
        let hits = status.opens.as_ref().and_then(OpensStatus::hit_percent);
        DatasetSummary {
            size: status.under_store.as_ref().map(size),
            cached: status.cache.as_ref().map(cached),
            hits: hits.map(|percent| percent.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_of_what_is_known_to_be_all() {
        let store = |complete| UnderStoreStatus {
            files: 3,
            bytes: 1 << 30,
            complete,
            last_sync_time: None,
        };
        let status = |complete, unique| DatasetStatus {
            under_store: Some(store(complete)),
            cache: Some(CacheStatus::new(unique, 0, &store(complete))),
            opens: Some(OpensStatus::new(3, 2)),
            ..DatasetStatus::default()
        };
        let summary = |status: &DatasetStatus| {
            let summary = DatasetSummary::of(status);
            [summary.size, summary.cached, summary.hits].map(Option::unwrap_or_default)
        };
        assert_eq!(summary(&status(true, 1 << 29)), ["1.00Gi", "50%", "66%"]);
        assert_eq!(summary(&status(true, 1 << 31)), ["1.00Gi", "100%", "66%"]);
        assert_eq!(
            summary(&status(false, 1 << 29)),
            [">1.00Gi", "512Mi", "66%"]
        );
        assert_eq!(summary(&DatasetStatus::default()), ["", "", ""]);
    }
}
