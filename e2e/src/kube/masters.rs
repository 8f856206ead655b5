//! Masters come and go while pods read.

use super::{Trial, trial::PATIENCE};
use std::time::{Duration, Instant};

/// The longest pause that a reader may have.
const PAUSE: Duration = Duration::from_mins(1);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let (big, _) = trial.data("masters", 16 << 20, 100)?;
    trial.cluster("masters")?;
    trial.dataset(
        "default",
        "masters",
        "masters",
        "masters",
        "minio-credentials",
    )?;
    trial.ready("default", "masters")?;
    let cluster = "cachecluster/masters";
    trial
        .kubectl
        .wait(&[cluster], "condition=Ready", PATIENCE)?;
    let readers = trial.readers("masters", &big)?;
    let mut took = Vec::new();
    for (replicas, before) in [(3, 1), (5, 3), (3, 5)] {
        let begun = Instant::now();
        let patch = format!(r#"{{"spec":{{"masters":{{"replicas":{replicas}}}}}}}"#);
        trial
            .kubectl
            .run(&["patch", cluster, "--type=merge", "-p", &patch])?;
        // The quorum itself says how many belong to it.
        let ready = format!("jsonpath={{.status.masters.ready}}={replicas}");
        trial.kubectl.wait(&[cluster], &ready, PATIENCE)?;
        let settled = ["get", "pods", "-o", "name", "-l", LABEL];
        trial
            .kubectl
            .until("as many masters as wanted", PATIENCE, &settled, |pods| {
                pods.lines().count() == replicas
            })?;
        trial
            .kubectl
            .wait(&[cluster], "condition=Progressing=False", PATIENCE)?;
        took.push(format!(
            "{before} to {replicas} {:.0} s",
            begun.elapsed().as_secs_f64()
        ));
        for reader in &readers {
            reader.reads_on(PAUSE)?;
        }
    }
    for reader in readers {
        reader.delete()?;
    }
    trial.delete("default", &["dataset/masters", cluster])?;
    Ok(took.join(", "))
}

const LABEL: &str = "app.kubernetes.io/instance=masters,app.kubernetes.io/component=master";
