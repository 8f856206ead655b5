//! The story of the README.

use super::{Trial, trial::PATIENCE};
use anyhow::{Context, ensure};
use std::time::Instant;

const BIG: u64 = 256 << 20;
/// So often it is read, so many times together: the median counts.
const GROUPS: usize = 5;
const READS: u64 = 8;
/// Files of 50 kB beside it; so often all of them are read.
const SMALL: u64 = 100;
const SMALL_READS: u64 = 40;

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    let (big, total) = trial.data("story", BIG, SMALL)?;
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

/// How fast a pod reads what is warm, beside files on the disk of the same node.
fn rates(trial: &Trial) -> anyhow::Result<String> {
    let Some(cluster) = &trial.throw_away else {
        return Ok(String::new());
    };
    let node = &trial.nodes[0];
    let read = |busybox: &str, root: &str| {
        let large = format!(
            "for m in $(seq {READS}); do {busybox} dd if={root}/big of=/dev/null bs=1M 2>/dev/null; done"
        );
        let small = format!(
            "for m in $(seq {SMALL_READS}); do {busybox} cat {root}/dir/* >/dev/null; done"
        );
        format!("{}; {}", timed(&large), timed(&small))
    };
    let pod = trial.script("story", node, &read("", "/data"))?;
    let disk = "/var/lib/forebay/native";
    // In pieces as large as a fill's: the page cache is the faster for it.
    let make = format!(
        "mkdir -p {disk}/dir; busybox dd if=/dev/urandom of={disk}/big bs=8M count={} 2>/dev/null; for n in $(seq {SMALL}); do head -c 50000 /dev/urandom > {disk}/dir/f$n; done",
        BIG >> 23
    );
    let native = cluster.on_node(
        node,
        &format!("{make}; {}; rm -r {disk}", read("busybox", disk)),
    )?;
    let [(large, small), (native_large, native_small)] = [medians(&pod)?, medians(&native)?];
    Ok(format!(
        "; a pod reads {:.0} MB/s, {:.2} of its node's disk, and {:.0} small files/s, {:.2}",
        (READS * BIG) as f64 / 1e6 / large,
        native_large / large,
        (SMALL_READS * SMALL) as f64 / small,
        native_small / small
    ))
}

/// A line of shell that says the time, in seconds since the start of the machine, before and after each group.
fn timed(group: &str) -> String {
    let now = "cut -f 1 -d \" \" /proc/uptime";
    format!("{now}; for n in $(seq {GROUPS}); do {group}; {now}; done")
}

/// The medians of what two such lines said, in seconds.
fn medians(said: &str) -> anyhow::Result<(f64, f64)> {
    let times = said.lines().map(|line| line.trim().parse::<f64>());
    let times = times
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("no times: {said}"))?;
    ensure!(
        times.len() == 2 * (GROUPS + 1),
        "{} times: {said}",
        times.len()
    );
    let median = |times: &[f64]| {
        let mut seconds: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[GROUPS / 2]
    };
    let (large, small) = times.split_at(GROUPS + 1);
    Ok((median(large), median(small)))
}
