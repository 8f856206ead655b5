//! The metadata copied out of a running cluster, and made into a master again.

use crate::world::eventually;
use forebay_e2e::process::{Forebay, Member, Playground};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A master alone, below `dir`, and its address.
fn alone(dir: &Path) -> (Playground, Member, String) {
    let command = Forebay::new("playground").unwrap().arg(dir.join("pg"));
    let command = command.args(["--masters", "1", "--workers", "0", "--mounts", "0"]);
    let playground = Playground::start(command).unwrap();
    let member = playground.role("master").next().unwrap().clone();
    let master = member.address.clone().unwrap();
    (playground, member, master)
}

fn run(command: &str, args: &[&str]) -> String {
    Forebay::new(command).unwrap().args(args).output().unwrap()
}

/// Makes so many files; the paths that were acknowledged, directories among them.
fn create(master: &str, count: u64, acked: &Path) -> BTreeSet<String> {
    let (acked, operations) = (acked.to_str().unwrap(), format!("create:{count}"));
    run(
        "bench",
        &[
            "meta",
            "--master",
            master,
            "--operations",
            &operations,
            "--acked",
            acked,
        ],
    );
    let text = fs::read_to_string(acked).unwrap();
    let names = text
        .lines()
        .map(|line| line.strip_prefix('+').unwrap().to_owned());
    names.collect()
}

/// All of `there` is in the tree, and nothing of `absent`.
fn check(master: &str, there: &BTreeSet<String>, absent: &BTreeSet<String>) {
    let found = run("fs", &["find", "--master", master, "/"]);
    let found: BTreeSet<String> = found.lines().map(str::to_owned).collect();
    let missing: Vec<_> = there.difference(&found).take(5).collect();
    assert!(missing.is_empty(), "missing: {missing:?} …");
    let too_many: Vec<_> = absent.intersection(&found).take(5).collect();
    assert!(too_many.is_empty(), "too many: {too_many:?} …");
}

fn backup(master: &str, dir: &Path) -> (u64, u64) {
    let dir = dir.to_str().unwrap();
    let said = run("backup", &["--master", master, "--json", dir]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let figure = |name: &str| said[name].as_u64().unwrap();
    (figure("bytes"), figure("bytes_sent"))
}

/// The configuration of `master` with another directory.
fn with_directory(master: &Member, dir: &Path) -> PathBuf {
    let mut config: toml::Table = fs::read_to_string(&master.config).unwrap().parse().unwrap();
    let data_dir = dir.join("restored").to_str().unwrap().to_owned();
    config.insert("data_dir".to_owned(), data_dir.into());
    let file = dir.join("restored.toml");
    fs::write(&file, config.to_string()).unwrap();
    file
}

#[test]
fn a_backup_taken_while_it_serves_becomes_a_master_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (playground, member, master) = alone(dir);
    let copy = dir.join("backup");

    let mut kept = create(&master, 3_000, &dir.join("first"));
    let (all, sent) = backup(&master, &copy);
    assert_eq!(all, sent);
    kept.extend(create(&master, 500, &dir.join("second")));
    let (all, sent) = backup(&master, &copy);
    assert!(
        sent < all,
        "{sent} of {all}: what is there is not sent again"
    );
    let later = create(&master, 10, &dir.join("third"));
    check(
        &master,
        &kept.union(&later).cloned().collect(),
        &BTreeSet::new(),
    );
    assert!(playground.stop().unwrap().success());

    let config = with_directory(&member, dir);
    let (copy, file) = (copy.to_str().unwrap(), config.to_str().unwrap());
    run("restore", &[copy, "--config", file]);
    let again = Forebay::new("restore")
        .unwrap()
        .args([copy, "--config", file]);
    let refused = again.run().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("give an empty one"), "{said}");

    let command = Forebay::new("master").unwrap().args(["--config", file]);
    let mut restored = command.spawn().unwrap();
    assert!(restored.line(PATIENCE).unwrap().starts_with("ready "));
    check(&master, &kept, &later);
    let more = create(&master, 10, &dir.join("fourth"));
    check(&master, &kept.union(&more).cloned().collect(), &later);
    assert!(restored.terminate().unwrap().success());
}

#[test]
fn a_damaged_backup_is_refused_and_a_journal_is_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (playground, member, master) = alone(dir);
    let copy = dir.join("backup");
    create(&master, 100, &dir.join("acked"));
    backup(&master, &copy);

    // As if power were lost: nothing of the journal is cut.
    let pid = rustix::process::Pid::from_raw(member.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // A zombie has no command line; until then it holds its directory.
    let line = format!("/proc/{}/cmdline", member.pid);
    eventually("it is dead", PATIENCE, || {
        fs::read(&line).is_ok_and(|line| line.is_empty())
    });
    let data_dir = dir.join("pg/master-0");
    let data_dir = data_dir.to_str().unwrap();
    let dumped = run("journal", &["dump", data_dir]);
    assert!(dumped.contains("Create"), "{dumped}");
    assert!(dumped.contains("a leader begins its term"), "{dumped}");
    for line in run("journal", &["dump", "--json", data_dir]).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["index"].is_u64() && entry["content"]["kind"].is_string());
    }

    let largest = fs::read_dir(copy.join("files")).unwrap();
    let largest = largest.map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len());
    fs::write(largest.unwrap(), "damaged").unwrap();
    let config = with_directory(&member, dir);
    let restore = Forebay::new("restore").unwrap().arg(&copy);
    let refused = restore.arg("--config").arg(config).run().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("missing or damaged") && said.lines().count() == 1,
        "{said}"
    );
    assert!(!dir.join("restored").exists(), "nothing was begun");
    drop(playground);
}
