//! A Dataset is edited while pods read.

use super::{
    Trial,
    trial::{PATIENCE, secret},
};
use anyhow::ensure;

/// The Dataset: what stays at `/`, and a second bucket somewhere.
fn dataset(endpoint: &str, path: &str) -> String {
    format!(
        r#"
apiVersion: forebay.io/v1alpha1
kind: Dataset
metadata: {{name: edits, namespace: default}}
spec:
  clusterRef: {{name: edits, namespace: default}}
  mounts:
  - uri: s3://edits/set
    options: {{endpoint: "{endpoint}", pathStyle: "true"}}
    secretRef: {{name: edited}}
  - path: {path}
    uri: s3://edits-more
    options: {{endpoint: "{endpoint}", pathStyle: "true"}}
    secretRef: {{name: edited}}
"#
    )
}

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let kubectl = &trial.kubectl;
    let (big, _) = trial.data("edits", 16 << 20, 20)?;
    let right = secret("edited", super::bucket::PASSWORD);
    kubectl.apply(&right)?;
    trial.cluster("edits")?;
    let endpoint = "http://minio.default:9000";
    trial.dataset("default", "edits", "edits", "edits", "edited")?;
    trial.ready("default", "edits")?;
    let readers = trial.readers("edits", &big)?;
    let read_on = || -> anyhow::Result<()> {
        for reader in &readers {
            reader.reads_on(PATIENCE)?;
        }
        Ok(())
    };
    let degraded = [
        "get",
        "dataset/edits",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}/{.status.conditions[?(@.type==\"Degraded\")].reason}",
    ];
    let says = |wanted: &str| {
        let what = format!("the Dataset says {wanted}");
        kubectl.until(&what, PATIENCE, &degraded, |said| said == wanted)
    };
    read_on()?;
    // A path more, whose bucket is missing; then it is made.
    kubectl.apply(&dataset(endpoint, "/passing/a"))?;
    says("StoreNotFound/NotReady")?;
    read_on()?;
    trial.bucket.make("edits-more")?;
    trial.bucket.fill("/edits-more/file", 1, 10_000)?;
    says("Readable/Healthy")?;
    let sees = |path: &str| -> anyhow::Result<()> {
        for reader in &readers {
            reader.sees_within(PATIENCE, |files| {
                let passing: Vec<_> = files.iter().filter(|f| f.contains("/passing/")).collect();
                passing == [&path]
            })?;
        }
        Ok(())
    };
    sees("/data/passing/a/file")?;
    // Another path.
    kubectl.apply(&dataset(endpoint, "/passing/b"))?;
    sees("/data/passing/b/file")?;
    read_on()?;
    // Another option: the same store by another name.
    kubectl.apply(&dataset("http://minio.default.svc:9000", "/passing/b"))?;
    kubectl.wait(&["dataset/edits"], "condition=Progressing=False", PATIENCE)?;
    says("Readable/Healthy")?;
    read_on()?;
    // A Secret that is wrong, and the right one.
    kubectl.apply(&secret("edited", "wrong-password"))?;
    says("Readable/AccessDenied")?;
    read_on()?;
    kubectl.apply(&right)?;
    says("Readable/Healthy")?;
    sees("/data/passing/b/file")?;
    read_on()?;
    let nodes = readers.len();
    ensure!(nodes > 0, "nobody has read");
    for reader in readers {
        reader.delete()?;
    }
    trial.delete(
        "default",
        &["dataset/edits", "cachecluster/edits", "secret/edited"],
    )?;
    Ok(format!(
        "path, option and Secret changed, a bucket that came later; pods on {nodes} nodes read on"
    ))
}
