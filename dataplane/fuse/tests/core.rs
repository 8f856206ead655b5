//! The file system without a kernel: real metadata client, a master and a worker in memory.
#![allow(clippy::unwrap_used, reason = "tests and what supports them")]

#[path = "support/local.rs"]
#[expect(dead_code, reason = "shared with the tests of the mount")]
mod local;
#[path = "../../client/tests/support/master.rs"]
#[expect(dead_code, reason = "shared with the tests of the client")]
mod master;

use forebay_client::{LocalWorker, Master, Namespace, ReadAhead, RemoteReader};
use forebay_fuse::{
    failure::Failure,
    fs::{Fs, Sources},
    inode::{Backed, Mode},
    metrics::Metrics,
    top::Top,
};
use forebay_types::{Code, Ino};
use futures::FutureExt;
use local::{Conduct, FakeLocal, bytes};
use master::{FakeMaster, ROOT};
use std::{fs::File, io, sync::Arc, time::Duration};
use tokio_util::sync::{CancellationToken, DropGuard};

const MIB: u64 = 1 << 20;

struct Fixture {
    master: FakeMaster,
    local: Arc<FakeLocal>,
    fs: Fs<Number>,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

async fn fixture(passthrough: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let master = FakeMaster::start(&dir.path().join("master"), Duration::from_mins(1));
    let stop = CancellationToken::new();
    let namespace = Namespace::connect(Master::new(master.address()), 8 << 20, stop.clone())
        .await
        .unwrap();
    let tier = dir.path().join("tier");
    std::fs::create_dir(&tier).unwrap();
    let local = Arc::new(FakeLocal::new(&tier));
    let sources = Sources {
        namespace,
        local: Some(local.clone() as Arc<dyn LocalWorker>),
        remote: Arc::new(RemoteReader::new(master.address(), &ReadAhead::new(MIB))),
    };
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let fs = Fs::new(sources, Top::default(), passthrough, metrics);
    Fixture {
        master,
        local,
        fs,
        _stop: stop.drop_guard(),
        _dir: dir,
    }
}

#[derive(Clone, Debug)]
struct Number(u32);

impl Backed for Number {
    fn number(&self) -> u32 {
        self.0
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as the kernel answers")]
fn accept(_: &File) -> io::Result<Number> {
    Ok(Number(7))
}

fn never(_: &File) -> io::Result<Number> {
    panic!("registered twice")
}

fn stale<T>(result: Result<T, Failure>) -> bool {
    result.is_err_and(|failure| failure.errno == Code::Stale.errno())
}

#[tokio::test]
async fn a_whole_file_is_opened_in_passthrough_and_again_without_asking_anybody() {
    let f = fixture(true).await;
    let ino = Ino(f.master.add_file(ROOT, "a", 100));
    let inode = f.fs.open(ino, accept).await.unwrap();
    assert!(matches!(
        inode.mode,
        Mode::Passthrough {
            backing: Number(7),
            ..
        }
    ));
    f.fs.release(ino);
    for _ in 0..3 {
        let again =
            f.fs.open(ino, never)
                .now_or_never()
                .expect("ready at the first poll");
        assert!(matches!(again.unwrap().mode, Mode::Passthrough { .. }));
        f.fs.release(ino);
    }
    assert_eq!((f.local.calls().open, f.master.calls("open")), (1, 1));
    assert_eq!(f.local.leases().len(), 1);
}

#[tokio::test]
async fn a_partial_file_is_read_through_the_descriptor_and_its_lease_given_back() {
    let f = fixture(true).await;
    let size = 3 * MIB + 5;
    let ino = f.master.add_file(ROOT, "a", size);
    f.local.set(ino, Conduct::Partial);
    let inode = f.fs.open(Ino(ino), never).await.unwrap();
    assert!(matches!(inode.mode, Mode::Cached { .. }));
    for (at, len) in [
        (0, 10),
        (MIB - 3, 9),
        (size - 4, 100),
        (size, 1),
        (5 * MIB, 7),
    ] {
        let data = f.fs.read(Ino(ino), at..at + len).await.unwrap();
        assert_eq!(
            &*data,
            bytes(ino, at..(at + len).min(size).max(at)),
            "at {at}"
        );
    }
    // It becomes whole while it is open: the mode stays until the last release.
    f.local.set(ino, Conduct::Whole);
    f.fs.open(Ino(ino), never).await.unwrap();
    f.fs.release(Ino(ino));
    f.fs.release(Ino(ino));
    assert!(f.local.leases().is_empty());
    let inode = f.fs.open(Ino(ino), accept).await.unwrap();
    assert!(matches!(inode.mode, Mode::Passthrough { .. }));
}

#[tokio::test]
async fn what_the_cache_cannot_take_is_read_past_it() {
    let f = fixture(true).await;
    for conduct in [Conduct::NoSpace, Conduct::NotCached] {
        let ino = f.master.add_file(ROOT, &format!("{conduct:?}"), 1000);
        f.local.set(ino, conduct);
        f.fs.open(Ino(ino), never).await.unwrap();
        assert_eq!(
            &*f.fs.read(Ino(ino), 10..90).await.unwrap(),
            bytes(ino, 10..90)
        );
        f.fs.release(Ino(ino));
    }
    assert_eq!(f.local.calls().read, 2);
    assert!(f.local.leases().is_empty());
}

#[tokio::test]
async fn a_tier_file_that_is_shorter_than_it_should_be_is_read_past_the_cache() {
    let f = fixture(false).await;
    let ino = f.master.add_file(ROOT, "a", 1000);
    f.fs.open(Ino(ino), never).await.unwrap();
    File::options()
        .write(true)
        .open(f.local.path(ino))
        .unwrap()
        .set_len(50)
        .unwrap();
    assert_eq!(
        &*f.fs.read(Ino(ino), 10..90).await.unwrap(),
        bytes(ino, 10..90)
    );
}

#[tokio::test]
async fn without_passthrough_whole_files_are_read_through_the_descriptor() {
    let f = fixture(true).await;
    let ino = f.master.add_file(ROOT, "a", 1000);
    let refuse = |_: &File| Err(io::Error::from_raw_os_error(1));
    let inode = f.fs.open(Ino(ino), refuse).await.unwrap();
    assert!(matches!(inode.mode, Mode::Cached { .. }));
    let read =
        f.fs.read(Ino(ino), 0..1000)
            .now_or_never()
            .expect("present: ready at once");
    assert_eq!(&*read.unwrap(), bytes(ino, 0..1000));
    let other = f.master.add_file(ROOT, "b", 1000);
    f.fs.open(Ino(other), never).await.unwrap();
}

#[tokio::test]
async fn replaced_content_is_estale_and_the_name_is_asked_for_again() {
    let f = fixture(true).await;
    for (n, conduct) in [Conduct::StaleAtOpen, Conduct::StaleAtRead]
        .into_iter()
        .enumerate()
    {
        let name = format!("f{n}");
        let ino = f.master.add_file(ROOT, &name, 1000);
        f.local.set(ino, conduct);
        f.fs.lookup(Ino(ROOT), name.as_bytes()).await.unwrap();
        if conduct == Conduct::StaleAtOpen {
            assert!(stale(f.fs.open(Ino(ino), never).await));
        } else {
            f.fs.open(Ino(ino), never).await.unwrap();
            assert!(stale(f.fs.read(Ino(ino), 0..10).await));
            // Open as it is, nobody opens it again.
            assert!(stale(f.fs.open(Ino(ino), never).await));
            f.fs.release(Ino(ino));
        }
        // The master has put a new inode there; its invalidation need not have arrived.
        let new = f.master.add_file(ROOT, &name, 2000);
        let found = f.fs.lookup(Ino(ROOT), name.as_bytes()).await.unwrap();
        assert_eq!(found.value.unwrap().ino, Ino(new));
        // The kernel may still hold the old number: it is told to look again.
        assert!(stale(f.fs.open(Ino(ino), never).await));
        assert!(stale(f.fs.getattr(Ino(ino)).await));
    }
    assert!(f.local.leases().is_empty());
}

#[tokio::test]
async fn a_snapshot_of_a_directory_stays_and_loses_its_lease_with_the_first_change() {
    let f = fixture(true).await;
    let dir = f.master.add_dir(ROOT, "d");
    f.master.add_file(dir, "a", 1);
    let first = f.fs.opendir(Ino(dir)).await.unwrap();
    let again =
        f.fs.opendir(Ino(dir))
            .now_or_never()
            .expect("cached")
            .unwrap();
    assert!(!first.keep_cache && again.keep_cache);
    assert!(
        !f.fs
            .snapshot(Ino(dir), first.handle)
            .await
            .unwrap()
            .1
            .is_zero()
    );
    let mut changes = f.fs.namespace().invalidations();
    f.master.put(dir, "b", 1);
    changes.recv().await.unwrap();
    let (old, valid) = f.fs.snapshot(Ino(dir), first.handle).await.unwrap();
    assert_eq!((old.entries.len(), valid), (1, Duration::ZERO));
    let third = f.fs.opendir(Ino(dir)).await.unwrap();
    assert!(!third.keep_cache);
    assert_eq!(
        f.fs.snapshot(Ino(dir), third.handle)
            .await
            .unwrap()
            .0
            .entries
            .len(),
        2
    );
    f.fs.releasedir(first.handle);
    // A handle that nobody knows is one of a predecessor of the process: it goes on with what is there now.
    let (resumed, _) = f.fs.snapshot(Ino(dir), first.handle).await.unwrap();
    assert_eq!(resumed.entries.len(), 2);
}

#[tokio::test]
async fn odd_names_and_attributes_have_their_own_errors() {
    let f = fixture(true).await;
    let long = f.fs.lookup(Ino(ROOT), &[b'x'; 256]).await.unwrap_err();
    assert_eq!(long.errno, Failure::NAME_TOO_LONG);
    assert_eq!(
        f.fs.getxattr(b"user.other").unwrap_err().errno,
        Failure::NO_DATA
    );
    let master = f.fs.getxattr(b"user.forebay.master").unwrap();
    assert_eq!(master, f.master.address().to_string());
    assert_eq!(
        f.fs.read(Ino(99), 0..1).await.unwrap_err().errno,
        Code::InvalidArgument.errno()
    );
}
