//! Rows that read what is in the cache.

use super::{
    Group, Row, Scale, op,
    stage::{BUCKET, Stage, room},
    table::Unit,
};
use crate::{
    disk::{can_drop_caches, drop_caches},
    s3::synthetic,
};
use anyhow::Context;
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

pub(super) fn run(groups: &[Group], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    let mut stage = Stage::new(room(scale, 2, 2))?;
    say("making the files and their copies in the bucket");
    stage.server.fill(BUCKET, "large/", 1, 0, scale.large)?;
    stage
        .server
        .fill(BUCKET, "small/", scale.files, 0, scale.file_size)?;
    let native = stage.scratch.make("native")?;
    write_files(&native.join("large"), 1, scale.large)?;
    write_files(&native.join("small"), scale.files, scale.file_size)?;
    stage.mount(room(scale, 1, 1), None)?;
    say("loading the cache");
    stage.load(Path::new("large"))?;
    stage.load(Path::new("small"))?;
    let mount = stage.mount_point();
    let sides = [native.as_path(), mount.as_path()];
    same_bytes(&sides.map(|side| side.join("large/00000000")))?;

    let mut rows = Vec::new();
    for group in groups {
        rows.extend(match group {
            Group::Seq => sequential(&sides, scale, say)?,
            Group::Rand => random(&sides, scale, say)?,
            Group::Small => small(&sides, scale, say)?,
            Group::Stat => stat(&sides, scale, say)?,
            Group::List => list(&sides, scale, say)?,
            _ => Vec::new(),
        });
    }
    stage.finish()?;
    Ok(rows)
}

fn write_files(directory: &Path, count: u64, size: u64) -> anyhow::Result<()> {
    fs::create_dir(directory)?;
    for (index, path) in op::paths(directory, count).iter().enumerate() {
        let content = synthetic(index as u64, size);
        let mut file = File::create(path)?;
        let mut offset = 0;
        while offset < size {
            let piece = content.piece(offset, 1 << 20)?;
            file.write_all(&piece)?;
            offset += piece.len() as u64;
        }
    }
    Ok(())
}

/// Speed without the right bytes is worth nothing: looked at once, at some places.
fn same_bytes(paths: &[std::path::PathBuf; 2]) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let [native, ours] = paths.each_ref().map(File::open);
    let (native, ours) = (native?, ours.context("the mount lacks the file")?);
    let size = native.metadata()?.len();
    let (mut left, mut right) = (vec![0; 4096], vec![0; 4096]);
    for part in 0..64 {
        let offset = (size / 64 * part).min(size.saturating_sub(4096));
        native.read_exact_at(&mut left, offset)?;
        ours.read_exact_at(&mut right, offset)?;
        anyhow::ensure!(left == right, "other bytes through the mount at {offset}");
    }
    Ok(())
}

/// A pair of rows: with caches dropped, and again with what that left in them.
struct ColdAndWarm {
    cold: Row,
    warm: Row,
}

impl ColdAndWarm {
    /// Runs `measure` on both sides in turn; it gets the shortest time to go on for.
    fn run(
        mut self,
        sides: &[&Path; 2],
        scale: &Scale,
        mut measure: impl FnMut(&Path, Duration) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Vec<Row>> {
        let drops = can_drop_caches();
        for _ in 0..scale.rounds {
            let mut cold = [0.0; 2];
            let mut warm = [0.0; 2];
            for (side, path) in sides.iter().enumerate() {
                if drops {
                    drop_caches()?;
                }
                cold[side] = measure(path, Duration::ZERO)?;
                warm[side] = measure(path, scale.warm)?;
            }
            if drops {
                self.cold.round(cold[0], cold[1]);
            }
            self.warm.round(warm[0], warm[1]);
        }
        Ok(vec![self.cold, self.warm])
    }
}

fn sequential(sides: &[&Path; 2], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    say("sequential reads");
    ColdAndWarm {
        cold: Row::ratio(
            "seq-cold",
            "sequential 1 MiB, caches dropped",
            Unit::MibPerS,
            0.95,
        )
        .peers("–"),
        warm: Row::ratio("seq-warm", "sequential 1 MiB, warm", Unit::MibPerS, 0.95)
            .peers("JuiceFS 0.70; bare libfuse 0.81"),
    }
    .run(sides, scale, |side, _| {
        op::sequential(&side.join("large/00000000"))
    })
}

fn random(sides: &[&Path; 2], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    say("random direct reads");
    let mut rows = [
        Row::ratio("rand-1", "4 KiB random direct, 1 job", Unit::PerS, 0.90)
            .peers("JuiceFS 0.47; bare libfuse 0.76"),
        Row::ratio("rand-4", "4 KiB random direct, 4 jobs", Unit::PerS, 0.90)
            .peers("Curvine 0.48; bare libfuse 0.83"),
    ];
    for _ in 0..scale.rounds {
        for (row, jobs) in rows.iter_mut().zip([1, 4]) {
            let mut rates = [0.0; 2];
            for (rate, side) in rates.iter_mut().zip(sides) {
                *rate = op::random_direct(&side.join("large/00000000"), jobs, scale.random)?;
            }
            row.round(rates[0], rates[1]);
        }
    }
    Ok(rows.into())
}

fn small(sides: &[&Path; 2], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    say("small files");
    ColdAndWarm {
        cold: Row::ratio(
            "small-cold",
            "110 KB files: open, read, close; caches dropped",
            Unit::FilesPerS,
            0.5,
        )
        .peers("JuiceFS 0.34; bare libfuse 0.57"),
        warm: Row::ratio(
            "small-warm",
            "110 KB files: open, read, close; warm",
            Unit::FilesPerS,
            0.35,
        )
        .peers("JuiceFS 0.24; bare libfuse 0.28"),
    }
    .run(sides, scale, |side, time| {
        let paths = op::paths(&side.join("small"), scale.files);
        op::read_files(&paths, scale.file_size, time)
    })
}

fn stat(sides: &[&Path; 2], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    say("stat by path");
    ColdAndWarm {
        cold: Row::ratio(
            "stat-cold",
            "stat by path, caches dropped",
            Unit::PerS,
            0.25,
        )
        .peers("JuiceFS 0.05; bare libfuse 0.26"),
        warm: Row::ratio("stat-again", "stat by path, again", Unit::PerS, 0.9)
            .peers("JuiceFS 1.0; bare libfuse 0.88"),
    }
    .run(sides, scale, |side, time| {
        op::stat(&op::paths(&side.join("small"), scale.files), time)
    })
}

fn list(sides: &[&Path; 2], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    say("listing names");
    ColdAndWarm {
        cold: Row::ratio(
            "list-cold",
            "list names, caches dropped",
            Unit::NamesPerS,
            0.5,
        )
        .peers("JuiceFS 0.7; bare libfuse 0.39"),
        warm: Row::ratio("list-again", "list names, again", Unit::NamesPerS, 0.9)
            .peers("JuiceFS 0.2–2; bare libfuse 0.42"),
    }
    .run(sides, scale, |side, time| {
        op::list(&side.join("small"), scale.files, time)
    })
}
