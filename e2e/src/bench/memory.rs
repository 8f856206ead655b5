//! Resident memory of `forebay local`.

use super::{
    Row, Scale, op,
    stage::{BUCKET, Stage},
    table::Unit,
};
use anyhow::ensure;
use std::thread;
use walkdir::WalkDir;

/// The budget that the process is given.
const BUDGET: u64 = 256 << 20;
/// What it may need beyond it.
const BEYOND: u64 = 150 << 20;
/// Files to a directory of the scanned tree.
const FAN: u64 = 1_000;

pub(super) fn run(scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    let read = scale.readers * scale.reader_size;
    let mut stage = Stage::new(read)?;
    stage
        .server
        .fill(BUCKET, "scan/", scale.scan_files, FAN, 1_000)?;
    stage
        .server
        .fill(BUCKET, "readers/", scale.readers, 0, scale.reader_size)?;
    stage.mount(read, Some(BUDGET))?;
    let bound = |name, what: &str, bytes: u64| {
        Row::bound(
            name,
            what,
            Unit::Mib,
            bytes as f64 / f64::from(1 << 20),
            ((BUDGET + BEYOND) >> 20) as f64,
        )
    };
    let (idle, _) = stage.local().process.memory()?;

    say("memory: scanning many files");
    let mut files = 0;
    for entry in WalkDir::new(stage.mount_point().join("scan")) {
        files += u64::from(entry?.metadata()?.is_file());
    }
    ensure!(
        files == scale.scan_files,
        "the scan found {files} of {} files",
        scale.scan_files
    );
    let (_, scan) = stage.local().process.memory()?;

    say("memory: parallel readers");
    let paths = op::paths(&stage.mount_point().join("readers"), scale.readers);
    let rates = thread::scope(|scope| {
        let readers: Vec<_> = paths
            .iter()
            .map(|path| scope.spawn(|| op::sequential(path)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .collect::<anyhow::Result<Vec<f64>>>()
    })?;
    let (_, readers) = stage.local().process.memory()?;
    stage.finish()?;
    Ok(vec![
        Row::figure(
            "memory-idle",
            "resident memory after the start, budget 256 MiB",
            Unit::Mib,
            idle as f64 / f64::from(1 << 20),
        ),
        bound(
            "memory-scan",
            &format!("resident memory at its highest, walk and stat of {files} files"),
            scan,
        ),
        bound(
            "memory-readers",
            &format!("… then {} parallel first reads", scale.readers),
            readers,
        ),
        Row::figure(
            "readers-rate",
            "rate of those readers together, at least",
            Unit::MibPerS,
            // All read the same amount, so together they are as fast as the slowest times many.
            rates.iter().copied().fold(f64::MAX, f64::min) * rates.len() as f64,
        ),
    ])
}
