//! How fast the host is with files that are whole on the node, against the same files natively. Prints
//! a table of rates and ratios; asserts nothing, since a busy machine would fail it.
#![allow(clippy::unwrap_used, reason = "tests and what supports them")]

#[path = "support/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests of the mount")]
mod fixture;
#[path = "support/local.rs"]
#[expect(dead_code, reason = "shared with the tests of the mount")]
mod local;
#[path = "../../client/tests/support/master.rs"]
#[expect(dead_code, reason = "shared with the tests of the client")]
mod master;

use fixture::{Fixture, fixture};
use master::ROOT;
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const FILES: u64 = 10_000;
const SIZE: u64 = 110_000;
const LARGE: u64 = 512 << 20;
const ROUNDS: usize = 5;
const O_DIRECT: i32 = 0o40000;

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Interleaved rounds of the mount and the native directory; prints median and best in `what` per second.
fn compare(label: &str, what: &str, count: f64, mut round: impl FnMut(bool) -> Duration) {
    let (mut mount, mut native) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        native.push(round(false));
        mount.push(round(true));
    }
    mount.sort();
    native.sort();
    let rate = |times: &[Duration], at: usize| count / times[at].as_secs_f64();
    let show = |name: &str, at: usize| {
        let (mount, native) = (rate(&mount, at), rate(&native, at));
        let ratio = mount / native;
        println!(
            "{label:40} {name:6} native {native:10.0} mount {mount:10.0} {what}/s ratio {ratio:.2}"
        );
    };
    show("median", ROUNDS / 2);
    show("best", 0);
}

fn read_all(paths: &[PathBuf], buffer: &mut [u8]) {
    for path in paths {
        let mut file = File::open(path).unwrap();
        let mut got = 0;
        loop {
            match file.read(&mut buffer[got..]).unwrap() {
                0 => break,
                n => got += n,
            }
        }
        assert_eq!(got as u64, SIZE);
    }
}

/// A permutation that is the same every time.
fn shuffled(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seed = 1u64;
    for i in (1..paths.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        paths.swap(i, (seed >> 33) as usize % (i + 1));
    }
    paths
}

fn random_direct(path: &Path, jobs: u64) {
    std::thread::scope(|scope| {
        for job in 0..jobs {
            scope.spawn(move || {
                let file = File::options()
                    .read(true)
                    .custom_flags(O_DIRECT)
                    .open(path)
                    .unwrap();
                let mut page = Aligned([0; 4096]);
                let mut seed = job + 1;
                for _ in 0..4000 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    file.read_exact_at(&mut page.0, (seed >> 33) % (LARGE / 4096) * 4096)
                        .unwrap();
                }
            });
        }
    });
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

fn sequential(path: &Path) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).unwrap() > 0 {}
}

fn small_files(f: &Fixture) {
    let dir = f.master.add_dir(ROOT, "small");
    let inodes: Vec<u64> = (0..FILES)
        .map(|i| f.master.add_file(dir, &format!("file-{i:05}"), SIZE))
        .collect();
    let mounted = f.mount.join("small");
    let at = shuffled(
        (0..FILES)
            .map(|i| mounted.join(format!("file-{i:05}")))
            .collect(),
    );
    let mut buffer = vec![0; SIZE as usize + 1];
    // The first opens fill the tier.
    read_all(&at, &mut buffer);
    // Native files of their own: those of the tier are held by the kernel, so their inodes are never cold.
    let native = f.native.with_file_name("native");
    fs::create_dir(&native).unwrap();
    for (i, ino) in inodes.iter().enumerate() {
        let name = format!("file-{i:05}");
        fs::copy(f.native.join(ino.to_string()), native.join(name)).unwrap();
    }
    rustix::fs::sync();
    let copies = shuffled(
        (0..FILES)
            .map(|i| native.join(format!("file-{i:05}")))
            .collect(),
    );
    let side = |mount| if mount { &at } else { &copies };
    let dir_of = |mount| if mount { &mounted } else { &native };
    let files = FILES as f64;
    compare("open+read+close 110 kB, warm", "files", files, |mount| {
        timed(|| read_all(side(mount), &mut buffer))
    });
    compare(
        "open+read+close 110 kB, caches dropped",
        "files",
        files,
        |mount| {
            drop_caches();
            timed(|| read_all(side(mount), &mut buffer))
        },
    );
    let stat = |mount| {
        timed(|| {
            for path in side(mount) {
                fs::metadata(path).unwrap();
            }
        })
    };
    compare("stat by path, caches dropped", "files", files, |mount| {
        drop_caches();
        stat(mount)
    });
    compare("stat by path, again", "files", files, |mount| {
        stat(mount);
        stat(mount)
    });
    let list =
        |mount| timed(|| assert_eq!(fs::read_dir(dir_of(mount)).unwrap().count() as u64, FILES));
    compare("list, caches dropped", "names", files, |mount| {
        drop_caches();
        list(mount)
    });
    compare("list, again", "names", files, |mount| {
        list(mount);
        list(mount)
    });
}

fn large_file(f: &Fixture) {
    let ino = f.master.add_file(ROOT, "large", LARGE);
    let at = f.mount.join("large");
    sequential(&at);
    rustix::fs::sync();
    let tier = f.native.join(ino.to_string());
    let side = |mount: bool| if mount { &at } else { &tier };
    let mib = (LARGE >> 20) as f64;
    compare("sequential 1 MiB, warm", "MiB", mib, |mount| {
        sequential(side(mount));
        timed(|| sequential(side(mount)))
    });
    compare("sequential 1 MiB, caches dropped", "MiB", mib, |mount| {
        drop_caches();
        timed(|| sequential(side(mount)))
    });
    for jobs in [1, 4] {
        let label = format!("random 4 KiB direct, {jobs} jobs");
        compare(&label, "reads", 4000. * jobs as f64, |mount| {
            timed(|| random_direct(side(mount), jobs))
        });
    }
}

#[test]
#[ignore = "measures for minutes; needs a quiet machine"]
fn files_that_are_whole_on_the_node_against_native() {
    let f = fixture(true);
    large_file(&f);
    small_files(&f);
}
