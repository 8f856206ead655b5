//! What the store costs beside plain files. Run with
//! `cargo test --release -p forebay-cache -- --ignored --nocapture --test-threads 1`.

#![expect(clippy::disallowed_methods, reason = "measures time")]

use crate::fixture::{Fixture, MIB, disk, id};
use forebay_types::MountId;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Instant,
};

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
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

#[test]
#[ignore = "a measurement"]
fn one_gib_through_a_writer() {
    const TOTAL: u64 = 1 << 30;
    for base in bases() {
        for size in [64 << 10, 128 << 10, 256 << 10] {
            let chunk = vec![0x5a; size];
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                let fixture = Fixture::new(&base, 2 << 30);
                let store = fixture.open();
                ours.push(seconds(|| {
                    let file = store.get_or_create(id(1), MountId(1), TOTAL).unwrap();
                    for part in 0..TOTAL / (8 * MIB) {
                        let mut writer = store.writer(&file, part as u32 * 8, 8 * MIB).unwrap();
                        for _ in 0..8 * MIB / size as u64 {
                            writer.write(&chunk).unwrap();
                        }
                    }
                    assert!(file.is_whole());
                }));
                drop((store, fixture));
                let dir = tempfile::tempdir_in(&base).unwrap();
                theirs.push(seconds(|| plain(&dir.path().join("f"), &chunk, TOTAL)));
            }
            let (ours, theirs) = (median(ours), median(theirs));
            println!(
                "{} {:3} KiB chunks: writer {ours:.3} s, pwrite {theirs:.3} s, {:+.1} %",
                base.display(),
                size >> 10,
                (ours / theirs - 1.0) * 100.0
            );
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn ten_thousand_small_files() {
    let chunk = vec![0x5a; 110_000];
    for base in bases() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let fixture = Fixture::new(&base, 4 << 30);
            let store = fixture.open();
            ours.push(seconds(|| {
                for ino in 0..10_000 {
                    let file = store.get_or_create(id(ino), MountId(1), 110_000).unwrap();
                    let mut writer = store.writer(&file, 0, 110_000).unwrap();
                    for piece in chunk.chunks(64 << 10) {
                        writer.write(piece).unwrap();
                    }
                }
            }));
            drop((store, fixture));
            let dir = tempfile::tempdir_in(&base).unwrap();
            for shard in 0..256 {
                std::fs::create_dir(dir.path().join(format!("{shard:02x}"))).unwrap();
            }
            theirs.push(seconds(|| {
                for ino in 0..10_000u64 {
                    let path = dir.path().join(format!("{:02x}/{ino}.1", ino & 0xff));
                    let file = File::create(path).unwrap();
                    let mut at = 0;
                    for piece in chunk.chunks(64 << 10) {
                        file.write_all_at(piece, at).unwrap();
                        at += piece.len() as u64;
                    }
                }
            }));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{} 10,000 files of 110 KB: store {ours:.3} s, plain {theirs:.3} s, {:+.1} %",
            base.display(),
            (ours / theirs - 1.0) * 100.0
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
