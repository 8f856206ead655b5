//! An object replaced in the store: one version or an error, never a mix.

use crate::world::{World, assert_same, eventually};
use forebay_e2e::s3::Backend;
use std::{fs::File, io::ErrorKind, os::unix::fs::FileExt, time::Duration};

const SIZE: u64 = 40 << 20;
const ESTALE: i32 = 116;

#[test]
fn a_reader_sees_the_old_version_or_estale_and_a_reopen_the_new_one() {
    let world = World::new();
    let old = world.put("file", 1, SIZE);
    let _local = world.local("256MiB", &[]);
    let open = File::open(world.at("file")).unwrap();
    let mut buffer = vec![0; 100_000];
    open.read_exact_at(&mut buffer, 0).unwrap();
    let new = world.put("file", 2, SIZE);
    let mut stale = 0;
    // From the end, where nothing is cached yet.
    for offset in (0..SIZE >> 20).rev().map(|page| page << 20) {
        match open.read_exact_at(&mut buffer, offset) {
            Ok(()) => {
                let want = old.bytes(offset..offset + buffer.len() as u64).unwrap();
                assert!(
                    buffer == want,
                    "bytes at {offset} are not of the version opened"
                );
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(ESTALE), "{error}");
                stale += 1;
            }
        }
    }
    assert!(stale > 0, "most of the old version was never fetched");
    assert_same(&world.at("file"), &new);
    drop(open);
    assert_same(&world.at("file"), &new);
}

#[test]
fn an_open_file_keeps_its_cached_version_through_a_sync() {
    let world = World::new();
    let old = world.put("file", 1, 5 << 20);
    let _local = world.local("256MiB", &["--option", "sync=never"]);
    assert_same(&world.at("file"), &old);
    let open = File::open(world.at("file")).unwrap();
    let new = world.put("file", 2, 6 << 20);
    assert_same(&world.at("file"), &old);
    world.fs(&["sync"], "");
    eventually("the new version is seen", Duration::from_secs(10), || {
        world.at("file").metadata().unwrap().len() == new.size()
    });
    assert_same(&world.at("file"), &new);
    let mut buffer = vec![0; 5 << 20];
    open.read_exact_at(&mut buffer, 0).unwrap();
    assert!(buffer == old.bytes(0..5 << 20).unwrap());
}

#[test]
fn new_and_removed_objects_show_after_the_interval() {
    let world = World::new();
    world.put("dir/one", 1, 10);
    let _local = world.local("64MiB", &["--option", "sync=300ms"]);
    assert!(world.at("dir/one").exists());
    assert!(!world.at("dir/two").exists());
    world.put("dir/two", 2, 10);
    eventually("the new object is seen", Duration::from_secs(10), || {
        world.at("dir/two").exists()
    });
    world.store.delete(crate::world::BUCKET, "dir/one").unwrap();
    eventually(
        "the removed object is gone",
        Duration::from_secs(10),
        || {
            world
                .at("dir/one")
                .metadata()
                .is_err_and(|e| e.kind() == ErrorKind::NotFound)
        },
    );
}

#[test]
fn with_sync_always_every_open_sees_the_store_as_it_is() {
    let world = World::new();
    let _local = world.local("64MiB", &["--option", "sync=always"]);
    for version in 0..5u64 {
        let content = world.put("file", version, 50_000 + version);
        assert_same(&world.at("file"), &content);
    }
}
