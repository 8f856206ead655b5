//! Data directories of earlier versions open for ever.

use forebay_e2e::process::Forebay;
use std::{collections::BTreeSet, fs, process::Command, time::Duration};

const PATIENCE: Duration = Duration::from_secs(20);

/// What must be there and what must not, by the record of `bench meta --acked`: the last line of a
/// path counts.
fn acknowledged(record: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut there, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for line in record.lines() {
        let (sign, path) = line.split_at(1);
        let (to, from) = if sign == "+" {
            (&mut there, &mut gone)
        } else {
            (&mut gone, &mut there)
        };
        from.remove(path);
        to.insert(path);
    }
    (there, gone)
}

/// A master of format 1 that was killed: half of it in the tables, half in the journal only.
#[test]
fn a_master_of_format_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let unpack = Command::new("tar")
        .arg("-xzf")
        .arg("tests/fixtures/master-format-1.tar.gz")
        .arg("-C")
        .arg(dir)
        .status();
    assert!(unpack.unwrap().success());
    let (config, socket) = (dir.join("master.toml"), dir.join("m.sock"));
    let master = format!("unix:{}", socket.display());
    let data_dir = dir.join("master");
    let text = format!("data_dir = {data_dir:?}\nlisten = {master:?}\n");
    fs::write(&config, text).unwrap();

    let dump = Forebay::new("journal").unwrap().arg("dump").arg(&data_dir);
    assert!(dump.output().unwrap().contains("Mkdir"));
    let command = Forebay::new("master").unwrap().arg("--config").arg(&config);
    let mut running = command.spawn().unwrap();
    assert!(running.line(PATIENCE).unwrap().starts_with("ready "));
    let find = Forebay::new("fs")
        .unwrap()
        .args(["find", "--master", &master, "/"]);
    let found = find.output().unwrap();
    let found: BTreeSet<&str> = found.lines().collect();
    let record = fs::read_to_string(dir.join("acked")).unwrap();
    let (there, gone) = acknowledged(&record);
    assert!(there.len() > 50 && gone.len() >= 10);
    assert!(there.is_subset(&found), "{:?}", there.difference(&found));
    assert!(gone.is_disjoint(&found), "{:?}", gone.intersection(&found));
    assert!(running.terminate().unwrap().success());
}
