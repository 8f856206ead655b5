//! Claims that users make of a Dataset.

use super::{Trial, reader::Reader, trial::PATIENCE};
use anyhow::ensure;

const TEAM: &str = "claims-team";
const OTHERS: &str = "claims-others";

/// A claim of Dataset `claims` of the namespace `default`.
fn claim(namespace: &str, sub_path: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: mine
  namespace: {namespace}
  annotations:
    forebay.io/dataset-namespace: default
    forebay.io/sub-path: {sub_path}
spec:
  accessModes: [ReadOnlyMany]
  dataSourceRef: {{apiGroup: forebay.io, kind: Dataset, name: claims}}
  resources: {{requests: {{storage: 1Mi}}}}
"
    )
}

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let kubectl = &trial.kubectl;
    trial.data("claims", 1 << 20, 3)?;
    let part = trial.bucket.fill("/claims/set/part/big", 7, 2_000_000)?;
    let part = super::bucket::sha256(&part)?;
    for namespace in [TEAM, OTHERS] {
        kubectl.run(&["create", "namespace", namespace])?;
        // Before there is a Dataset.
        kubectl.apply(&claim(namespace, "part"))?;
    }
    trial.cluster("claims")?;
    trial.dataset("default", "claims", "claims", "claims", "minio-credentials")?;
    let grant = format!(r#"{{"spec":{{"access":{{"namespaces":["{TEAM}"]}}}}}}"#);
    kubectl.run(&["patch", "dataset/claims", "--type=merge", "-p", &grant])?;
    let bound = "jsonpath={.status.phase}=Bound";
    kubectl.wait(&["-n", TEAM, "pvc/mine"], bound, PATIENCE)?;
    trial.ready("default", "claims")?;
    let reader = Reader::start(kubectl, TEAM, "reader", "mine", None, &part)?;
    reader.reads_on(PATIENCE)?;
    let seen = reader.sees()?;
    ensure!(seen.trim() == "/data/big", "the pod sees {seen}");
    let events = [
        "get",
        "events",
        "-n",
        OTHERS,
        "-o",
        "jsonpath={.items[*].reason}",
    ];
    kubectl.until(
        "a claim without a grant is told so",
        PATIENCE,
        &events,
        |reasons| reasons.contains("NotGranted"),
    )?;
    let phase = [
        "get",
        "-n",
        OTHERS,
        "pvc/mine",
        "-o",
        "jsonpath={.status.phase}",
    ];
    let phase = kubectl.run(&phase)?;
    ensure!(phase == "Pending", "a claim without a grant is {phase}");

    // In use: the Dataset stays, and the pod reads on.
    kubectl.run(&["delete", "dataset/claims", "--wait=false"])?;
    let message = [
        "get",
        "dataset/claims",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}",
    ];
    let user = format!("PersistentVolumeClaim {TEAM}/mine");
    kubectl.until("the Dataset says who uses it", PATIENCE, &message, |said| {
        said.contains(&user)
    })?;
    reader.reads_on(PATIENCE)?;
    reader.delete()?;
    trial.delete(TEAM, &["pvc/mine"])?;
    let gone = ["get", "dataset,pv", "-o", "name"];
    kubectl.until("Dataset and volumes are gone", PATIENCE, &gone, |left| {
        !left.contains("dataset") && !left.contains("forebay-")
    })?;
    for namespace in [TEAM, OTHERS] {
        trial.delete("default", &["namespace", namespace])?;
    }
    trial.delete("default", &["cachecluster/claims"])?;
    Ok("a directory of another namespace's Dataset, by a grant; without one, told".to_owned())
}
