//! The operations that are timed, on any directory. Each returns a rate: more is better.

use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::fs::OFlags;
use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const BLOCK: usize = 4096;

/// MiB/s of reading `path` from end to end, 1 MiB at a time.
pub(super) fn sequential(path: &Path) -> anyhow::Result<f64> {
    let mut buffer = vec![0; 1 << 20];
    let begun = Instant::now();
    let read = read_all(path, &mut buffer)?;
    Ok(read as f64 / begun.elapsed().as_secs_f64() / f64::from(1 << 20))
}

fn read_all(path: &Path, buffer: &mut [u8]) -> anyhow::Result<u64> {
    let name = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(name)?;
    let mut read = 0;
    loop {
        match file.read(buffer).with_context(name)? {
            0 => return Ok(read),
            some => read += some as u64,
        }
    }
}

/// Reads per second of 4 KiB at random offsets of `path`, past the page cache, by `jobs` threads.
pub(super) fn random_direct(path: &Path, jobs: u64, time: Duration) -> anyhow::Result<f64> {
    let blocks = fs::metadata(path)?.len() / BLOCK as u64;
    let begun = Instant::now();
    let total = thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs)
            .map(|seed| {
                scope.spawn(move || -> anyhow::Result<u64> {
                    let file = OpenOptions::new()
                        .read(true)
                        .custom_flags(OFlags::DIRECT.bits() as i32)
                        .open(path)
                        .with_context(|| format!("cannot open {} directly", path.display()))?;
                    let mut random = SmallRng::seed_from_u64(seed);
                    let mut memory = vec![0_u8; 2 * BLOCK];
                    let aligned = memory.as_ptr().align_offset(BLOCK);
                    let buffer = &mut memory[aligned..aligned + BLOCK];
                    let mut reads = 0;
                    while begun.elapsed() < time {
                        let offset = random.random_range(0..blocks) * BLOCK as u64;
                        file.read_exact_at(buffer, offset)?;
                        reads += 1;
                    }
                    Ok(reads)
                })
            })
            .collect();
        let mut total = 0;
        for job in jobs {
            total += job.join().expect("a reader does not panic")?;
        }
        anyhow::Ok(total)
    })?;
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

/// The files of a filled directory, in the order of their names.
pub(super) fn paths(directory: &Path, files: u64) -> Vec<PathBuf> {
    (0..files)
        .map(|index| directory.join(format!("{index:08}")))
        .collect()
}

/// Repeats `pass` over `items` things until `time` has passed, once at least: things per second.
fn rate(
    items: usize,
    time: Duration,
    mut pass: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut passes = 0;
    while passes == 0 || begun.elapsed() < time {
        pass()?;
        passes += 1;
    }
    Ok((items * passes) as f64 / begun.elapsed().as_secs_f64())
}

/// Files per second of open, read and close.
pub(super) fn read_files(paths: &[PathBuf], size: u64, time: Duration) -> anyhow::Result<f64> {
    let mut buffer = vec![0; 1 << 20];
    rate(paths.len(), time, || {
        for path in paths {
            let read = read_all(path, &mut buffer)?;
            ensure!(read == size, "{}: {read} bytes", path.display());
        }
        Ok(())
    })
}

/// Entries per second of stat by path.
pub(super) fn stat(paths: &[PathBuf], time: Duration) -> anyhow::Result<f64> {
    rate(paths.len(), time, || {
        for path in paths {
            fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?;
        }
        Ok(())
    })
}

/// Names per second of listing a directory.
pub(super) fn list(directory: &Path, names: u64, time: Duration) -> anyhow::Result<f64> {
    rate(names as usize, time, || {
        let mut count = 0;
        for entry in fs::read_dir(directory)? {
            entry?;
            count += 1;
        }
        ensure!(
            count == names,
            "{}: {count} of {names} names",
            directory.display()
        );
        Ok(())
    })
}
