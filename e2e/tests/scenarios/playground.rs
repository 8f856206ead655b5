//! One master, three workers, two mounts, all separate processes.

use crate::world::{BUCKET, World, assert_same, eventually};
use forebay_e2e::{
    process::{Forebay, Playground},
    s3::Content,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

fn start(world: &World) -> Playground {
    let command = world
        .with_store("playground")
        .arg(world.dir.path().join("pg"))
        .args([
            "--masters",
            "1",
            "--workers",
            "3",
            "--mounts",
            "2",
            "--tier-size",
            "1GiB",
        ])
        .arg(format!("s3://{BUCKET}"));
    let playground = Playground::start(command).unwrap();
    // Until the workers know of each other, two may take the same page for theirs.
    eventually(
        "the workers know each other",
        Duration::from_secs(10),
        || {
            playground.role("worker").all(|worker| {
                get(&worker.http, "/metrics")
                    .1
                    .contains("forebay_worker_cluster_workers 3\n")
            })
        },
    );
    playground
}

/// The status line and body of a GET.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn two_mounts_over_three_workers_fetch_every_byte_once() {
    let world = World::new();
    let contents: Vec<(String, Content)> = (0..60u64)
        .map(|n| {
            let size = if n % 10 == 0 {
                6 << 20
            } else {
                90_000 + 1000 * n
            };
            let key = format!("d{}/f{n:02}", n % 3);
            let content = world.put(&key, n, size);
            (key, content)
        })
        .collect();
    let total: u64 = contents.iter().map(|(_, c)| c.size()).sum();
    let playground = start(&world);
    assert_eq!(playground.role("master").count(), 1);
    assert_eq!(playground.role("worker").count(), 3);
    let mounts = playground.mount_points();
    assert_eq!(mounts.len(), 2);
    for member in &playground.members {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let (status, body) = get(&member.http, path);
            assert!(status.contains("200"), "{} {path}: {status}", member.role);
            if path == "/metrics" {
                assert!(body.contains("forebay_"), "{}: {body}", member.role);
            }
        }
    }
    thread::scope(|scope| {
        for mount in &mounts {
            let contents = &contents;
            scope.spawn(move || {
                for (key, content) in contents {
                    assert_same(&mount.join(key), content);
                }
            });
        }
    });
    let fetched = world.server.stats().bytes;
    assert!(
        fetched as f64 <= 1.05 * total as f64,
        "{fetched} bytes fetched of {total}: more than 1.05 times"
    );
    let master = playground
        .role("master")
        .next()
        .unwrap()
        .address
        .clone()
        .unwrap();
    let listed = Forebay::new("fs")
        .unwrap()
        .args(["ls", "--json", "--master", &master, "/d1"]);
    assert_eq!(listed.output().unwrap().lines().count(), 20);
    let cat = Forebay::new("fs")
        .unwrap()
        .args(["cat", "--master", &master, "/d0/f00"]);
    let bytes = cat.run().unwrap().stdout;
    assert!(bytes == contents[0].1.bytes(0..6 << 20).unwrap());
    assert!(playground.stop().unwrap().success());
}

#[test]
fn a_killed_worker_costs_time_and_no_error() {
    let world = World::new();
    let contents: Vec<(String, Content)> = (0..24u64)
        .map(|n| {
            let key = format!("f{n:02}");
            let content = world.put(&key, n, 4 << 20);
            (key, content)
        })
        .collect();
    let playground = start(&world);
    let mount = playground.mount_points()[0].to_owned();
    // The third worker is nobody's local one.
    let victim = playground.role("worker").nth(2).unwrap().pid;
    for (n, (key, content)) in contents.iter().enumerate() {
        if n == 5 {
            kill_process(Pid::from_raw(victim.cast_signed()).unwrap(), Signal::KILL).unwrap();
        }
        assert_same(&mount.join(key), content);
    }
}

#[test]
fn a_killed_local_worker_costs_time_and_no_error() {
    let world = World::new();
    let contents: Vec<(String, Content)> = (0..12u64)
        .map(|n| {
            let key = format!("f{n:02}");
            let content = world.put(&key, n, 3 << 20);
            (key, content)
        })
        .collect();
    let playground = start(&world);
    let mount = playground.mount_points()[0].to_owned();
    let victim = playground.role("worker").next().unwrap().pid;
    for (n, (key, content)) in contents.iter().enumerate() {
        if n == 4 {
            kill_process(Pid::from_raw(victim.cast_signed()).unwrap(), Signal::KILL).unwrap();
        }
        assert_same(&mount.join(key), content);
    }
}

#[test]
fn a_mount_without_a_local_worker_streams_from_the_homes() {
    let world = World::new();
    let big = world.put("big", 1, 20 << 20);
    let small = world.put("small", 2, 1234);
    let command = world
        .with_store("playground")
        .arg(world.dir.path().join("pg"))
        .args(["--workers", "1", "--mounts", "2", "--tier-size", "1GiB"])
        .arg(format!("s3://{BUCKET}"));
    let playground = Playground::start(command).unwrap();
    // The second mount has no worker of its own.
    let mount = playground.mount_points()[1].to_owned();
    assert_same(&mount.join("small"), &small);
    assert_same(&mount.join("big"), &big);
    let before = world.server.stats();
    assert_same(&mount.join("big"), &big);
    assert_eq!((world.server.stats() - before).get, 0, "the home has it");
}
