//! Rows that read what is not in the cache yet.

use super::{
    Row, Scale,
    bare::Bare,
    op,
    stage::{BUCKET, Stage, room},
    table::Unit,
};
use crate::s3::{S3Child, Stats};
use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Bytes of a page, the unit of fills.
const PAGE: u64 = 1 << 20;

/// First reads of large objects, and random reads of one.
pub(super) fn reads(
    first: bool,
    sparse: bool,
    scale: &Scale,
    say: &dyn Fn(&str),
) -> anyhow::Result<Vec<Row>> {
    let rounds = scale.rounds as u64;
    let mut stage = Stage::new(room(scale, rounds + 2, 1))?;
    stage
        .server
        .fill(BUCKET, "first/", rounds, 0, scale.large)?;
    for round in 0..rounds {
        stage.server.fill(
            BUCKET,
            &format!("many/{round}/"),
            scale.files / rounds,
            0,
            scale.file_size,
        )?;
    }
    stage.server.fill(BUCKET, "sparse/", 1, 0, scale.large)?;
    stage.mount(room(scale, rounds + 1, 1), None)?;
    let mut rows = Vec::new();
    if first {
        say("first reads of large objects");
        rows.push(first_read(&stage, scale)?);
        say("first reads of many small objects");
        rows.push(first_read_of_many(&stage, scale)?);
    }
    if sparse {
        say("random reads of an uncached object");
        rows.extend(amplification(&mut stage, scale)?);
    }
    stage.finish()?;
    Ok(rows)
}

fn first_read(stage: &Stage, scale: &Scale) -> anyhow::Result<Row> {
    let bare = Bare::new(&stage.server.endpoint, BUCKET)?;
    let directory = stage.mount_point().join("first");
    // The directory is known; what is timed is the open and the bytes.
    fs::read_dir(&directory)?.count();
    let copy = stage.scratch.path().join("copy");
    let mut row = Row::ratio(
        "first-read",
        "first read of a large object, 1 MiB at a time; bare: 8 ranges of 8 MiB into a file",
        Unit::MibPerS,
        0.9,
    )
    .peers("JuiceFS 0.2");
    for (round, path) in op::paths(&directory, scale.rounds as u64)
        .iter()
        .enumerate()
    {
        rustix::fs::sync();
        let native = bare.large(&format!("first/{round:08}"), &copy)?;
        fs::remove_file(&copy)?;
        rustix::fs::sync();
        let ours = op::sequential(path)?;
        row.round(native, ours);
    }
    Ok(row)
}

/// One reader that takes small files one after the other: every file is a round trip to the store.
fn first_read_of_many(stage: &Stage, scale: &Scale) -> anyhow::Result<Row> {
    let bare = Bare::new(&stage.server.endpoint, BUCKET)?;
    let mut row = Row::ratio(
        "first-many",
        "first read of 110 KB objects, one reader; bare: GET one after the other, bytes dropped",
        Unit::FilesPerS,
        0.5,
    );
    // A file is read for the first time once: each round has files of its own.
    let files = scale.files / scale.rounds as u64;
    for round in 0..scale.rounds {
        let prefix = format!("many/{round}/");
        let directory = stage.mount_point().join(&prefix);
        fs::read_dir(&directory)?.count();
        let native = bare.small(&prefix, files, 1, None)?;
        let paths = op::paths(&directory, files);
        let ours = op::read_files(&paths, scale.file_size, Duration::ZERO)?;
        row.round(native, ours);
    }
    Ok(row)
}

fn amplification(stage: &mut Stage, scale: &Scale) -> anyhow::Result<Vec<Row>> {
    let path = stage.mount_point().join("sparse/00000000");
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let before = settled(&mut stage.server)?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut buffer = vec![0; 4096];
    let begun = Instant::now();
    for _ in 0..scale.sparse_reads {
        let block = random.random_range(0..scale.large / 4096);
        file.read_exact_at(&mut buffer, block * 4096)?;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let fetched = settled(&mut stage.server)? - before;
    let asked = scale.sparse_reads * 4096;
    ensure!(
        fetched.bytes > 0,
        "nothing was fetched: was the object cached already?"
    );
    Ok(vec![
        Row::bound(
            "amplification",
            "4 KiB random reads of an uncached object: bytes fetched per byte asked for",
            Unit::Times,
            fetched.bytes as f64 / asked as f64,
            (PAGE / 4096) as f64,
        )
        .peers("Mountpoint 542; Curvine 32; JuiceFS 30; rclone 1"),
        Row::figure(
            "uncached-rand",
            "the same: reads per second, one at a time",
            Unit::PerS,
            scale.sparse_reads as f64 / elapsed,
        ),
    ])
}

/// What the server was asked for, once nobody asks any more.
fn settled(server: &mut S3Child) -> anyhow::Result<Stats> {
    let mut last = server.stats()?;
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(200));
        let now = server.stats()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

/// `forebay fs load` of many small objects.
pub(super) fn load(scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    let rounds = scale.rounds as u64;
    let mut stage = Stage::new(room(scale, 0, 2 * rounds + 2))?;
    for round in 0..rounds {
        let key = format!("load/{round:08}/");
        stage
            .server
            .fill(BUCKET, &key, scale.files, 0, scale.file_size)?;
    }
    stage.mount(room(scale, 0, rounds), None)?;
    let bare = Bare::new(&stage.server.endpoint, BUCKET)?;
    say("how many GETs at a time are best for the bare client");
    let mut best = (0, 0.0);
    for parallel in [8, 16, 32, 64] {
        let rate = bare.small("load/00000000/", scale.files, parallel, None)?;
        if rate > best.1 {
            best = (parallel, rate);
        }
    }
    say("loads of many small objects");
    let mut nowhere = Row::ratio(
        "load",
        &format!(
            "forebay fs load of 110 KB objects; bare: list and GET, {} at a time, bytes dropped",
            best.0
        ),
        Unit::ObjectsPerS,
        1.0,
    )
    .peers("JuiceFS warmup 1,207/s");
    let mut files = Row::ratio(
        "load-files",
        "the same; bare: each object into a file of its own",
        Unit::ObjectsPerS,
        1.0,
    );
    for round in 0..rounds {
        let prefix = format!("load/{round:08}/");
        rustix::fs::sync();
        let dropped = bare.small(&prefix, scale.files, best.0, None)?;
        // Kept to the end: ext4 does not give the inodes of deleted files to new ones for a minute or more, and
        // to pass over thousands of them would make every file that is created next dear.
        let copies = stage.scratch.make(&format!("copies-{round}"))?;
        rustix::fs::sync();
        let kept = bare.small(&prefix, scale.files, best.0, Some(&copies))?;
        rustix::fs::sync();
        let begun = Instant::now();
        stage.load(Path::new(&prefix))?;
        let ours = scale.files as f64 / begun.elapsed().as_secs_f64();
        nowhere.round(dropped, ours);
        files.round(kept, ours);
    }
    let before = stage.server.stats()?;
    let paths = op::paths(&stage.mount_point().join("load/00000000"), scale.files);
    op::read_files(&paths, scale.file_size, Duration::ZERO)?;
    let again = (stage.server.stats()? - before).get;
    stage.finish()?;
    Ok(vec![
        nowhere,
        files,
        Row::bound(
            "load-complete",
            "GETs that reading the loaded files still needs",
            Unit::Count,
            again as f64,
            0.0,
        ),
    ])
}
