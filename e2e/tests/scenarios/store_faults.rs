//! The store fails, stalls and comes back under the reader.

use crate::world::{World, assert_same, eventually, read_range};
use forebay_e2e::s3::{Effect, Fault, Op};
use std::{fs, io::ErrorKind, thread, time::Duration};

#[test]
fn slow_down_and_broken_bodies_are_retried() {
    let world = World::new();
    let content = world.put("big", 1, 24 << 20);
    let _local = world.local("128MiB", &[]);
    let slow = world.server.inject(Fault::new(Effect::SlowDown).times(5));
    let cut = world
        .server
        .inject(Fault::new(Effect::CutBody(300_000)).on(Op::Get).times(3));
    assert_same(&world.at("big"), &content);
    assert!(slow.hits() > 0 && cut.hits() > 0);
}

#[test]
fn bytes_arrive_before_their_page_is_complete() {
    let world = World::new();
    let content = world.put("big", 1, 8 << 20);
    let _local = world.local("128MiB", &[]);
    fs::metadata(world.at("big")).unwrap();
    let held = world
        .server
        .inject(Fault::new(Effect::HoldBody(600_000)).on(Op::Get));
    let got = read_range(&world.at("big"), 0, 4096).unwrap();
    assert!(got == content.bytes(0..4096).unwrap());
    assert!(held.hits() > 0, "the body is still held");
    held.lift();
    assert_same(&world.at("big"), &content);
}

#[test]
fn what_is_cached_is_served_while_the_store_is_silent() {
    let world = World::new();
    let cached = world.put("cached", 1, 5 << 20);
    let fresh = world.put("fresh", 2, 5 << 20);
    let _local = world.local("128MiB", &["--option", "sync=never"]);
    assert_same(&world.at("cached"), &cached);
    let hold = world.server.inject(Fault::new(Effect::Hold));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| read_range(&world.at("fresh"), 0, 1000));
        assert!(hold.wait_for_hits(1, Duration::from_secs(10)));
        assert_same(&world.at("cached"), &cached);
        assert_eq!(fs::read_dir(world.mount_point()).unwrap().count(), 2);
        hold.lift();
        assert!(waiting.join().unwrap().unwrap() == fresh.bytes(0..1000).unwrap());
    });
}

#[test]
fn a_refusing_store_is_an_error_of_the_file_alone() {
    let world = World::new();
    let good = world.put("good", 1, 100_000);
    let bad = world.put("bad", 2, 100_000);
    let _local = world.local("128MiB", &[]);
    let denied = world
        .server
        .inject(Fault::new(Effect::AccessDenied).on(Op::Get).below("bad"));
    let error = read_range(&world.at("bad"), 0, 1000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_same(&world.at("good"), &good);
    denied.lift();
    // The failure is not remembered for long.
    eventually(
        "the file can be read again",
        Duration::from_secs(10),
        || read_range(&world.at("bad"), 0, 1000).is_ok(),
    );
    assert_same(&world.at("bad"), &bad);
}

#[test]
fn a_page_damaged_on_disk_is_fetched_again() {
    let world = World::new();
    let content = world.put("file", 3, 3 << 20);
    let local = world.local("128MiB", &[]);
    assert_same(&world.at("file"), &content);
    assert!(local.stop().unwrap().success());
    // Flip bytes in the middle of every cached file.
    let mut damaged = 0;
    let mut dirs = vec![world.dir.path().join("cache")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                dirs.push(entry);
            } else if entry.metadata().unwrap().len() == 3 << 20 {
                use std::os::unix::fs::FileExt;
                let file = fs::OpenOptions::new().write(true).open(&entry).unwrap();
                file.write_all_at(b"damage", (1 << 20) + 77).unwrap();
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    let before = world.server.stats();
    let _local = world.local("128MiB", &[]);
    assert_same(&world.at("file"), &content);
    let fetched = world.server.stats() - before;
    assert!(
        (1..=2 << 20).contains(&fetched.bytes),
        "only the damaged page: {fetched:?}"
    );
    eventually("the damage is counted", Duration::from_secs(10), || {
        let report = forebay_e2e::process::Forebay::new("report").unwrap();
        let json = report
            .arg("--json")
            .arg(world.mount_point())
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["total"]["corrupt_pages"].as_u64() >= Some(1)
    });
}

#[test]
fn a_cache_directory_that_vanishes_costs_time_and_no_error() {
    let world = World::new();
    let content = world.put("file", 4, 6 << 20);
    let _local = world.local("128MiB", &[]);
    assert_same(&world.at("file"), &content);
    fs::remove_dir_all(world.dir.path().join("cache")).unwrap();
    let other = world.put("other", 5, 6 << 20);
    assert_same(&world.at("file"), &content);
    world.fs(&["sync"], "");
    eventually("the new file is seen", Duration::from_secs(10), || {
        world.at("other").exists()
    });
    assert_same(&world.at("other"), &other);
}
