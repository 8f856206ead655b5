//! What each mount has.

use crate::support::*;
use forebay_meta::{Access, Change, Meta, Usage};
use forebay_types::{MountId, MountSpec};

fn usage(world: &World, mount: MountId) -> [u64; 3] {
    let usage = world.meta.usage(mount).unwrap();
    [usage.files, usage.bytes, usage.unlisted]
}

#[test]
fn single_files_count_at_once_and_what_is_below_a_directory_when_it_is_reaped() {
    let mut world = World::new();
    let mount = world.mount("/", "mem://a");
    assert_eq!(usage(&world, mount), [0, 0, 1]);
    world.load("/", &[file("a", "12345"), file("b", "1"), dir("d")]);
    assert_eq!(usage(&world, mount), [2, 6, 1]);
    world.load("/d", &[file("c", "123"), file("e", "12"), dir("f")]);
    assert_eq!(usage(&world, mount), [4, 11, 1]);

    world.upsert("/", &[file("a", "12"), file("b", "1")]);
    assert_eq!(usage(&world, mount), [4, 8, 1], "replaced");
    world.remove("/", &["b", "never"]);
    assert_eq!(usage(&world, mount), [3, 7, 1], "removed");
    world.remove("/", &["d"]);
    assert_eq!(usage(&world, mount), [3, 7, 1], "as long as it waits");
    while world.reap(1) > 0 {}
    assert_eq!(usage(&world, mount), [1, 2, 0], "each once");
    let latest = world.meta.usage(mount).unwrap().last_sync_ns;
    assert_eq!(latest, second(4), "of a directory that is gone");
}

#[test]
fn a_mount_takes_its_figures_with_it_and_a_new_one_has_its_own() {
    let mut world = World::new();
    let outer = world.mount("/", "mem://a");
    world.load("/", &[file("x", "1")]);
    let first = world.mount("/m", "mem://b");
    world.load("/m", &[file("y", "12"), dir("d")]);
    world.load("/m/d", &[file("z", "123")]);
    let inner = world.mount("/m/d/n", "mem://c");
    world.load("/m/d/n", &[file("w", "1234")]);
    assert_eq!(usage(&world, first), [2, 5, 0]);
    world.apply(Change::Unmount { mount: first });
    assert_eq!(world.meta.usage(first), None);
    let second = world.mount("/m", "mem://b");
    assert_eq!(usage(&world, second), [0, 0, 2], "/m and /m/d");
    world.reap_all();
    assert_eq!(usage(&world, second), [0, 0, 2]);
    assert_eq!(usage(&world, inner), [1, 4, 0]);
    // The outer mount may show something in the place of /m.
    assert_eq!(usage(&world, outer), [1, 1, 1]);
    assert_eq!(recount(&world.meta), without_times(usages(&world.meta)));
}

#[test]
fn files_of_scratch_mounts_are_counted() {
    let mut world = World::scratch();
    let (scratch, _) = world.origin("/s");
    let (parent, access) = (
        world.ino("/s"),
        Access {
            mode: 0o644,
            uid: 1,
            gid: 1,
        },
    );
    for text in ["a", "b"] {
        let name = name(text);
        world.apply(Change::Create {
            parent,
            name,
            access,
        });
    }
    assert_eq!(usage(&world, scratch.unwrap()), [2, 0, 0]);
    world.apply(Change::Rename {
        parent,
        name: name("a"),
        new_parent: parent,
        new_name: name("b"),
        no_replace: false,
    });
    assert_eq!(usage(&world, scratch.unwrap()), [1, 0, 0]);
    world.reap_all();
    assert_eq!(usage(&world, scratch.unwrap()), [1, 0, 0]);
}

#[test]
fn a_store_that_an_earlier_version_wrote_to_is_counted_when_it_is_opened() {
    let mut world = World::new();
    let a = world.mount("/", "mem://a");
    let gone = world.mount("/gone", "mem://b");
    let s = world.mount("/s", MountSpec::SCRATCH);
    world.load("/", &[file("a", "12345"), dir("d")]);
    world.load("/gone", &[file("a", "12345")]);
    world.apply(Change::Unmount { mount: gone });
    world.remove("/", &["a"]);
    world.finish("/");
    let expected = usages(&world.meta);
    // It leaves out the mark, and whatever it has no row for.
    let mut rows = rows(&*world.kv);
    for (key, value) in &mut rows {
        match key[0] {
            0x02 => drop(value.pop()),
            // Of a count that is no longer true.
            0x1a => *value = vec![9, 9, 9, 9],
            _ => {}
        }
    }
    let mut stale = rows.iter().find(|(key, _)| key[0] == 0x1a).unwrap().clone();
    *stale.0.last_mut().unwrap() = 77;
    rows.push(stale);
    let kv = store_of(&rows);
    let counted = Meta::must_count(&*kv).unwrap();
    assert_eq!(counted, Some(world.meta.inode_count().unwrap()));
    let meta = Meta::open(kv.clone(), CACHE).unwrap();
    assert_eq!(usages(&meta), expected);
    assert_eq!(meta.usage(s), Some(Usage::default()));
    assert_eq!(meta.usage(a).unwrap().unlisted, 1, "/d");
    assert_eq!(meta.usage(MountId(77)), None);
    drop(meta);
    assert_eq!(Meta::must_count(&*kv).unwrap(), None);
    assert_eq!(usages(&Meta::open(kv, CACHE).unwrap()), expected);
}
