//! The promises of SEMANTICS.md on a real mount. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "tests and what supports them")]

#[path = "support/fixture.rs"]
#[expect(dead_code, reason = "shared with the measurements")]
mod fixture;
#[path = "support/local.rs"]
#[expect(dead_code, reason = "shared with the tests without a kernel")]
mod local;
#[path = "../../client/tests/support/master.rs"]
#[expect(dead_code, reason = "shared with the tests of the client")]
mod master;

use fixture::{Fixture, fixture, until};
use local::{Conduct, bytes};
use master::ROOT;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

const MIB: u64 = 1 << 20;
const EROFS: i32 = 30;
const ESTALE: i32 = 116;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

const PASSTHROUGH: &str = "forebay_fuse_opens_total{mode=\"passthrough\"}";
const CACHED: &str = "forebay_fuse_opens_total{mode=\"cached\"}";

fn is_passthrough(f: &Fixture, opens: u64) -> bool {
    f.metric(PASSTHROUGH) == opens
}

#[test]
fn names_and_attributes_are_those_of_the_master_and_the_owner_is_the_process() {
    let f = fixture(true);
    let dir = f.master.add_dir(ROOT, "dir");
    for i in 0..2500 {
        f.master.add_file(dir, &format!("f{i:04}"), i);
    }
    assert_eq!(names(&f.mount), ["dir"]);
    let listed = names(&f.mount.join("dir"));
    assert_eq!(listed.len(), 2500);
    assert_eq!(listed[17], "f0017");
    let stat = fs::metadata(f.mount.join("dir/f0017")).unwrap();
    assert_eq!((stat.len(), stat.mode(), stat.nlink()), (17, 0o100_444, 1));
    assert_eq!((stat.mtime(), stat.blksize()), (1_700_000_000, 4096));
    assert_eq!(stat.uid(), rustix::process::geteuid().as_raw());
    assert!(fs::metadata(f.mount.join("dir")).unwrap().is_dir());
    assert_eq!(errno(fs::metadata(f.mount.join("no"))), Some(2));
    // All from the listing: no lookups of single names but those before it.
    assert!(f.master.calls("lookup") < 5, "{}", f.master.calls("lookup"));
}

#[test]
fn a_listing_again_comes_from_the_kernel_and_a_changed_one_does_not() {
    let f = fixture(true);
    for i in 0..500 {
        f.master.add_file(ROOT, &format!("f{i:04}"), i);
    }
    assert_eq!(names(&f.mount).len(), 500);
    assert_eq!(names(&f.mount).len(), 500);
    let readdirs = f.metric("forebay_fuse_request_seconds_count{op=\"readdir\"}");
    assert_eq!(names(&f.mount).len(), 500);
    assert_eq!(
        f.metric("forebay_fuse_request_seconds_count{op=\"readdir\"}"),
        readdirs
    );
    f.master.put(ROOT, "new", 1);
    until("the new name is listed", || names(&f.mount).len() == 501);
    f.master.remove(ROOT, "f0000");
    until("the removed name is not listed", || {
        names(&f.mount).len() == 500
    });
}

#[test]
fn a_whole_file_is_read_in_passthrough_byte_for_byte() {
    let f = fixture(true);
    let size = 3 * MIB + 77;
    let ino = f.master.add_file(ROOT, "a", size);
    let path = f.mount.join("a");
    assert!(fs::read(&path).unwrap() == bytes(ino, 0..size));
    let file = File::open(&path).unwrap();
    let mut at = [0; 1000];
    file.read_exact_at(&mut at, MIB - 500).unwrap();
    assert_eq!(at[..], bytes(ino, MIB - 500..MIB + 500));
    assert!(is_passthrough(&f, 2), "{}", f.metrics());
    assert_eq!(f.metric("forebay_fuse_read_bytes_total"), 0);
}

#[test]
fn opening_a_whole_file_again_asks_neither_worker_nor_master() {
    let f = fixture(true);
    let ino = f.master.add_file(ROOT, "a", 1000);
    for round in 1..=5 {
        assert_eq!(fs::read(f.mount.join("a")).unwrap(), bytes(ino, 0..1000));
        assert!(is_passthrough(&f, round));
    }
    assert_eq!((f.local.calls().open, f.master.calls("open")), (1, 1));
    let lease = f.local.leases()[0];
    f.runtime.block_on(f.local.recall(lease));
    until("the lease is given back", || f.local.leases().is_empty());
    assert_eq!(fs::read(f.mount.join("a")).unwrap(), bytes(ino, 0..1000));
    assert_eq!(f.local.calls().open, 2);
}

#[test]
fn a_partial_file_is_read_byte_for_byte_and_keeps_its_mode_while_it_is_open() {
    let f = fixture(true);
    let size = 5 * MIB + 3;
    let ino = f.master.add_file(ROOT, "a", size);
    f.local.set(ino, Conduct::Partial);
    let path = f.mount.join("a");
    let open = File::open(&path).unwrap();
    let mut at = vec![0; 5000];
    open.read_exact_at(&mut at, 2 * MIB - 2500).unwrap();
    assert_eq!(at, bytes(ino, 2 * MIB - 2500..2 * MIB + 2500));
    // Whole by now, but open in cached mode: passthrough would be refused by the kernel.
    f.local.set(ino, Conduct::Whole);
    assert!(fs::read(&path).unwrap() == bytes(ino, 0..size));
    assert_eq!((f.metric(CACHED), f.metric(PASSTHROUGH)), (2, 0));
    drop(open);
    until("the last release arrives", || f.local.leases().is_empty());
    assert!(fs::read(&path).unwrap() == bytes(ino, 0..size));
    assert_eq!(f.metric(PASSTHROUGH), 1);
}

#[test]
fn without_passthrough_and_past_the_cache_the_bytes_are_the_same() {
    let f = fixture(false);
    let size = 2 * MIB + 9;
    let empty = f.master.add_file(ROOT, "empty", 0);
    for conduct in [
        Conduct::Whole,
        Conduct::Partial,
        Conduct::NotCached,
        Conduct::NoSpace,
    ] {
        let name = format!("{conduct:?}");
        let ino = f.master.put(ROOT, &name, size);
        f.local.set(ino, conduct);
        assert!(
            fs::read(f.mount.join(name)).unwrap() == bytes(ino, 0..size),
            "{conduct:?}"
        );
    }
    assert_eq!(fs::read(f.mount.join("empty")).unwrap(), b"", "{empty}");
}

#[test]
fn whatever_writes_gets_erofs() {
    let f = fixture(true);
    f.master.add_file(ROOT, "a", 10);
    let at = |name: &str| f.mount.join(name);
    assert_eq!(errno(fs::write(at("a"), "x")), Some(EROFS));
    assert_eq!(errno(fs::write(at("b"), "x")), Some(EROFS));
    assert_eq!(
        errno(fs::OpenOptions::new().append(true).open(at("a"))),
        Some(EROFS)
    );
    assert_eq!(errno(fs::create_dir(at("d"))), Some(EROFS));
    assert_eq!(errno(fs::remove_file(at("a"))), Some(EROFS));
    assert_eq!(errno(fs::rename(at("a"), at("c"))), Some(EROFS));
    assert_eq!(errno(fs::hard_link(at("a"), at("c"))), Some(EROFS));
    assert_eq!(errno(std::os::unix::fs::symlink("a", at("c"))), Some(EROFS));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    assert_eq!(errno(fs::set_permissions(at("a"), mode)), Some(EROFS));
}

#[test]
fn replaced_content_is_estale_for_the_reader_and_new_for_who_opens_again() {
    let f = fixture(true);
    let ino = f.master.add_file(ROOT, "a", MIB);
    f.local.set(ino, Conduct::Partial);
    let path = f.mount.join("a");
    let mut open = File::open(&path).unwrap();
    let mut start = [0; 100];
    open.read_exact(&mut start).unwrap();
    // Replaced in the under store; the master knows, its invalidation has not arrived.
    f.local.set(ino, Conduct::StaleAtRead);
    let new = f.master.add_file(ROOT, "a", 2 * MIB);
    assert_eq!(
        errno(open.read_exact_at(&mut start, MIB - 100)),
        Some(ESTALE)
    );
    assert!(fs::read(&path).unwrap() == bytes(new, 0..2 * MIB));
    assert_eq!(fs::metadata(&path).unwrap().ino(), new);
}

#[test]
fn an_open_whole_file_keeps_its_old_content_when_it_is_replaced() {
    let f = fixture(true);
    let old = f.master.add_file(ROOT, "a", 1000);
    let path = f.mount.join("a");
    let open = File::open(&path).unwrap();
    let new = f.master.put(ROOT, "a", 2000);
    until("the name leads to the new inode", || {
        fs::metadata(&path).unwrap().ino() == new
    });
    assert_eq!(fs::read(&path).unwrap(), bytes(new, 0..2000));
    let mut all = vec![0; 1000];
    open.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, bytes(old, 0..1000));
}

#[test]
fn a_change_reaches_a_path_that_the_kernel_has_cached() {
    let f = fixture(true);
    let dir = f.master.add_dir(ROOT, "d");
    f.master.add_file(dir, "a", 1);
    assert_eq!(fs::metadata(f.mount.join("d/a")).unwrap().len(), 1);
    assert_eq!(errno(fs::metadata(f.mount.join("d/b"))), Some(2));
    f.master.put(dir, "a", 2);
    f.master.put(dir, "b", 3);
    until("the new size shows", || {
        fs::metadata(f.mount.join("d/a")).unwrap().len() == 2
    });
    until("the new name shows", || {
        fs::metadata(f.mount.join("d/b")).is_ok()
    });
    f.master.remove(dir, "b");
    until("the removed name is gone", || {
        fs::metadata(f.mount.join("d/b")).is_err()
    });
}

#[test]
fn after_the_master_was_lost_nothing_old_is_shown() {
    let f = fixture(true);
    f.master.add_file(ROOT, "a", 1);
    assert_eq!(fs::metadata(f.mount.join("a")).unwrap().len(), 1);
    assert_eq!(names(&f.mount).len(), 1);
    // The change is never told: the stream is broken when it happens.
    f.master.cut_watches();
    f.master.add_file(ROOT, "a", 2);
    f.master.add_file(ROOT, "b", 2);
    until("the new size shows", || {
        fs::metadata(f.mount.join("a")).unwrap().len() == 2
    });
    until("the new name is listed", || names(&f.mount).len() == 2);
}

#[test]
fn the_mount_tells_its_master() {
    let f = fixture(true);
    f.master.add_file(ROOT, "a", 1);
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(f.mount.join("a"), "user.forebay.master", &mut value).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&value[..len]),
        f.master.address().to_string()
    );
}

#[test]
fn concurrent_opens_of_one_file_agree_on_its_mode() {
    let f = fixture(true);
    let size = 64 << 10;
    let inodes: Vec<u64> = (0..40)
        .map(|i| f.master.add_file(ROOT, &format!("f{i}"), size))
        .collect();
    f.local.set_usual(Conduct::Partial);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (f, inodes) = (&f, &inodes);
            scope.spawn(move || {
                for round in 0..200usize {
                    let n = (round * 7 + thread) % inodes.len();
                    // Files become whole while others have them open.
                    if round == 100 && thread == 0 {
                        f.local.set_usual(Conduct::Whole);
                    }
                    let got = fs::read(f.mount.join(format!("f{n}"))).unwrap();
                    assert!(got == bytes(inodes[n], 0..size), "f{n}");
                }
            });
        }
    });
    assert!(f.metric(PASSTHROUGH) > 0 && f.metric(CACHED) > 0);
}

#[test]
fn direct_reads_work_in_every_mode() {
    let f = fixture(true);
    for conduct in [Conduct::Whole, Conduct::Partial] {
        let name = format!("{conduct:?}");
        let ino = f.master.add_file(ROOT, &name, MIB);
        f.local.set(ino, conduct);
        let direct = File::options()
            .read(true)
            .custom_flags(0o40000)
            .open(f.mount.join(name))
            .unwrap();
        let mut page = Aligned([0; 4096]);
        direct.read_exact_at(&mut page.0, 8192).unwrap();
        assert_eq!(page.0[..], bytes(ino, 8192..8192 + 4096), "{conduct:?}");
    }
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

#[test]
fn unmounting_with_a_file_open_detaches_at_once() {
    let mut f = fixture(true);
    f.master.add_file(ROOT, "a", 10);
    let open = File::open(f.mount.join("a")).unwrap();
    let host = f.host.take().unwrap();
    let unmounting = f.runtime.spawn(host.unmount());
    until("the mount is gone", || names(&f.mount).is_empty());
    drop(open);
    f.runtime.block_on(unmounting).unwrap().unwrap();
}

#[test]
fn somebody_elses_unmount_ends_the_session() {
    let f = fixture(true);
    let host = f.host.as_ref().unwrap();
    rustix::mount::unmount(&f.mount, rustix::mount::UnmountFlags::empty()).unwrap();
    let ended =
        async { tokio::time::timeout(std::time::Duration::from_secs(20), host.ended()).await };
    f.runtime.block_on(ended).unwrap();
}

#[test]
fn a_second_mount_on_the_same_directory_is_refused() {
    let f = fixture(true);
    let error = forebay_fuse::mount::check(&f.mount).unwrap_err().0;
    assert!(
        error.contains("is busy") && error.contains("umount"),
        "{error}"
    );
}
