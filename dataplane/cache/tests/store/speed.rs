//! What the store costs beside plain files. Run with
//! `cargo test --release -p forebay-cache -- --ignored --nocapture --test-threads 1`.

use crate::fixture::{Fixture, MIB, disk, id};
use forebay_types::MountId;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

/// Seconds that this thread spent on a processor: other work on the machine counts less.
fn seconds(work: impl FnOnce()) -> f64 {
    let on_cpu = || -> f64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    };
    let start = on_cpu();
    work();
    on_cpu() - start
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn bases() -> [PathBuf; 2] {
    [disk(), PathBuf::from("/dev/shm")]
}

fn plain(path: &Path, chunk: &[u8], total: u64) {
    let file = File::create(path).unwrap();
    for n in 0..total / chunk.len() as u64 {
        file.write_all_at(chunk, n * chunk.len() as u64).unwrap();
    }
}

const GIB: u64 = 1 << 30;

/// Medians of both, taking turns at going first: the first one after a pause pays for the memory of both.
fn compare(ours: impl Fn() -> f64, theirs: impl Fn() -> f64) -> String {
    theirs();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..8 {
        if round % 2 == 0 {
            a.push(ours());
            b.push(theirs());
        } else {
            b.push(theirs());
            a.push(ours());
        }
    }
    let (a, b) = (median(a), median(b));
    format!("{a:.3} s, {b:.3} s, {:+.1} %", (a / b - 1.0) * 100.0)
}

/// Seconds for a file of 1 GiB, with a writer for every 8 MiB as fills have.
fn through_a_writer(base: &Path, chunk: &[u8]) -> f64 {
    let fixture = Fixture::new(base, 2 << 30);
    let store = fixture.open();
    seconds(|| {
        let file = store.get_or_create(id(1), MountId(1), GIB).unwrap();
        for part in 0..GIB / (8 * MIB) {
            let mut writer = store.writer(&file, part as u32 * 8, 8 * MIB).unwrap();
            for _ in 0..8 * MIB / chunk.len() as u64 {
                writer.write(chunk).unwrap();
            }
        }
        assert!(file.is_whole());
    })
}

fn store_small_files(base: &Path, bytes: &[u8]) -> f64 {
    let fixture = Fixture::new(base, 4 << 30);
    let store = fixture.open();
    seconds(|| {
        for ino in 0..10_000 {
            let size = bytes.len() as u64;
            let file = store.get_or_create(id(ino), MountId(1), size).unwrap();
            let mut writer = store.writer(&file, 0, size).unwrap();
            for piece in bytes.chunks(64 << 10) {
                writer.write(piece).unwrap();
            }
        }
    })
}

fn plain_small_files(base: &Path, bytes: &[u8]) -> f64 {
    let dir = tempfile::tempdir_in(base).unwrap();
    for shard in 0..256 {
        std::fs::create_dir(dir.path().join(format!("{shard:02x}"))).unwrap();
    }
    seconds(|| {
        for ino in 0..10_000u64 {
            let path = dir.path().join(format!("{:02x}/{ino}.1", ino & 0xff));
            let file = File::create(path).unwrap();
            let mut at = 0;
            for piece in bytes.chunks(64 << 10) {
                file.write_all_at(piece, at).unwrap();
                at += piece.len() as u64;
            }
        }
    })
}

#[test]
#[ignore = "a measurement"]
fn one_gib_through_a_writer() {
    for base in bases() {
        for size in [64 << 10, 128 << 10, 256 << 10] {
            let chunk = vec![0x5a; size];
            let ours = || through_a_writer(&base, &chunk);
            let theirs = || {
                let dir = tempfile::tempdir_in(&base).unwrap();
                seconds(|| plain(&dir.path().join("f"), &chunk, GIB))
            };
            println!(
                "{} {:3} KiB chunks: writer, pwrite: {}",
                base.display(),
                size >> 10,
                compare(ours, theirs)
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn ten_thousand_small_files() {
    let bytes = vec![0x5a; 110_000];
    for base in bases() {
        println!(
            "{} 10,000 files of 110 KB: store, plain: {}",
            base.display(),
            compare(
                || store_small_files(&base, &bytes),
                || plain_small_files(&base, &bytes)
            )
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn a_hit_among_many_files() {
    const FILES: u64 = 200_000;
    let fixture = Fixture::new(Path::new("/dev/shm"), 1 << 30);
    let mut config = fixture.config.clone();
    config.policy = forebay_cache::PolicyKind::S3Fifo;
    let store = forebay_cache::Store::open(config, fixture.kv.clone()).unwrap();
    let resident = || -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    fixture.kv.forgets.store(true, Relaxed);
    let before = resident();
    for ino in 0..FILES {
        let file = store.get_or_create(id(ino), MountId(1), 10).unwrap();
        store.writer(&file, 0, 10).unwrap().write(&[1; 10]).unwrap();
    }
    println!(
        "{} bytes of memory for each file",
        (resident() - before) / FILES
    );
    let mut ino = 1;
    let hits = seconds(|| {
        for _ in 0..1_000_000 {
            ino = (ino * 48_271) % FILES;
            let file = store.get(id(ino)).unwrap();
            let lease = store.lease(&file);
            assert!(file.is_whole() && file.is_verified() && file.missing(0..1).is_empty());
            drop(lease);
        }
    });
    println!(
        "get, lease, is_whole, is_verified, missing, release: {:.0} ns",
        hits * 1e3
    );
}

#[test]
#[ignore = "a measurement"]
fn crc_alone() {
    let chunk = vec![0x5a; 256 << 10];
    for size in [64 << 10, 256 << 10] {
        let rounds = (0..7).map(|_| {
            seconds(|| {
                let mut crc = 0;
                for _ in 0..(1 << 30) / size {
                    crc = crc32c::crc32c_append(crc, &chunk[..size]);
                }
                assert_ne!(crc, 1);
            })
        });
        println!(
            "crc32c of 1 GiB in {} KiB: {:.3} s",
            size >> 10,
            median(rounds.collect())
        );
    }
}
