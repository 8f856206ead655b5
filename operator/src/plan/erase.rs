//! What workers leave on the disks of their nodes. When their cluster goes, a pod on every node takes it away; a node
//! that does not answer does not hold up the rest for long.

use crate::plan::{
    name::{CLUSTER, COMPONENT, GROUP, Names},
    worker::WORKER,
};
use forebay_crds::{CacheCluster, WorkerGroup};
use k8s_openapi::{
    api::apps::v1::DaemonSet,
    jiff::{SignedDuration, Timestamp},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Component of what erases in labels.
pub const ERASER: &str = "eraser";
/// So long nodes that do not answer are waited for.
pub const LET_GO_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Where the parents of the directories are mounted.
const PARENTS: &str = "/erase";

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left on any node.
    Done,
    /// Some nodes are not done; when to look again at the latest.
    Going(Duration),
    /// Some nodes have not answered: so many.
    LetGo(u32),
}

/// The groups whose workers leave something.
fn groups(cluster: &CacheCluster) -> impl Iterator<Item = &WorkerGroup> {
    let leaves = |group: &&WorkerGroup| group.tiers.iter().any(|tier| tier.host_path.is_some());
    cluster.spec.workers.iter().filter(leaves)
}

/// How far it is, by the DaemonSets that are there, by the name of the group.
pub fn progress(
    cluster: &CacheCluster,
    sets: &BTreeMap<String, &DaemonSet>,
    now: Timestamp,
) -> Progress {
    let mut left = 0;
    let mut unknown = false;
    for group in groups(cluster) {
        let set = sets.get(&group.name);
        let status = set.and_then(|set| {
            let status = set.status.as_ref()?;
            (status.observed_generation == set.metadata.generation).then_some(status)
        });
        match status {
            Some(status) => left += status.desired_number_scheduled - status.number_ready,
            None => unknown = true,
        }
    }
    if left <= 0 && !unknown {
        return Progress::Done;
    }
    let begun = sets.values().filter_map(|set| {
        let created = set.metadata.creation_timestamp.as_ref();
        created.map(|time| time.0)
    });
    let end = begun.min().unwrap_or(now) + LET_GO_AFTER;
    match Duration::try_from(end.duration_since(now)) {
        Ok(rest) if !rest.is_zero() => Progress::Going(rest),
        _ => Progress::LetGo(u32::try_from(left).unwrap_or(0)),
    }
}

/// The DaemonSets that erase.
pub fn objects(cluster: &CacheCluster, image: &str) -> Vec<Value> {
    groups(cluster)
        .map(|group| daemon_set(cluster, group, image))
        .collect()
}

fn daemon_set(cluster: &CacheCluster, group: &WorkerGroup, image: &str) -> Value {
    let names = Names::of(cluster);
    let mut labels = names.labels(ERASER);
    labels.insert(GROUP.to_owned(), json!(group.name));
    let mut selector = names.selector(ERASER);
    selector.insert(GROUP.to_owned(), json!(group.name));
    let paths = group
        .tiers
        .iter()
        .filter_map(|tier| tier.host_path.as_ref());
    let paths = paths.map(|path| path.trim_end_matches('/'));
    // The directory of the worker's socket, too.
    let paths: BTreeSet<&str> = paths.chain(["/run/forebay"]).collect();
    let numbered = || paths.iter().enumerate();
    let parent = |n: usize| format!("{PARENTS}/{n}");
    let directories = numbered().map(|(n, _)| format!("{}/{}", parent(n), names.uid));
    let directories: Vec<String> = directories.collect();
    let container = |name: &str, flags: &[&str]| {
        let command = ["/usr/bin/forebay", "erase"].into_iter();
        let command = command.chain(flags.iter().copied());
        let command = command.chain(directories.iter().map(String::as_str));
        json!({
            "name": name,
            "image": image,
            "command": command.collect::<Vec<_>>(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": numbered()
                .map(|(n, _)| json!({"name": format!("parent-{n}"), "mountPath": parent(n)}))
                .collect::<Vec<_>>(),
        })
    };
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // The directories are root's, as the worker was.
        "securityContext": {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        // Not before the worker has ended.
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {CLUSTER: names.uid, COMPONENT: WORKER}},
        }]}},
        "initContainers": [container("erase", &[])],
        "containers": [container("done", &["--wait"])],
        "volumes": numbered()
            .map(|(n, path)| json!({"name": format!("parent-{n}"), "hostPath": {
                "path": path, "type": "DirectoryOrCreate",
            }}))
            .collect::<Vec<_>>(),
    });
    let pods = &group.pods;
    if !pods.node_selector.is_empty() {
        spec["nodeSelector"] = json!(pods.node_selector);
    }
    if !pods.tolerations.is_empty() {
        spec["tolerations"] = json!(pods.tolerations);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": names.metadata(&names.eraser(&group.name), &labels),
        "spec": {
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> CacheCluster {
        serde_json::from_value(json!({
            "metadata": {"name": "demo", "namespace": "ns", "uid": "U"},
            "spec": {"workers": [
                {"name": "disk", "nodeSelector": {"disk": "true"}, "tiers": [
                    {"medium": "SSD", "quota": "1Gi", "hostPath": "/mnt/a/"},
                    {"medium": "HDD", "quota": "1Gi", "hostPath": "/mnt/b"},
                ]},
                {"name": "memory", "tiers": [{"medium": "MEM", "quota": "1Gi"}]},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_lies_on_disks_of_nodes_is_erased() {
        let sets = objects(&cluster(), "image");
        assert_eq!(sets.len(), 1);
        assert_eq!(sets[0]["metadata"]["name"], "demo-eraser-disk");
        let _: DaemonSet = serde_json::from_value(sets[0].clone()).unwrap();
        let spec = &sets[0]["spec"]["template"]["spec"];
        assert_eq!(spec["nodeSelector"]["disk"], "true");
        assert_eq!(
            spec["initContainers"][0]["command"],
            json!([
                "/usr/bin/forebay",
                "erase",
                "/erase/0/U",
                "/erase/1/U",
                "/erase/2/U"
            ])
        );
        assert_eq!(spec["volumes"][0]["hostPath"]["path"], "/mnt/a");
    }

    #[test]
    fn nodes_that_do_not_answer_are_not_waited_for_long() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let set = |status: Value| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": {"generation": 1, "creationTimestamp": "1970-01-01T00:01:40Z"},
                "status": status,
            }))
            .unwrap()
        };
        let status = |desired: u32, ready: u32| {
            json!({
                "observedGeneration": 1, "desiredNumberScheduled": desired, "numberReady": ready,
                "currentNumberScheduled": desired, "numberMisscheduled": 0,
            })
        };
        let judge = |set: &DaemonSet, now| {
            progress(&cluster(), &[("disk".to_owned(), set)].into(), at(now))
        };
        let (new, none) = (set(Value::Null), set(status(0, 0)));
        let (some, all) = (set(status(3, 1)), set(status(3, 3)));
        assert_eq!(judge(&new, 101), Progress::Going(Duration::from_secs(59)));
        assert_eq!(judge(&some, 120), Progress::Going(Duration::from_secs(40)));
        assert_eq!(judge(&some, 160), Progress::LetGo(2));
        assert_eq!(judge(&all, 101), Progress::Done);
        assert_eq!(judge(&none, 101), Progress::Done);
        let nothing = progress(&cluster(), &BTreeMap::new(), at(5));
        assert_eq!(nothing, Progress::Going(Duration::from_mins(1)));
    }
}
