//! Disks of a master that are really full: small ones in memory, filled up.

use crate::world::eventually;
use forebay_e2e::{
    http::get,
    process::{Forebay, Member, Playground},
};
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// RocksDB looks for space every five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A master alone, of whose directory one part is a disk of 64 MiB.
struct Small {
    dir: TempDir,
    playground: Playground,
    member: Member,
    /// The part, as this process sees it.
    disk: PathBuf,
}

impl Small {
    fn start(part: &str) -> Small {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("pg");
        let command = || {
            let command = Forebay::new("playground").unwrap().arg(&home);
            command.args(["--masters", "1", "--workers", "0", "--mounts", "0"])
        };
        Playground::start(command()).unwrap().stop().unwrap();
        let mount_point = home.join("master-0").join(part);
        let playground = Playground::start(command().with_disk(&mount_point, 64)).unwrap();
        let member = playground.role("master").next().unwrap().clone();
        let root = format!("/proc/{}/root", member.pid);
        let disk = Path::new(&root).join(mount_point.strip_prefix("/").unwrap());
        Small {
            dir,
            playground,
            member,
            disk,
        }
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let master = self.member.address.as_ref().unwrap();
        let (command, rest) = args.split_first().unwrap();
        let command = Forebay::new(command).unwrap().args(rest);
        let output = command.args(["--master", master]).run().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(String::from_utf8(output.stderr).unwrap())
    }

    /// Makes files; those that were refused are only counted.
    fn create(&self, count: u32) -> Result<String, String> {
        let operations = format!("create:{count}");
        self.run(&["bench", "meta", "--operations", &operations, "--path", "/s"])
    }

    /// A change, the n-th of its kind.
    fn change(&self, n: u32) -> Result<String, String> {
        self.run(&["fs", "mount", &format!("/m{n}"), "scratch:"])
    }

    fn names(&self) -> usize {
        self.run(&["fs", "find", "/s"]).unwrap().lines().count()
    }

    fn ballast(&self) -> PathBuf {
        self.disk.join("ballast")
    }

    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let mut size = 1 << 20;
        while size > 0 {
            match ballast.write_all(&vec![0; size]) {
                Ok(()) => {}
                Err(error) if is_full(&error) => size /= 2,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Refuses changes, says why, goes on to read; and all is well again when there is space.
    fn refuses_changes_until_there_is_space(self) {
        let before = self.names();
        let mut tried = 0;
        let mut refused = String::new();
        eventually("changes are refused", PATIENCE, || {
            // RocksDB has taken some of the disk in advance.
            let _ = self.create(5_000);
            tried += 1;
            refused = self.change(tried).err().unwrap_or_default();
            !refused.is_empty()
        });
        assert!(refused.contains("no space left"), "{refused}");
        let (status, why) = get(&self.member.http, "/readyz").unwrap();
        assert!(status.contains("503"), "{status}");
        assert!(why.contains("the disk is full"), "{why}");
        eventually("the metrics tell", PATIENCE, || {
            let (_, metrics) = get(&self.member.http, "/metrics").unwrap();
            metrics.contains("forebay_master_raft_disk_full 1")
        });
        // What was refused may be there or not, and what was there is.
        assert!(self.names() >= before);
        fs::remove_file(self.ballast()).unwrap();
        eventually("changes are made again", PATIENCE, || {
            tried += 1;
            self.change(tried).is_ok()
        });
        self.create(20).unwrap();
        assert!(self.names() >= before + 21);
        let (status, why) = get(&self.member.http, "/readyz").unwrap();
        assert!(status.contains("200"), "{status} {why}");
        self.playground.stop().unwrap();
    }
}

fn is_full(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOSPC)
}

#[test]
fn a_master_whose_journal_has_no_space_is_read_only_until_there_is() {
    let small = Small::start("journal");
    small.run(&["fs", "mount", "/s", "scratch:"]).unwrap();
    small.create(20).unwrap();
    small.fill();
    small.refuses_changes_until_there_is_space();
}

#[test]
fn a_master_whose_metadata_has_no_space_is_read_only_until_there_is() {
    let small = Small::start("meta");
    small.run(&["fs", "mount", "/s", "scratch:"]).unwrap();
    small.create(20).unwrap();
    small.fill();
    // Wants all of it on disk.
    let copy = small.dir.path().join("copy");
    small.run(&["backup", copy.to_str().unwrap()]).unwrap_err();
    small.refuses_changes_until_there_is_space();
}
