//! The examples, as they are written.

use super::{Trial, trial::PATIENCE};
use anyhow::{Context, ensure};

const IMAGE: &str = "python:3.13-slim";
/// Files that are trained with; each is read in every epoch.
const FILES: u64 = 500;
const FILE: u64 = 50_000;
/// Tables that are scanned, one by each executor.
const TABLES: u64 = 2;
const TABLE: u64 = 64 << 20;

pub(super) fn run(trial: &Trial) -> anyhow::Result<String> {
    if let Some(cluster) = &trial.throw_away {
        cluster.python(IMAGE)?;
    }
    let bucket = &trial.bucket;
    bucket.make("bucket")?;
    bucket.fill_many("/bucket/imagenet/train", FILES, 100, FILE)?;
    for table in 0..TABLES {
        bucket.fill(
            &format!("/bucket/events/part-{table}.parquet"),
            table,
            TABLE,
        )?;
    }
    // What it is not to read.
    bucket.fill("/bucket/events/_SUCCESS", 0, 1)?;
    let kubectl = &trial.kubectl;
    let folders = ["training", "spark"].map(|name| format!("examples/{name}"));
    kubectl.run(&["apply", "-f", "examples/first.yaml"])?;
    for folder in &folders {
        kubectl.run(&["apply", "-k", folder])?;
    }
    let done = |job: &str| kubectl.wait(&[job], "condition=Complete", PATIENCE);
    done("job/training")?;
    done("job/spark-scan")?;
    trial.ready("default", "imagenet")?;
    let said = |app: &str| -> anyhow::Result<String> {
        let selector = format!("app={app}");
        kubectl.run(&["logs", "-l", &selector, "--tail=-1"])
    };
    let (training, spark) = (said("training")?, said("spark-scan")?);
    // Two pods, each with half of every epoch.
    let all = format!("{FILES} files listed");
    ensure!(training.matches(&all).count() == 2, "{training}");
    let epoch = |n: u32| {
        rates(
            &training,
            &format!("epoch {n}: {} files", FILES / 2),
            "files/s",
        )
    };
    let (cold, warm) = (epoch(1)?, epoch(3)?);
    let scan = |which: &str| {
        let tasks = format!("{which} full scan: 1 tasks, {:.1} MB", TABLE as f64 / 1e6);
        rates(&spark, &tasks, "MB/s")
    };
    let (first, second) = (scan("first")?, scan("second")?);
    for folder in &folders {
        kubectl.run(&["delete", "--timeout=90s", "-k", folder])?;
    }
    kubectl.run(&["delete", "--timeout=90s", "-f", "examples/first.yaml"])?;
    Ok(format!(
        "training: {cold:.0} files/s in the first epoch, {warm:.0} in the third; Spark: {first:.0} MB/s in the first scan, {second:.0} in the second"
    ))
}

/// The sum of what two pods say: of the lines that begin so, the number before the unit.
fn rates(said: &str, begin: &str, unit: &str) -> anyhow::Result<f64> {
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with(begin))
        .collect();
    ensure!(lines.len() == 2, "two pods say '{begin}': {said}");
    let rate = |line: &str| -> Option<f64> {
        let (before, _) = line.split_once(&format!(" {unit}"))?;
        before.rsplit(' ').next()?.parse().ok()
    };
    let rates: Option<Vec<f64>> = lines.iter().map(|line| rate(line)).collect();
    Ok(rates
        .with_context(|| format!("no {unit}: {said}"))?
        .iter()
        .sum())
}
