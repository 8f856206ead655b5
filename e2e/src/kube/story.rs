//! The story of the README.

use super::{Trial, trial::PATIENCE};
use anyhow::{Context, ensure};
use std::time::Instant;

const BIG: u64 = 256 << 20;
/// Reads of it that are timed; the median counts.
const READS: usize = 9;

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
    let rates = rates(trial)?;
    trial.delete("default", &["dataset/story", "cachecluster/story"])?;
    Ok(format!(
        "ready after {:.1} s; {} nodes, {:.2} of the bytes fetched{rates}",
        ready.as_secs_f64(),
        trial.nodes.len(),
        fetched as f64 / total as f64
    ))
}

/// How fast a pod reads what is warm, beside a file on the disk of the same node.
fn rates(trial: &Trial) -> anyhow::Result<String> {
    let Some(cluster) = &trial.throw_away else {
        return Ok(String::new());
    };
    let node = &trial.nodes[0];
    let read = |file: &str| {
        format!(
            "for n in $(seq {READS}); do dd if={file} of=/dev/null bs=1M 2>&1 | tail -n 1; done"
        )
    };
    let pod = trial.script("story", node, &read("/data/big"))?;
    let disk = "/var/lib/forebay/native";
    let make = format!("head -c {BIG} /dev/urandom > {disk}");
    let native = cluster.on_node(node, &format!("{make}; {}; rm {disk}", read(disk)))?;
    let [pod, native] = [rate(&pod)?, rate(&native)?];
    Ok(format!(
        "; a pod reads {pod:.0} MB/s, {:.2} of its node's {native:.0}",
        pod / native
    ))
}

/// The median of what dd said, in MB/s.
fn rate(said: &str) -> anyhow::Result<f64> {
    let seconds = said.lines().map(|line| {
        // "… copied, 0.0123 seconds, 5.1GB/s", or "s" for "seconds".
        let seconds = line
            .rsplit(", ")
            .nth(1)
            .and_then(|part| part.split(' ').next());
        let seconds = seconds.and_then(|seconds| seconds.parse::<f64>().ok());
        seconds.with_context(|| format!("dd said '{line}'"))
    });
    let mut seconds = seconds.collect::<anyhow::Result<Vec<f64>>>()?;
    ensure!(seconds.len() == READS, "dd ran {} times", seconds.len());
    seconds.sort_by(f64::total_cmp);
    Ok(BIG as f64 / 1e6 / seconds[READS / 2])
}
