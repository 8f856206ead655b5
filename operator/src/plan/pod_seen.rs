//! As much of a pod as the operator needs to know. Whole ones are never kept.

use crate::plan::name::{CLUSTER, COMPONENT, GROUP, WORKER_PORTS};
use k8s_openapi::{
    api::core::v1::{Affinity, ContainerStatus, PodCondition},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use std::borrow::Cow;

/// A pod as it is watched: other fields are dropped as they come in.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodSeen {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// A part of its specification.
    #[serde(default)]
    pub spec: SpecSeen,
    /// A part of its status.
    #[serde(default)]
    pub status: StatusSeen,
}

/// A part of a pod's specification.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecSeen {
    /// Its node.
    #[serde(default)]
    pub node_name: Option<String>,
    /// The node that its DaemonSet made it for; also before it is scheduled.
    #[serde(skip)]
    pub meant_for: Option<String>,
    /// Where that is said; dropped.
    #[serde(default)]
    affinity: Option<Affinity>,
}

/// A part of a pod's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusSeen {
    /// Its address.
    #[serde(default, rename = "podIP")]
    pub pod_ip: Option<String>,
    /// Its conditions.
    #[serde(default)]
    pub conditions: Vec<PodCondition>,
    /// Its containers.
    #[serde(default)]
    pub container_statuses: Vec<ContainerStatus>,
}

impl Resource for PodSeen {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl PodSeen {
    /// The uid of its CacheCluster.
    pub fn cluster(&self) -> Option<&str> {
        self.labels().get(CLUSTER).map(String::as_str)
    }

    /// Master or worker.
    pub fn component(&self) -> &str {
        self.labels().get(COMPONENT).map_or("", String::as_str)
    }

    /// Where it serves as a worker.
    pub fn worker_address(&self) -> Option<String> {
        let [grpc, _] = WORKER_PORTS;
        let ip = self.status.pod_ip.as_deref()?;
        Some(format!("{ip}:{grpc}"))
    }

    /// Its group of workers.
    pub fn group(&self) -> &str {
        self.labels().get(GROUP).map_or("", String::as_str)
    }

    /// What keeps it from running: reason, and what there is to say.
    pub fn trouble(&self) -> Option<(&'static str, String)> {
        let unscheduled = |c: &&PodCondition| c.type_ == "PodScheduled" && c.status == "False";
        if let Some(condition) = self.status.conditions.iter().find(unscheduled) {
            let message = condition.message.clone().unwrap_or_default();
            return Some(("PodsUnschedulable", message));
        }
        self.status.container_statuses.iter().find_map(trouble_of)
    }

    /// Its node, or the one that it waits for.
    pub fn node(&self) -> Option<&str> {
        let spec = &self.spec;
        spec.node_name.as_deref().or(spec.meant_for.as_deref())
    }

    /// Forgets what is not needed.
    pub fn shrink(&mut self) {
        self.spec.meant_for = self.spec.affinity.take().and_then(meant_for);
        self.metadata.managed_fields = None;
        self.metadata.annotations = None;
        self.status.conditions.retain(|c| c.type_ == "PodScheduled");
    }
}

fn meant_for(affinity: Affinity) -> Option<String> {
    let required = affinity
        .node_affinity?
        .required_during_scheduling_ignored_during_execution?;
    let terms = required.node_selector_terms.into_iter();
    let mut fields = terms.flat_map(|term| term.match_fields.unwrap_or_default());
    let name = fields.find(|field| field.key == "metadata.name")?;
    name.values?.into_iter().next()
}

fn trouble_of(container: &ContainerStatus) -> Option<(&'static str, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = match waiting.reason.as_deref()? {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            "ImageNotPulled"
        }
        "CrashLoopBackOff" => "PodsCrashing",
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            "PodsNotStarting"
        }
        _ => return None,
    };
    let last = container
        .last_state
        .as_ref()
        .and_then(|s| s.terminated.as_ref());
    // The last line is where a process says why it ends.
    let last = last.and_then(|t| t.message.as_deref()?.trim_end().lines().next_back());
    let said = last.or(waiting.message.as_deref()).unwrap_or_default();
    Some((reason, said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_in_the_words_of_who_has_it() {
        let of = |status: &str| {
            let pod = format!(r#"{{"metadata": {{}}, "spec": {{}}, "status": {status}}}"#);
            serde_json::from_str::<PodSeen>(&pod).unwrap().trouble()
        };
        let container = |state: &str, last: &str| {
            format!(
                r#"{{"containerStatuses": [{{"name": "m", "ready": false, "restartCount": 1, "image": "i", "imageID": "",
                    "state": {state}, "lastState": {last}}}]}}"#
            )
        };
        assert_eq!(of(r#"{"phase": "Running"}"#), None);
        let pending = r#"{"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}"#;
        assert_eq!(of(pending), Some(("PodsUnschedulable", "0/3 nodes".into())));
        let pull = container(
            r#"{"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}"#,
            "{}",
        );
        assert_eq!(of(&pull), Some(("ImageNotPulled", "no such image".into())));
        let crash = container(
            r#"{"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}"#,
            r#"{"terminated": {"exitCode": 1, "message": "log\nerror: disk has only 1 GiB\n"}}"#,
        );
        assert_eq!(
            of(&crash),
            Some(("PodsCrashing", "error: disk has only 1 GiB".into()))
        );
        let creating = container(r#"{"waiting": {"reason": "ContainerCreating"}}"#, "{}");
        assert_eq!(of(&creating), None);
    }
}
