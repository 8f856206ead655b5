//! Three masters as processes: killed, stopped, started again.

use crate::world::{BUCKET, World, assert_same, eventually};
use forebay_e2e::{
    http::get,
    process::{Forebay, Member, Playground, Running},
    s3::{Content, Credentials},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// An election, on a machine that runs everything else, too.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a call may pause because the leader is gone: the bound of its retries, and no more.
const PAUSE: Duration = Duration::from_secs(12);

struct Quorum {
    playground: Playground,
    masters: Vec<Member>,
    /// Started again by hand, by number.
    again: BTreeMap<u64, Running>,
    credentials: Credentials,
}

impl Quorum {
    /// Every look at a name asks the leader, and the leader the store.
    fn start(world: &World) -> Quorum {
        let command = world
            .with_store("playground")
            .arg(world.dir.path().join("pg"))
            .args(["--masters", "3", "--workers", "1", "--mounts", "1"])
            .args(["--tier-size", "1GiB", "--option", "sync=always"])
            .arg(format!("s3://{BUCKET}"));
        Quorum::of(world, Playground::start(command).unwrap())
    }

    fn of(world: &World, playground: Playground) -> Quorum {
        Quorum {
            masters: playground.role("master").cloned().collect(),
            playground,
            again: BTreeMap::new(),
            credentials: world.credentials.clone(),
        }
    }

    /// All masters, as a client is told.
    fn addresses(&self) -> String {
        let addresses = self.masters.iter().filter_map(|m| m.address.clone());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// The masters of which `metric` is `value`; those that do not answer have none.
    fn those_with(&self, metric: &str, value: impl Fn(u64) -> bool) -> Vec<&Member> {
        let holds = |m: &&Member| figure(m, metric).is_some_and(&value);
        self.masters.iter().filter(holds).collect()
    }

    /// The one that leads and is not `gone`.
    fn leader(&self, gone: Option<u64>) -> Member {
        let mut leader = None;
        eventually("a master leads", PATIENCE, || {
            let leading = self.those_with("raft_is_leader", |yes| yes == 1);
            leader = leading.into_iter().find(|m| m.id != gone).cloned();
            leader.is_some()
        });
        leader.unwrap()
    }

    fn signal(&self, master: &Member, signal: Signal) {
        let again = self.again.get(&master.id.unwrap());
        let pid = again.map_or(master.pid, Running::pid);
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    }

    /// Whether its process has not ended.
    fn runs(&self, master: &Member) -> bool {
        let again = self.again.get(&master.id.unwrap());
        let pid = again.map_or(master.pid, Running::pid);
        // A zombie has no command line.
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    }

    /// Starts a killed master with its own directory.
    fn run_again(&mut self, master: &Member) {
        let command = Forebay::new("master").unwrap();
        let command = command
            .env("AWS_ACCESS_KEY_ID", &self.credentials.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.credentials.secret_key);
        let running = command.arg("--config").arg(&master.config).spawn().unwrap();
        self.again.insert(master.id.unwrap(), running);
    }

    /// The same; returns when it has caught up.
    fn restart(&mut self, master: &Member) {
        self.run_again(master);
        let running = self.again.get_mut(&master.id.unwrap()).unwrap();
        assert!(running.line(PATIENCE).unwrap().starts_with("ready "));
        let committed = figure(&self.leader(None), "raft_committed").unwrap();
        eventually("the restarted master catches up", PATIENCE, || {
            figure(master, "raft_applied").is_some_and(|applied| applied >= committed)
        });
        let (status, body) = get(&master.http, "/readyz").unwrap();
        assert!(status.contains("200"), "{status}: {body}");
    }
}

/// `forebay fs …` through masters; what it printed.
fn tool(args: &[&str], masters: &str, path: &str) -> String {
    let command = Forebay::new("fs").unwrap().args(args);
    let begun = Instant::now();
    let said = command.args(["--master", masters, path]).output().unwrap();
    assert!(
        begun.elapsed() < PAUSE,
        "{args:?} took {:?}",
        begun.elapsed()
    );
    said
}

/// Sets a flag when it goes.
struct Set<'a>(&'a AtomicBool);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The status line and body of a GET; absent if nobody answers.
fn figure(master: &Member, metric: &str) -> Option<u64> {
    let prefix = format!("forebay_master_{metric} ");
    let (_, body) = get(&master.http, "/metrics")?;
    let line = body.lines().find_map(|line| line.strip_prefix(&prefix))?;
    line.parse().ok()
}

#[test]
fn a_killed_leader_is_a_pause_and_no_error() {
    let world = World::new();
    let contents: Vec<(String, Content)> = (0..32u64)
        .map(|n| {
            let key = format!("d{}/f{n:02}", n % 4);
            let content = world.put(&key, n, 600_000);
            (key, content)
        })
        .collect();
    let mut quorum = Quorum::start(&world);
    let mount = quorum.playground.mount_points()[0].to_owned();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                for (key, content) in &contents {
                    assert_same(&mount.join(key), content);
                }
                rounds += 1;
            }
            rounds
        });
        // Also when an assertion fails: the scope waits for the reader.
        let stopping = Set(&done);
        for round in 0..3 {
            let all = quorum.addresses();
            let load = Forebay::new("fs").unwrap().args(["load", "--json"]);
            let mut load = load.args(["--master", &all, "/"]).spawn().unwrap();
            let leader = quorum.leader(None);
            quorum.signal(&leader, Signal::KILL);
            tool(&["pin"], &all, &format!("/d{round}"));
            let next = quorum.leader(leader.id);
            assert!(load.wait(PATIENCE).unwrap().success(), "{}", load.stderr());
            let loaded = load.line(PATIENCE).unwrap();
            assert!(loaded.contains("\"files\":32"), "{loaded}");
            assert_ne!(next.id, leader.id);
            quorum.restart(&leader);
            let pinned = tool(
                &["location", "--json"],
                &all,
                &format!("/d{round}/f0{round}"),
            );
            assert!(pinned.contains("\"pinned\":true"), "{pinned}");
        }
        drop(stopping);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn a_stopped_leader_steps_down_and_says_nothing_stale() {
    let world = World::new();
    world.put("f", 1, 1_000);
    let quorum = Quorum::start(&world);
    let mount = quorum.playground.mount_points()[0].to_owned();
    assert_eq!(fs::metadata(mount.join("f")).unwrap().len(), 1_000);
    let old = quorum.leader(None);
    quorum.signal(&old, Signal::STOP);
    let next = quorum.leader(old.id);
    let content = world.put("f", 2, 2_000);
    tool(&["sync", "-r"], &quorum.addresses(), "/");
    assert_same(&mount.join("f"), &content);

    quorum.signal(&old, Signal::CONT);
    // It believes to lead until it hears of the others.
    let told = tool(&["stat", "--json"], old.address.as_deref().unwrap(), "/f");
    assert!(told.contains("2000"), "{told}");
    eventually("the old leader follows", PATIENCE, || {
        figure(&old, "raft_leader") == next.id && figure(&old, "raft_is_leader") == Some(0)
    });
    assert_same(&mount.join("f"), &content);
}

#[test]
fn a_rolling_restart_costs_clients_no_error() {
    let world = World::new();
    let command = Forebay::new("playground").unwrap();
    let command = command.arg(world.dir.path().join("pg"));
    let alone = ["--masters", "3", "--workers", "0", "--mounts", "0"];
    let mut quorum = Quorum::of(&world, Playground::start(command.args(alone)).unwrap());
    let masters = quorum.addresses();
    let stop = AtomicBool::new(false);
    let failed = thread::scope(|scope| {
        let bench = scope.spawn(|| {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let command = Forebay::new("bench").unwrap().args(["meta", "--json"]);
                let command = command.args(["--operations", "create", "--duration", "1s"]);
                let said = command.args(["--master", &masters]).output().unwrap();
                let phase: serde_json::Value = serde_json::from_str(&said).unwrap();
                assert!(phase["count"].as_u64().unwrap() > 0, "{said}");
                failed.extend(phase["errors"].as_object().unwrap().clone());
            }
            failed
        });
        let _stop = Set(&stop);
        // The one that leads last.
        let leader = quorum.leader(None);
        let mut order = quorum.masters.clone();
        order.sort_by_key(|master| master.id == leader.id);
        for master in order {
            quorum.signal(&master, Signal::TERM);
            eventually("it has gone", PATIENCE, || !quorum.runs(&master));
            quorum.restart(&master);
        }
        stop.store(true, Ordering::Relaxed);
        bench.join().unwrap()
    });
    assert_eq!(failed, []);
}

#[test]
fn all_masters_killed_at_once_come_back_with_everything() {
    let world = World::new();
    let content = world.put("d/f", 1, 100_000);
    let mut quorum = Quorum::start(&world);
    let mount = quorum.playground.mount_points()[0].to_owned();
    let all = quorum.addresses();
    tool(&["pin"], &all, "/d");
    let inode = || {
        let stat = tool(&["stat", "--json"], &all, "/d/f");
        let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
        stat["inode"].as_u64().unwrap()
    };
    let before = inode();
    for master in quorum.masters.clone() {
        quorum.signal(&master, Signal::KILL);
    }
    for master in quorum.masters.clone() {
        quorum.run_again(&master);
    }
    assert_same(&mount.join("d/f"), &content);
    assert_eq!(inode(), before);
}

#[test]
fn a_playground_of_masters_alone_names_them_and_their_leader() {
    let world = World::new();
    let command = Forebay::new("playground").unwrap();
    let command = command.arg(world.dir.path().join("pg")).args([
        "--masters",
        "3",
        "--workers",
        "0",
        "--mounts",
        "0",
    ]);
    let quorum = Quorum::of(&world, Playground::start(command).unwrap());
    let ids: Vec<_> = quorum.masters.iter().map(|m| m.id).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3)]);
    let leading = quorum.masters.iter().filter(|m| m.leads == Some(true));
    assert_eq!(leading.count(), 1);
    assert_eq!(tool(&["ls"], &quorum.addresses(), "/"), "");
    assert!(quorum.playground.stop().unwrap().success());
}
