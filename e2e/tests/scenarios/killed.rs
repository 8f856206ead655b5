//! SIGKILL at any moment: afterwards every byte is right, and what was cached is still there.

use crate::world::{World, assert_same, read_range};
use forebay_e2e::s3::{Content, Effect, Fault, Op};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{thread, time::Duration};

const ROUNDS: u64 = 50;
const BIG: u64 = 48 << 20;
const SMALL: usize = 400;
const FRESH: u64 = 12 << 20;

#[test]
fn fifty_kills_during_fills_leave_no_wrong_byte() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new();
    let big: Vec<Content> = (0..2)
        .map(|n| world.put(&format!("big{n}"), seed ^ n, BIG))
        .collect();
    let small: Vec<Content> = (0..SMALL)
        .map(|n| world.put(&format!("small/{n:03}"), n as u64, 20_000 + 331 * n as u64))
        .collect();
    // What each round begins to fill when it is killed.
    let fresh: Vec<Content> = (0..ROUNDS)
        .map(|n| world.put(&format!("fresh/{n:02}"), seed ^ (n << 8), FRESH))
        .collect();
    for round in 0..ROUNDS {
        // The bodies stop somewhere: the fills of the fresh file cannot be over at the kill.
        let stop = Effect::HoldBody(rng.random_range(0..FRESH / 4));
        let key = format!("fresh/{round:02}");
        let held = world
            .server
            .inject(Fault::new(stop).on(Op::Get).below(&key));
        let mut local = world.local("2GiB", &[]);
        thread::scope(|scope| {
            let path = world.at(&key);
            let new = &fresh[round as usize];
            scope.spawn(move || {
                for offset in (0..FRESH).step_by(1 << 20) {
                    let Ok(got) = read_range(&path, offset, 1 << 20) else {
                        return;
                    };
                    let want = new.bytes(offset..offset + (1 << 20)).unwrap();
                    assert!(got == want, "round {round}: fresh file at {offset}");
                }
            });
            for reader in 0..3u64 {
                let (world, big, small) = (&world, &big, &small);
                let seed = rng.random::<u64>();
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed);
                    // Reads until the mount is gone; every answer before that must be right.
                    loop {
                        let (key, content) = if reader == 0 {
                            let n = rng.random_range(0..SMALL);
                            (format!("small/{n:03}"), &small[n])
                        } else {
                            (format!("big{}", reader - 1), &big[reader as usize - 1])
                        };
                        let len = rng.random_range(1..content.size().min(3 << 20));
                        let offset = rng.random_range(0..=content.size() - len);
                        let Ok(got) = read_range(&world.at(&key), offset, len as usize) else {
                            return;
                        };
                        let want = content.bytes(offset..offset + len).unwrap();
                        assert!(got == want, "round {round}: {key} at {offset}, {len} bytes");
                    }
                });
            }
            assert!(
                held.wait_for_hits(1, Duration::from_secs(20)),
                "a fill is under way"
            );
            thread::park_timeout(Duration::from_millis(rng.random_range(0..25)));
            local.process.kill();
            drop(local);
        });
    }
    let before = world.server.stats().bytes;
    let _local = world.local("2GiB", &[]);
    for (n, content) in small.iter().enumerate() {
        assert_same(&world.at(&format!("small/{n:03}")), content);
    }
    for (n, content) in big.iter().enumerate() {
        assert_same(&world.at(&format!("big{n}")), content);
    }
    let total: u64 = small.iter().chain(&big).map(Content::size).sum();
    let fetched = world.server.stats().bytes - before;
    assert!(
        fetched < total / 2,
        "after {ROUNDS} rounds of reading, {fetched} of {total} bytes had to be fetched again"
    );
    for (n, content) in fresh.iter().enumerate() {
        assert_same(&world.at(&format!("fresh/{n:02}")), content);
    }
}

#[test]
fn a_start_after_sigkill_takes_the_mount_point_over() {
    let world = World::new();
    let content = world.put("file", 1, 2 << 20);
    let mut dead = world.local("64MiB", &[]);
    assert_same(&world.at("file"), &content);
    dead.process.kill();
    assert!(
        std::fs::read_dir(world.mount_point()).is_err(),
        "the mount is dead"
    );
    let before = world.server.stats();
    let local = world.local("64MiB", &[]);
    assert_same(&world.at("file"), &content);
    assert_eq!(
        (world.server.stats() - before).get,
        0,
        "the cache has survived"
    );
    assert!(local.stop().unwrap().success());
}

#[test]
fn a_damaged_page_index_costs_the_cache_and_nothing_else() {
    let world = World::new();
    let content = world.put("file", 1, 3 << 20);
    let mut dead = world.local("64MiB", &[]);
    assert_same(&world.at("file"), &content);
    dead.process.kill();
    drop(dead);
    let index = world.dir.path().join("state/worker/index");
    let mut damaged = 0;
    for file in std::fs::read_dir(index).unwrap().map(|e| e.unwrap().path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        if file.extension().is_some_and(|e| e == "log") && bytes.len() > 100 {
            // Early in the log, so that more records follow.
            bytes[20] ^= 0xff;
            std::fs::write(&file, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let local = world.local("64MiB", &[]);
    assert_same(&world.at("file"), &content);
    assert!(local.process.stderr().contains("page index is damaged"));
    assert!(local.stop().unwrap().success());
}
