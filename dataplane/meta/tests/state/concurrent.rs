//! Views beside apply.

use crate::support::*;
use forebay_meta::{Change, Command, Meta, Reply, UfsEntry};
use forebay_types::Ino;
use std::sync::atomic::{AtomicBool, Ordering};

/// Applies `changes` on one thread while another looks with `look`, at least once.
fn while_applying(
    world: &World,
    changes: impl Iterator<Item = Change> + Send,
    look: impl Fn(&Meta),
) {
    let done = AtomicBool::new(false);
    let first = world.index + 1;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (index, change) in (first..).zip(changes) {
                let command = Command {
                    now_ns: second(index),
                    request: None,
                    change,
                };
                let reply = apply_one(&world.meta, index, &command).reply;
                assert!(!matches!(reply, Reply::Refused { .. }), "{reply:?}");
            }
            done.store(true, Ordering::Release);
        });
        loop {
            let last = done.load(Ordering::Acquire);
            look(&world.meta);
            if last {
                break;
            }
        }
    });
}

#[test]
fn a_listing_shows_whole_commands() {
    let listing = |content: &str| -> Vec<UfsEntry> {
        (0..300)
            .map(|n| file(&format!("{n:03}"), content))
            .collect()
    };
    let mut world = World::mounted();
    world.load("/", &listing("one"));
    let changes = (0..200).flat_map(|n| {
        let entries = listing(if n % 2 == 0 { "three" } else { "one" });
        let upsert = Change::UpsertEntries {
            parent: Ino::ROOT,
            entries,
        };
        [
            upsert,
            Change::Reap {
                before_ns: i64::MAX,
                limit: 10_000,
            },
        ]
    });
    while_applying(&world, changes, |meta| {
        let list = meta.read_dir(Ino::ROOT, None, usize::MAX).unwrap();
        assert_eq!(list.len(), 300);
        assert!(
            list.iter().all(|(_, attr)| attr.size == list[0].1.size),
            "half a command"
        );
        for (name, _) in list.iter().step_by(37) {
            assert!(
                meta.lookup(Ino::ROOT, name).unwrap().is_some(),
                "{name} was always there"
            );
        }
    });
}

#[test]
fn a_nested_mount_is_always_there_while_the_root_changes_under_it() {
    let mut world = World::mounted();
    let root = world.meta.mounts()[0].0;
    world.mount("/way/nested", "mem://b");
    let nested = world.ino("/way/nested");
    let mut mount = root;
    let changes = (0..300).map(move |n| {
        if n % 2 == 0 {
            return Change::Unmount { mount };
        }
        // The numbers of mounts count up.
        mount.0 = 3 + n / 2;
        mount_of(spec("/", "mem://a"))
    });
    while_applying(&world, changes, |meta| {
        assert!(meta.lookup(Ino::ROOT, &name("way")).unwrap().is_some());
        assert_eq!(meta.path(nested).unwrap(), Some(b"/way/nested".to_vec()));
        assert_eq!(meta.read_dir(Ino::ROOT, None, 9).unwrap().len(), 1);
        assert!(meta.attr(Ino::ROOT).unwrap().is_some());
    });
}
