//! A warm-up of many files, whose operator and master are killed on the way.

use super::{Trial, trial::PATIENCE};
use anyhow::{Context, ensure};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How many files.
const FILES: u64 = 20_000;
/// Bytes of each.
const SIZE: u64 = 1_000;
/// Slow enough to be interrupted.
const LIMIT: &str = "1Mi";
/// How long the run may take.
const LONGEST: Duration = Duration::from_mins(5);

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let kubectl = &trial.kubectl;
    trial.bucket.make("warmup")?;
    trial.bucket.fill_many("/warmup/set", FILES, 1000, SIZE)?;
    trial.cluster("warmup")?;
    trial.dataset("default", "warmup", "warmup", "warmup", "minio-credentials")?;
    trial.ready("default", "warmup")?;
    kubectl.wait(&["cachecluster/warmup"], "condition=Ready", PATIENCE)?;
    let begun = Instant::now();
    kubectl.apply(&format!(
        r"
apiVersion: forebay.io/v1alpha1
kind: WarmupPolicy
metadata: {{name: warmup, namespace: default}}
spec:
  datasetRef: {{name: warmup}}
  limits: {{bandwidth: {LIMIT}}}
"
    ))?;
    let files = ["get", "warmup/warmup", "-o", "jsonpath={.status.run.files}"];
    let mut seen = BTreeSet::new();
    let mut wait_until = |enough: u64, limit| -> anyhow::Result<Files> {
        let end = Instant::now() + limit;
        loop {
            let said = kubectl.run(&files)?;
            let now: Files = if said.is_empty() {
                Files::default()
            } else {
                serde_json::from_str(&said).context("status.run.files")?
            };
            seen.insert(now.done);
            if now.done + now.failed >= enough {
                return Ok(now);
            }
            ensure!(
                Instant::now() < end,
                "not {enough} files within {limit:?}: {now:?}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    wait_until(FILES / 10, LONGEST)?;
    interrupt(trial)?;
    let done = wait_until(FILES, LONGEST)?;
    kubectl.wait(&["warmup/warmup"], "condition=Complete", LONGEST)?;
    let took = begun.elapsed();
    let wanted = Files {
        total: FILES,
        done: FILES,
        failed: 0,
    };
    ensure!(done == wanted, "{done:?} instead of {wanted:?}");
    ensure!(seen.len() > 5, "no progress was shown: {seen:?}");
    // What is complete is read without the store.
    let fetched = trial.fetched("warmup")?;
    let counted = trial.read_all("warmup")?;
    ensure!(counted == FILES * SIZE, "{counted} bytes in the pod");
    let more = trial.fetched("warmup")? - fetched;
    ensure!(
        more == 0,
        "{more} bytes were fetched by reading what was warm"
    );
    let shown = ["get", "dataset/warmup"];
    kubectl.until("all is shown as cached", PATIENCE, &shown, |shown| {
        shown.contains("100%")
    })?;
    trial.delete(
        "default",
        &["warmup/warmup", "dataset/warmup", "cachecluster/warmup"],
    )?;
    Ok(format!(
        "{FILES} files in {:.0} s, {} steps of progress; operator and master killed on the way; nothing fetched by reading them",
        took.as_secs_f64(),
        seen.len()
    ))
}

#[derive(Debug, Default, PartialEq, serde::Deserialize)]
struct Files {
    total: u64,
    done: u64,
    failed: u64,
}

/// Kills the operator and the master.
fn interrupt(trial: &Trial) -> anyhow::Result<()> {
    let Some(cluster) = &trial.throw_away else {
        let delete = |namespace: &str, label: &str| {
            let label = format!("app.kubernetes.io/component={label}");
            trial
                .kubectl
                .run(&["delete", "pod", "-n", namespace, "-l", &label])
        };
        delete("forebay-system", "operator")?;
        return delete("default", "master").map(drop);
    };
    for what in ["/usr/bin/forebay-operator", "/usr/bin/forebay master"] {
        let mut killed = 0;
        for node in &trial.nodes {
            killed += cluster.kill(node, what)?;
        }
        ensure!(killed > 0, "there is no {what} to kill");
    }
    Ok(())
}
