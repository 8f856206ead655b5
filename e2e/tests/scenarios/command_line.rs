//! `forebay fs` and `forebay report` on a mount.

use crate::world::{World, eventually};
use forebay_e2e::{
    process::Forebay,
    s3::{Effect, Fault, Op},
};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn object(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap()
}

#[test]
fn looking() {
    let world = World::new();
    world.put("dir/a.bin", 1, 100_000);
    world.put("dir/sub/b.txt", 2, 2_000_000);
    world.put_bytes("hello", b"hello, world\n");
    let _local = world.local("128MiB", &[]);
    let listed = lines(&world.fs(&["ls", "--json"], "dir"));
    assert_eq!(listed[0]["name"], "a.bin");
    assert_eq!(listed[1]["kind"], "directory");
    assert!(world.fs(&["ls"], "dir").contains("a.bin"));
    assert_eq!(world.fs(&["cat"], "hello"), "hello, world\n");
    let stat = object(&world.fs(&["stat", "--json"], "dir/sub/b.txt"));
    assert_eq!(stat["size"], 2_000_000);
    assert_eq!(stat["key"], "dir/sub/b.txt");
    assert_eq!(stat["cached_bytes"], 0);
    let total = lines(&world.fs(&["du", "--json"], "")).pop().unwrap();
    assert_eq!(total["total"]["files"], 3);
    assert_eq!(total["total"]["bytes"], 2_100_013);
    let found = world.fs(&["find", "--name", "*.txt", "--min-size", "1MiB"], "");
    assert_eq!(found.trim(), "/dir/sub/b.txt");
    assert_eq!(
        world.fs(&["find", "--type", "d", "--newer-than", "1d"], "dir/a.bin"),
        ""
    );
    let missing = Forebay::new("fs")
        .unwrap()
        .arg("ls")
        .arg(world.at("none"))
        .run()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn load_pin_free_and_where_things_are() {
    let world = World::new();
    for n in 0..40 {
        world.put(&format!("train/{n:02}"), n, 110_000);
    }
    world.put("test/x", 1, 110_000);
    let _local = world.local("128MiB", &[]);
    let loaded = object(&world.fs(&["load", "--json"], "train"));
    assert_eq!(
        (&loaded["files"], &loaded["files_failed"]),
        (&40.into(), &0.into())
    );
    assert_eq!(loaded["bytes"], 40 * 110_000);
    let gets = world.server.stats().get;
    let again = object(&world.fs(&["load", "--json"], "train"));
    assert_eq!(again["files_cached_before"], 40);
    assert_eq!(world.server.stats().get, gets, "nothing is fetched twice");
    std::fs::read(world.at("train/07")).unwrap();
    assert_eq!(
        world.server.stats().get,
        gets,
        "loaded files are read from the cache"
    );
    let place = lines(&world.fs(&["location", "--json"], "train/07"));
    assert_eq!(place[0]["cached_bytes"], 110_000);
    assert_eq!(place[0]["home"], true);
    assert!(object(&world.fs(&["pin", "--json"], "train"))["inodes"].as_u64() >= Some(1));
    assert_eq!(
        lines(&world.fs(&["location", "--json"], "train/07"))[0]["pinned"],
        true
    );
    world.fs(&["unpin"], "train");
    assert_eq!(
        lines(&world.fs(&["location", "--json"], "train/07"))[0]["pinned"],
        false
    );
    let freed = object(&world.fs(&["free", "--json"], "train"));
    assert_eq!(
        (&freed["files"], &freed["bytes"]),
        (&40.into(), &(40 * 110_000).into())
    );
    let report = || {
        let command = Forebay::new("report")
            .unwrap()
            .arg("--json")
            .arg(world.mount_point());
        object(&command.output().unwrap())
    };
    eventually("the report follows", Duration::from_secs(10), || {
        let report = report();
        report["workers"][0]["tiers"][0]["used"] == 0
            && report["total"]["bytes_from_ufs"].as_u64() >= Some(40 * 110_000)
    });
    let only = object(&world.fs(&["load", "--json", "--include", "test/**"], ""));
    assert_eq!(only["files"], 1);
    world.put("train/new", 77, 5);
    let synced = object(&world.fs(&["sync", "--json"], "train"));
    assert_eq!(synced["added"], 1);
    assert!(world.at("train/new").exists());
}

#[test]
fn failures_of_a_load_are_counted_and_named() {
    let world = World::new();
    for n in 0..10 {
        world.put(&format!("d/{n}"), n, 50_000);
    }
    let _local = world.local("128MiB", &[]);
    let _denied = world
        .server
        .inject(Fault::new(Effect::AccessDenied).on(Op::Get).below("d/3"));
    let output = Forebay::new("fs")
        .unwrap()
        .args(["load", "--json"])
        .arg(world.at("d"))
        .run()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = lines(&String::from_utf8(output.stdout).unwrap());
    assert!(said.iter().any(|line| line["failed"] == "/d/3"), "{said:?}");
    let summary = said.last().unwrap();
    assert_eq!(
        (&summary["files"], &summary["files_failed"]),
        (&9.into(), &1.into())
    );
}

#[test]
fn an_interrupted_load_goes_on_where_it_stopped() {
    let world = World::new();
    for n in 0..60 {
        world.put(&format!("d/{n:02}"), n, 200_000);
    }
    let _local = world.local("128MiB", &[]);
    let held = world
        .server
        .inject(Fault::new(Effect::Hold).on(Op::Get).below("d/5"));
    let mut load = Forebay::new("fs")
        .unwrap()
        .args(["load", "--json"])
        .arg(world.at("d"))
        .spawn()
        .unwrap();
    // The ten held ones cannot finish: everything else does.
    eventually("most is loaded", Duration::from_secs(20), || {
        world.server.stats().bytes >= 50 * 200_000
    });
    load.signal(Signal::INT);
    let status = load.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", load.stderr());
    assert!(
        load.stderr().contains("goes on from there"),
        "{}",
        load.stderr()
    );
    held.lift();
    let rest = object(&world.fs(&["load", "--json"], "d"));
    assert_eq!(rest["files"], 60);
    assert!(rest["files_cached_before"].as_u64() >= Some(40), "{rest}");
}
