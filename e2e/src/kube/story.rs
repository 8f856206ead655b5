//! The story of the README.

use super::{Trial, trial::PATIENCE};
use anyhow::ensure;
use std::time::Instant;

const BIG: u64 = 64 << 20;

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let (big, total) = trial.data("story", BIG, 100)?;
    let begun = Instant::now();
    trial.cluster("story")?;
    trial.dataset("default", "story", "story", "story", "minio-credentials")?;
    trial.ready("default", "story")?;
    let ready = begun.elapsed();
    // The workers come meanwhile: before, a node would fetch for itself.
    trial
        .kubectl
        .wait(&["cachecluster/story"], "condition=Ready", PATIENCE)?;
    let readers = trial.readers("story", &big)?;
    for reader in &readers {
        reader.reads_on(PATIENCE)?;
    }
    let fetched = trial.fetched("story")?;
    ensure!(
        fetched as f64 <= 1.05 * total as f64,
        "{fetched} bytes fetched of {total}: more than 1.05 times"
    );
    for reader in readers {
        reader.delete()?;
    }
    trial.delete("default", &["dataset/story", "cachecluster/story"])?;
    Ok(format!(
        "ready after {:.1} s; {} nodes, {:.2} of the bytes fetched",
        ready.as_secs_f64(),
        trial.nodes.len(),
        fetched as f64 / total as f64
    ))
}
