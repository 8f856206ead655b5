//! The story of the README.

use super::{Trial, trial::PATIENCE};
use anyhow::{Context, ensure};
use std::time::Instant;

const BIG: u64 = 256 << 20;
/// So often it is read, so many times together: the median counts.
const GROUPS: usize = 5;
const READS: u64 = 8;

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
    // Time since the start of the machine, in hundredths of a second, before and after each group.
    let read = |dd: &str, file: &str| {
        let group = format!(
            "for m in $(seq {READS}); do {dd} if={file} of=/dev/null bs=1M 2>/dev/null; done"
        );
        let now = "cut -f 1 -d \" \" /proc/uptime";
        format!("{now}; for n in $(seq {GROUPS}); do {group}; {now}; done")
    };
    let pod = trial.script("story", node, &read("dd", "/data/big"))?;
    let disk = "/var/lib/forebay/native";
    // In pieces as large as a fill's: the page cache is the faster for it.
    let make = format!(
        "busybox dd if=/dev/urandom of={disk} bs=8M count={} 2>/dev/null",
        BIG >> 23
    );
    let native = cluster.on_node(
        node,
        &format!("{make}; {}; rm {disk}", read("busybox dd", disk)),
    )?;
    let [pod, native] = [rate(&pod)?, rate(&native)?];
    Ok(format!(
        "; a pod reads {pod:.0} MB/s, {:.2} of its node's {native:.0}",
        pod / native
    ))
}

/// The median of the groups, in MB/s.
fn rate(said: &str) -> anyhow::Result<f64> {
    let times = said.lines().map(|line| line.trim().parse::<f64>());
    let times = times
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("no times: {said}"))?;
    ensure!(times.len() == GROUPS + 1, "{} times: {said}", times.len());
    let mut seconds: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    seconds.sort_by(f64::total_cmp);
    Ok((READS * BIG) as f64 / 1e6 / seconds[GROUPS / 2])
}
