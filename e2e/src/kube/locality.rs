//! Pods go where their data is.

use super::{Trial, trial::PATIENCE};
use anyhow::ensure;
use std::time::Duration;

const PODS: usize = 6;
/// The operator tells figures every 20 s.
const TOLD: Duration = Duration::from_mins(1);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let kubectl = &trial.kubectl;
    if trial.nodes.len() < 2 {
        return Ok("left out: needs two nodes".to_owned());
    }
    // Other things run there: without a preference pods go elsewhere.
    let node = trial.bucket_node()?;
    let (_, total) = trial.data("locality", 32 << 20, 3)?;
    trial.cluster_on("locality", &format!("{{kubernetes.io/hostname: {node}}}"))?;
    let claim = "locality";
    trial.dataset("default", claim, claim, claim, "minio-credentials")?;
    trial.ready("default", claim)?;
    let read = trial.script(
        claim,
        &node,
        "find /data -type f -print0 | xargs -0 cat | wc -c",
    )?;
    ensure!(read.trim() == total.to_string(), "{read} bytes read");
    let placement = [
        "get",
        "configmap/forebay-placement-locality",
        "-o",
        "jsonpath={.data.nodes}",
    ];
    let expected = format!("{node}=100");
    kubectl.until("the placement says it", TOLD, &placement, |nodes| {
        nodes == expected
    })?;

    let pods = |set: &str, annotation: &str, claim: Option<&str>| -> anyhow::Result<Vec<Pod>> {
        let pods = (0..PODS).map(|n| manifest(&format!("{set}-{n}"), set, annotation, claim));
        kubectl.apply(&pods.collect::<String>())?;
        placed(trial, set)
    };
    let near = pods("near", "", Some(claim))?;
    for Pod { on, prefers } in &near {
        ensure!(on == &node && prefers == &node, "{near:?}, not {node}");
    }
    let free = pods("free", "forebay.io/locality: \"off\"", Some(claim))?;
    let others = pods("others", "", None)?;
    for Pod { prefers, .. } in free.iter().chain(&others) {
        ensure!(prefers.is_empty(), "{free:?} {others:?} have no preference");
    }
    // They are spread, too.
    let template = manifest("template", "replica", "", Some(claim));
    let template = template.lines().skip(3).collect::<Vec<_>>().join("\n    ");
    kubectl.apply(&format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: locality, namespace: default}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{set: replica}}}}
  template:
    {template}
"
    ))?;
    let replicas = placed(trial, "replica")?;
    let there = |pods: &[Pod]| pods.iter().filter(|pod| pod.on == node).count();
    let said = format!(
        "{} of {PODS} pods on the node that has it, {} of a Deployment's, {} of those that opted out",
        there(&near),
        there(&replicas),
        there(&free)
    );
    trial.delete("default", &["deployment/locality"])?;
    let sets = "set in (near, free, others)";
    trial.delete("default", &["pods", "-l", sets])?;
    trial.delete("default", &["dataset/locality"])?;
    let maps = [
        "get",
        "configmaps",
        "-l",
        "forebay.io/placement",
        "-o",
        "name",
    ];
    kubectl.until("no placement is left", PATIENCE, &maps, str::is_empty)?;
    trial.delete("default", &["cachecluster/locality"])?;
    Ok(said)
}

/// Where a pod is, and where it prefers to be.
#[derive(Debug)]
struct Pod {
    on: String,
    prefers: String,
}

/// The pods of a set, when all have a node.
fn placed(trial: &Trial, set: &str) -> anyhow::Result<Vec<Pod>> {
    let label = format!("set={set}");
    let preferred =
        ".spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[*]";
    let each = format!(
        "jsonpath={{range .items[*]}}{{.spec.nodeName}}/{{{preferred}.preference.matchFields[0].values[0]}} {{end}}"
    );
    let args = ["get", "pods", "-l", &label, "-o", &each];
    let read = |said: &str| -> Vec<Pod> {
        let pods = said
            .split_whitespace()
            .filter_map(|pod| pod.split_once('/'));
        let pods = pods.filter(|(on, _)| !on.is_empty());
        pods.map(|(on, prefers)| Pod {
            on: on.to_owned(),
            prefers: prefers.to_owned(),
        })
        .collect()
    };
    let all = |said: &str| read(said).len() == PODS;
    let said = trial
        .kubectl
        .until("pods have nodes", PATIENCE, &args, all)?;
    Ok(read(&said))
}

fn manifest(name: &str, set: &str, annotation: &str, claim: Option<&str>) -> String {
    let volumes = claim.map(|claim| {
        format!("volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]")
    });
    let volumes = volumes.unwrap_or_default();
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{set: {set}}}
  annotations: {{{annotation}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: waits
    image: local/busybox:1
    imagePullPolicy: IfNotPresent
    command: [sleep, \"600\"]
  {volumes}
"
    )
}
