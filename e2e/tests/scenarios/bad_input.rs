//! Every wrong request: one line that names the value and the remedy, exit code 1 or 2.

use crate::world::{BUCKET, World};
use forebay_e2e::process::Forebay;
use std::fs;

/// Runs a `forebay local` that must fail; checks its words.
#[track_caller]
fn refused(command: Forebay, words: &[&str]) {
    let output = command.run().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // Log lines may come before; the error is the last line and begins so.
    let line = said.lines().last().unwrap_or_default();
    assert!(line.starts_with("forebay: "), "{said}");
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{:?}: {said}",
        output.status
    );
    for word in words {
        assert!(line.contains(word), "'{word}' is not in: {line}");
    }
    for text in ["panicked", "internal error", "RUST_BACKTRACE", "unwrap"] {
        assert!(!said.contains(text), "{said}");
    }
    assert!(output.stdout.is_empty());
}

fn local(world: &World, uri: &str, more: &[&str]) -> Forebay {
    world
        .with_store("local")
        .arg(world.mount_point())
        .arg(uri)
        .arg("--data-dir")
        .arg(world.dir.path().join("state"))
        .args(more)
}

#[test]
fn uris_and_options() {
    let world = World::new();
    refused(local(&world, "bucket", &[]), &["'bucket'", "s3://"]);
    refused(local(&world, "ftp://host/x", &[]), &["ftp", "s3"]);
    refused(local(&world, "s3://", &[]), &["s3://"]);
    refused(
        local(&world, "s3://data", &["--option", "endpiont=x"]),
        &["endpiont", "endpoint"],
    );
    refused(
        local(&world, "s3://data", &["--option", "novalue"]),
        &["'novalue'", "KEY=VALUE"],
    );
    let secret = Forebay::new("local")
        .unwrap()
        .arg(world.mount_point())
        .arg("s3://AKIAID:hunter2secret@data")
        .run()
        .unwrap();
    let said = String::from_utf8(secret.stderr).unwrap();
    assert!(matches!(secret.status.code(), Some(1 | 2)), "{said}");
    assert!(
        !said.contains("hunter2secret"),
        "a secret in the URI is not printed: {said}"
    );
}

#[test]
fn unknown_flags_and_configuration_keys() {
    let world = World::new();
    refused(
        local(&world, "s3://data", &["--no-such-flag"]),
        &["--no-such-flag", "--help"],
    );
    let file = world.dir.path().join("local.toml");
    fs::write(&file, "memroy = \"1GiB\"\n").unwrap();
    let path = file.to_str().unwrap();
    refused(
        local(&world, "s3://data", &["--config", path]),
        &["memroy", path],
    );
    fs::write(&file, "memory = \"lots\"\n").unwrap();
    refused(
        local(&world, "s3://data", &["--config", path]),
        &["lots", path],
    );
    refused(
        local(&world, "s3://data", &["--config", "/no/such/file.toml"]),
        &["/no/such/file.toml"],
    );
}

#[test]
fn mount_points() {
    let world = World::new();
    let mount = |path: &std::path::Path| world.with_store("local").arg(path).arg("s3://data");
    let missing = world.dir.path().join("missing");
    refused(mount(&missing), &[missing.to_str().unwrap(), "mkdir"]);
    let file = world.dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    refused(mount(&file), &[file.to_str().unwrap(), "directory"]);
    let full = world.dir.path().join("full");
    fs::create_dir_all(full.join("x")).unwrap();
    refused(mount(&full), &[full.to_str().unwrap(), "empty"]);
    let _local = world.local("64MiB", &[]);
    refused(
        mount(&world.mount_point()),
        &[world.mount_point().to_str().unwrap(), "mount"],
    );
}

#[test]
fn data_directories() {
    let world = World::new();
    world.put("x", 1, 10);
    let state = world.dir.path().join("state");
    world.local("64MiB", &[]).stop().unwrap();
    // A newer version's.
    let marker = fs::read_dir(&state)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "json"))
        .expect("the data directory has its marker");
    let text = fs::read_to_string(&marker).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["format"] = 1000.into();
    fs::write(&marker, json.to_string()).unwrap();
    refused(local(&world, "s3://data", &[]), &["1000", "newer"]);
    fs::write(&marker, text).unwrap();
    // Another cluster's: the worker's directory of one, the master's of another.
    let other = World::new();
    other.put("x", 1, 10);
    other.local("64MiB", &[]).stop().unwrap();
    fs::remove_dir_all(state.join("worker")).unwrap();
    let foreign = other.dir.path().join("state").join("worker");
    fs::rename(foreign, state.join("worker")).unwrap();
    refused(local(&world, "s3://data", &[]), &["worker", "cluster"]);
    // Somebody's home.
    let home = world.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("thesis.tex"), b"x").unwrap();
    let command = world
        .with_store("local")
        .arg(world.mount_point())
        .arg("s3://data")
        .arg("--data-dir")
        .arg(&home);
    refused(command, &[home.to_str().unwrap()]);
}

#[test]
fn tiers() {
    let world = World::new();
    let huge = format!("SSD={}:1000000TiB", world.dir.path().join("c").display());
    refused(
        local(&world, "s3://data", &["--tier", &huge]),
        &["PiB", "disk"],
    );
    refused(
        local(&world, "s3://data", &["--tier", "NVME=/x:1GiB"]),
        &["NVME", "SSD"],
    );
    refused(
        local(&world, "s3://data", &["--tier", "SSD=/x"]),
        &["SSD=/x", "MEDIUM=DIR:SIZE"],
    );
}

#[test]
fn the_store() {
    let world = World::new();
    refused(
        local(&world, "s3://nothing-there", &[]),
        &["nothing-there", "bucket"],
    );
    let wrong = world
        .with_store("local")
        .env("AWS_SECRET_ACCESS_KEY", "wrong")
        .arg(world.mount_point())
        .arg(format!("s3://{BUCKET}"));
    refused(wrong, &[BUCKET, "AWS_SECRET_ACCESS_KEY"]);
    let nobody = Forebay::new("local")
        .unwrap()
        .arg(world.mount_point())
        .arg(format!("s3://{BUCKET}"))
        .args(["--option", "endpoint=http://127.0.0.1:1"])
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "y")
        .env("HOME", world.dir.path().to_str().unwrap());
    refused(nobody, &["127.0.0.1:1"]);
    let directory = Forebay::new("local")
        .unwrap()
        .arg(world.mount_point())
        .arg("/no/such/directory");
    refused(directory, &["/no/such/directory"]);
}

#[test]
fn commands_outside_a_mount() {
    let world = World::new();
    let plain = Forebay::new("fs").unwrap().arg("ls").arg(world.dir.path());
    refused(plain, &["not inside a Forebay mount", "--master"]);
    let missing = Forebay::new("fs")
        .unwrap()
        .arg("ls")
        .arg(world.dir.path().join("none"));
    refused(missing, &["none"]);
    refused(
        Forebay::new("no-such-command").unwrap(),
        &["no-such-command", "--help"],
    );
}

/// In a mount namespace of its own whose `/dev` has no `fuse`.
#[test]
fn no_fuse_device() {
    let world = World::new();
    let dev = world.dir.path().join("dev");
    fs::create_dir(&dev).unwrap();
    for name in ["null", "urandom"] {
        fs::write(dev.join(name), b"").unwrap();
    }
    let script = "mount --bind /dev/null \"$1/null\" && mount --bind /dev/urandom \"$1/urandom\" \
                  && mount --rbind \"$1\" /dev && shift && exec \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&dev)
        .arg(forebay_e2e::process::forebay().unwrap())
        .arg("local")
        .arg(world.mount_point())
        .arg(world.dir.path())
        .arg("--data-dir")
        .arg(world.dir.path().join("state"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    let line = said.lines().last().unwrap_or_default();
    assert!(line.starts_with("forebay: /dev/fuse"), "{said}");
    assert!(line.contains("modprobe fuse"), "{said}");
}

#[test]
fn numbers_of_masters() {
    let world = World::new();
    for count in ["0", "2", "4", "7"] {
        let command = Forebay::new("playground").unwrap();
        let command = command.arg(world.dir.path().join("pg"));
        refused(
            command.args(["--masters", count]),
            &[&format!("--masters {count}"), "1, 3 or 5"],
        );
    }
}
