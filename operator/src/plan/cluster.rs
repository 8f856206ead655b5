//! A CacheCluster: what belongs to it, and its end.

use crate::plan::{
    cluster_status::{self, Facts},
    condition::{DEGRADED, DELETION_BLOCKED, Finding, PROGRESSING, READY},
    erase::{self, Progress},
    master,
    membership::{self, Membership, Step},
    mount,
    name::{FINALIZER, Key, Names, dataset_of},
    pod_seen::PodSeen,
    view::View,
    worker,
};
use forebay_crds::{CacheCluster, CacheClusterStatus, ObjectRef, Quantity};
use forebay_types::MountSpec;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, StatefulSet},
        core::v1::PersistentVolumeClaim,
    },
    jiff::Timestamp,
};
use kube::ResourceExt;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What was observed.
pub struct Observed<'a> {
    /// The CacheCluster.
    pub cluster: &'a CacheCluster,
    /// Datasets that refer to it.
    pub users: Vec<ObjectRef>,
    /// All Datasets that there are.
    pub datasets: &'a BTreeSet<Key>,
    /// Uid of the Secret with its key; absent: there is none yet.
    pub seal: Option<&'a str>,
    /// Its masters' StatefulSet.
    pub masters: Option<&'a StatefulSet>,
    /// Its DaemonSets, by the name of the group.
    pub workers: BTreeMap<String, &'a DaemonSet>,
    /// What erases what they leave, by the name of the group.
    pub erasers: BTreeMap<String, &'a DaemonSet>,
    /// Its pods.
    pub pods: Vec<&'a PodSeen>,
    /// Claims of its masters.
    pub claims: Vec<&'a PersistentVolumeClaim>,
    /// Why claims cannot grow, as the API server said last.
    pub not_grown: Option<&'a str>,
    /// Why objects could not be applied, as the API server said last: reason and message.
    pub not_applied: Option<(&'static str, String)>,
    /// Whether it has just refused what the plan was to apply.
    pub refused: bool,
    /// What the masters say.
    pub view: &'a View,
    /// The image, unless the specification names one.
    pub image: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Whether the CacheCluster is to have our finalizer.
    pub finalizer: bool,
    /// Objects to apply, in this order. Others that belong to the cluster are to go; `None`: it is too early to say.
    pub apply: Option<Vec<Value>>,
    /// Claims that are to have this size.
    pub grow: Vec<(Key, String)>,
    /// A call about the quorum.
    pub step: Option<Step>,
    /// Mounts that belong to no Dataset.
    pub unmount: Vec<String>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// The rest of the status.
    pub status: CacheClusterStatus,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
    /// To be told as an event beside the conditions: reason and message.
    pub note: Option<(&'static str, String)>,
}

/// Decides.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let cluster = observed.cluster;
    let deleting = cluster.metadata.deletion_timestamp.is_some();
    let ours = cluster.finalizers().iter().any(|f| f == FINALIZER);
    if deleting && !ours {
        return Plan::default();
    }
    // Once it has begun to go, a Dataset that comes is too late.
    if deleting && (observed.users.is_empty() || !observed.erasers.is_empty()) {
        return leave(observed);
    }
    let wanted = cluster.spec.masters.replicas;
    let have = observed.masters.and_then(|set| set.spec.as_ref()?.replicas);
    let have = have.and_then(|replicas| u32::try_from(replicas).ok());
    let membership = membership::plan(wanted, have, observed.view.quorum.as_ref());
    let (mut findings, status) = cluster_status::status(&Facts {
        observed,
        membership: &membership,
    });
    if deleting {
        findings.push(blocked(&observed.users));
    }
    let apply = observed
        .seal
        .map(|seal| objects(observed, &membership, seal));
    Plan {
        finalizer: true,
        apply,
        grow: grow(observed),
        step: membership.step,
        unmount: orphans(observed),
        findings,
        status,
        ..Plan::default()
    }
}

/// It goes: masters and workers, then what these leave on the disks of nodes, then the finalizer. The rest goes with it:
/// everything has it as its owner.
fn leave(observed: &Observed<'_>) -> Plan {
    let cluster = observed.cluster;
    let left = format!(
        "what workers had below hostPath is still there, in directories named {}",
        Names::of(cluster).uid
    );
    let let_go = |why: String| Plan {
        note: Some(("NotErased", format!("{why}: {left}"))),
        ..Plan::default()
    };
    // In a namespace that goes, too, nothing can be made.
    if let Some((_, why)) = &observed.not_applied
        && observed.refused
        && observed.erasers.is_empty()
    {
        return let_go(why.clone());
    }
    let rest = match erase::progress(cluster, &observed.erasers, observed.now) {
        Progress::Done => return Plan::default(),
        Progress::LetGo(nodes) => {
            let limit = erase::LET_GO_AFTER.as_secs();
            return let_go(format!("{nodes} nodes have not answered within {limit} s"));
        }
        Progress::Going(rest) => rest,
    };
    let what = "the disks of its nodes are being erased";
    Plan {
        finalizer: true,
        apply: Some(erase::objects(cluster, image(observed))),
        findings: vec![
            Finding::no(READY, "Erasing", what),
            Finding::yes(PROGRESSING, "Erasing", what),
            Finding::no(DEGRADED, "NotReady", ""),
        ],
        status: cluster.status.clone().unwrap_or_default(),
        again: Some(rest),
        ..Plan::default()
    }
}

fn image<'a>(observed: &Observed<'a>) -> &'a str {
    let own = observed.cluster.spec.image.as_deref();
    own.unwrap_or(observed.image)
}

fn objects(observed: &Observed<'_>, membership: &Membership, seal: &str) -> Vec<Value> {
    let cluster = observed.cluster;
    let image = image(observed);
    let size = template_size(observed.masters);
    let size = size.unwrap_or_else(|| cluster.spec.masters.storage.size.to_string());
    let mut objects = master::objects(cluster, image, membership.replicas, &size);
    for group in &cluster.spec.workers {
        objects.extend(worker::objects(cluster, group, image));
    }
    for object in &mut objects {
        // A key that was made anew is read when a process starts.
        if let Some(annotations) = object.pointer_mut("/spec/template/metadata/annotations") {
            annotations["forebay.io/seal"] = Value::from(seal);
        }
    }
    objects
}

/// The size in a StatefulSet's claim template, which cannot be changed.
fn template_size(masters: Option<&StatefulSet>) -> Option<String> {
    let templates = masters?.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let requests = templates.first()?.spec.as_ref()?.resources.as_ref()?;
    let size = requests.requests.as_ref()?.get("storage")?;
    Some(size.0.clone())
}

/// Claims of masters that are smaller than they should be.
fn grow(observed: &Observed<'_>) -> Vec<(Key, String)> {
    let size = &observed.cluster.spec.masters.storage.size;
    let smaller = |claim: &&&PersistentVolumeClaim| {
        let requests = claim
            .spec
            .as_ref()
            .and_then(|s| s.resources.as_ref()?.requests.as_ref());
        let has = requests.and_then(|r| r.get("storage")?.0.parse::<Quantity>().ok());
        has.is_some_and(|has| has.bytes() < size.bytes())
            && claim.metadata.deletion_timestamp.is_none()
    };
    let small = observed.claims.iter().filter(smaller);
    small
        .map(|claim| (Key::of(*claim), size.to_string()))
        .collect()
}

/// Mounts in directories of Datasets that are no more: they were let go while no master could be reached. What lies
/// elsewhere, or would be lost, is somebody else's business.
fn orphans(observed: &Observed<'_>) -> Vec<String> {
    let table = &observed.view.table;
    let orphan = |(path, row): &(&String, &mount::Row)| {
        let dataset = dataset_of(path);
        row.uri != MountSpec::SCRATCH && dataset.is_some_and(|d| !observed.datasets.contains(&d))
    };
    let orphans = table.iter().filter(orphan);
    orphans.map(|(path, _)| path.clone()).rev().collect()
}

fn blocked(users: &[ObjectRef]) -> Finding {
    let names: Vec<String> = users
        .iter()
        .take(20)
        .map(|user| format!("{}/{}", user.namespace, user.name))
        .collect();
    let more = users.len().saturating_sub(names.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let message = format!(
        "delete the Datasets that refer to it first: {}{more}",
        names.join(", ")
    );
    Finding::yes(DELETION_BLOCKED, "InUse", message)
}

/// The names of a cluster's objects that stay, by kind.
pub fn kept(apply: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |object: &Value| (text(&object["kind"]), text(&object["metadata"]["name"]));
    apply.iter().map(name).collect()
}

/// The name of the Secret with the key.
pub fn seal_key(cluster: &CacheCluster) -> Key {
    let names = Names::of(cluster);
    Key::new(names.key.namespace.clone(), names.seal())
}

#[cfg(test)]
#[path = "cluster_test.rs"]
mod tests;
