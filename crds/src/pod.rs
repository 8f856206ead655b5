//! Settings of pods that the user decides on.

use crate::{Quantity, quantity::cores, schema};
use kube::{
    KubeSchema,
    core::{Message, Rule},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where pods may run and what they get there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// Labels that a node must have, such as `{node.kubernetes.io/instance-type: i4i.4xlarge}`. Default: none,
    /// every node will do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods put up with, as in a pod. Default: none but those that Kubernetes adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Vec<Toleration>,
    /// Name of the PriorityClass of the pods. Default: the cluster's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Cores and memory of each pod, as in a pod. The memory budget of the process follows the memory limit.
    /// Default: chosen by the operator; the pods show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    schema::texts(63)
}

/// Cores and memory, requested and at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = within_limits("cpu"), validation = within_limits("memory"))]
pub struct Resources {
    /// What the scheduler sets aside on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceList>,
    /// The most that a pod can use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceList>,
}

/// Rule of resources: no more of `what` is requested than can be used.
fn within_limits(what: &str) -> Rule {
    let [requested, limit] = ["requests", "limits"].map(|list| format!("self.{list}.{what}"));
    Rule::new(format!(
        "!has(self.requests) || !has(self.limits) || !has({requested}) || !has({limit}) || !isQuantity({requested}) || !isQuantity({limit}) || quantity({requested}).compareTo(quantity({limit})) <= 0"
    ))
    .message(Message::Message(format!(
        "requests.{what} is more than limits.{what}"
    )))
}

/// Cores and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceList {
    /// Cores, such as `2` (in quotes), `1.5` or `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "cores")]
    pub cpu: Option<String>,
    /// Memory in bytes, such as `512Mi` or `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// A taint, or several, that a pod puts up with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.operator == 'Equal' ? has(self.key) : !has(self.value)")
        .message("operator Equal needs a key, operator Exists takes no value"),
    validation = Rule::new("!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')")
        .message("tolerationSeconds goes with effect NoExecute"),
)]
pub struct Toleration {
    /// Key of the taint, such as `nvidia.com/gpu`. Absent with operator Exists: every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 316))]
    pub key: Option<String>,
    /// `Equal`: the taint has this `value`; `Exists`: whatever its value is. Default: Equal.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value of the taint, with operator Equal. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint: `NoSchedule`, `PreferNoSchedule` or `NoExecute`. Absent: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// For how many seconds after a NoExecute taint appeared the pod stays. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TolerationOperator {
    /// The taint has the value.
    #[default]
    Equal,
    /// The taint is there, whatever its value is.
    Exists,
}

/// Effect of the taint: `NoSchedule`, `PreferNoSchedule` or `NoExecute`. Absent: every effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TaintEffect {
    /// No new ones come.
    NoSchedule,
    /// New ones come only if there is no other place.
    PreferNoSchedule,
    /// No new ones come, and those that are there go.
    NoExecute,
}
