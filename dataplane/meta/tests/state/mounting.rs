//! The mount table and the tree it makes.

use crate::support::*;
use forebay_meta::{Change, Reply};
use forebay_types::{Code, FileKind, Ino};

#[test]
fn mounts_are_made_once_changed_in_place_and_never_stolen() {
    let mut world = World::new();
    let id = world.mount("/m", "mem://a");
    assert_eq!(world.mount("/m", "mem://a"), id);
    let mut changed = spec("/m", "mem://a");
    changed.options.insert("region".into(), "north".into());
    assert_eq!(
        world.apply(mount_of(changed.clone())).reply,
        Reply::Mount(id)
    );
    let row = world.meta.mount(id).unwrap();
    assert_eq!((&*row.spec, row.configured), (&changed, true));
    let asked = Change::Mount {
        spec: changed.clone(),
        configured: false,
    };
    assert_eq!(world.apply(asked).reply, Reply::Mount(id));
    assert!(!world.meta.mount(id).unwrap().configured);
    assert_eq!(world.meta.mounts().len(), 1);
    let reply = world.apply(mount_of(spec("/m", "mem://b"))).reply;
    assert!(matches!(
        reply,
        Reply::Refused {
            code: Code::AlreadyExists,
            ..
        }
    ));
    let reply = world.apply(mount_of(spec("m//x", "mem://b"))).reply;
    assert!(matches!(
        reply,
        Reply::Refused {
            code: Code::InvalidArgument,
            ..
        }
    ));
    world.apply(Change::Unmount { mount: id });
    assert_ne!(
        world.mount("/m", "mem://b"),
        id,
        "a number is never used again"
    );
    let reply = world.apply(Change::Unmount { mount: id }).reply;
    assert!(matches!(
        reply,
        Reply::Refused {
            code: Code::NotFound,
            ..
        }
    ));
}

#[test]
fn directories_on_the_way_are_made_and_taken_away_again() {
    let mut world = World::new();
    let a = world.mount("/x/y/a", "mem://a");
    let b = world.mount("/x/b", "mem://b");
    assert_eq!(world.tree("/"), ["x/", "x/b/", "x/y/", "x/y/a/"]);
    assert_eq!(world.origin("/x/y"), (None, "".into()));
    assert_eq!(world.origin("/x/y/a"), (Some(a), "".into()));
    let outcome = world.apply(Change::Unmount { mount: a });
    assert!(
        outcome
            .invalidated
            .entries
            .contains(&(world.ino("/x"), name("y")))
    );
    assert_eq!(world.tree("/"), ["x/", "x/b/"]);
    world.apply(Change::Unmount { mount: b });
    assert!(world.tree("/").is_empty());
    world.reap_all();
    assert_eq!(world.meta.inode_count().unwrap(), 1);
}

#[test]
fn a_directory_made_within_a_mount_belongs_to_it() {
    let mut world = World::new();
    let a = world.mount("/", "mem://a");
    let b = world.mount("/models/llama", "mem://b");
    assert_eq!(world.origin("/models"), (Some(a), "models/".into()));
    assert_eq!(world.origin("/models/llama"), (Some(b), "".into()));
    // The under store has the directory after all, with more in it.
    let models = world.ino("/models");
    world.load("/", &[dir("models"), file("f", "1")]);
    world.load(
        "/models",
        &[file("g", "1"), dir("llama"), file("llama", "hidden")],
    );
    assert_eq!(world.ino("/models"), models);
    world.load("/models/llama", &[file("w", "1")]);
    assert_eq!(
        world.tree("/"),
        [
            "f",
            "models/",
            "models/g",
            "models/llama/",
            "models/llama/w"
        ]
    );
    let weights = world
        .meta
        .file_ref(world.ino("/models/llama/w"))
        .unwrap()
        .unwrap();
    assert_eq!((weights.mount, &weights.key[..]), (b, &b"w"[..]));
}

#[test]
fn mounting_first_or_listing_first_gives_the_same_tree() {
    let listing = [dir("d"), file("m", "a file where the mount's way is")];
    let mut first = World::mounted();
    first.mount("/m/b", "mem://b");
    first.load("/", &listing);
    let mut last = World::mounted();
    last.load("/", &listing);
    last.mount("/m/b", "mem://b");
    for world in [&first, &last] {
        assert_eq!(world.tree("/"), ["d/", "m/", "m/b/"]);
        assert_eq!(world.origin("/m").1, "m/");
    }
}

#[test]
fn mount_points_outlive_the_directories_around_them() {
    let mut world = World::mounted();
    world.load("/", &[dir("models"), file("f", "1")]);
    world.load("/models", &[file("g", "1"), dir("deep")]);
    world.load("/models/deep", &[file("h", "1")]);
    world.mount("/models/deep/llama", "mem://b");
    world.load("/models/deep/llama", &[file("w", "1")]);
    let llama = world.ino("/models/deep/llama");
    let outcome = world.remove("/", &["models"]);
    assert_eq!(outcome.reply, entries(0, 0, 1));
    assert_eq!(outcome.invalidated.entries, [(Ino::ROOT, name("models"))]);
    let rest = [
        "models/",
        "models/deep/",
        "models/deep/llama/",
        "models/deep/llama/w",
    ];
    assert_eq!(world.tree("/")[1..], rest);
    assert_eq!(world.ino("/models/deep/llama"), llama);
    assert_eq!(world.origin("/models/deep").1, "models/deep/");
    let reply = world.remove("/", &["models"]).reply;
    assert_eq!(
        reply,
        entries(0, 0, 0),
        "it is not the under store's any more"
    );
    assert_eq!(
        world.remove("/models/deep", &["llama"]).reply,
        entries(0, 0, 0)
    );
    world.reap_all();
    assert_eq!(world.tree("/")[1..], rest);
    assert_eq!(world.meta.inode_count().unwrap(), 6);
    // A file now has the name of the directory: it is hidden.
    assert_eq!(
        world.upsert("/", &[file("models", "x")]).reply,
        entries(0, 0, 0)
    );
    assert_eq!(world.find("/models").unwrap().kind, FileKind::Directory);
}

#[test]
fn a_mount_hides_what_was_there_and_unmounting_lists_again() {
    let mut world = World::mounted();
    world.load("/", &[dir("m"), file("f", "1")]);
    world.load("/m", &[file("g", "1")]);
    let hidden = world.ino("/m/g");
    let id = world.mount("/m", "mem://b");
    assert_eq!(world.tree("/"), ["f", "m/"]);
    assert_eq!(world.meta.path(hidden).unwrap(), None);
    assert_eq!(
        world.upsert("/", &[dir("m"), file("m", "x")]).reply,
        entries(0, 0, 0)
    );
    assert!(world.synced_ns("/").is_some());
    let outcome = world.apply(Change::Unmount { mount: id });
    assert_eq!(outcome.invalidated.entries, [(Ino::ROOT, name("m"))]);
    assert_eq!(world.tree("/"), ["f"]);
    assert_eq!(
        world.synced_ns("/"),
        None,
        "the hidden entry must be found again"
    );
    // It was served before: the new name must be told.
    let outcome = world.upsert("/", &[dir("m")]);
    assert_eq!(outcome.invalidated.entries, [(Ino::ROOT, name("m"))]);
}

#[test]
fn unmounting_leaves_what_is_mounted_below() {
    let mut world = World::mounted();
    let root = world.meta.mounts()[0].0;
    let outer = world.mount("/o", "mem://o");
    let inner = world.mount("/o/way/i", "mem://i");
    world.load("/", &[dir("o"), file("f", "1")]);
    world.load("/o", &[file("g", "1"), dir("way")]);
    world.load("/o/way/i", &[file("w", "1")]);
    let kept = world.ino("/o/way/i");
    world.apply(Change::Unmount { mount: outer });
    assert_eq!(
        world.tree("/"),
        ["f", "o/", "o/way/", "o/way/i/", "o/way/i/w"]
    );
    assert_eq!(world.origin("/o/way"), (Some(root), "o/way/".into()));
    assert_eq!(world.origin("/o/way/i"), (Some(inner), "".into()));
    let outcome = world.apply(Change::Unmount { mount: root });
    assert!(outcome.invalidated.all);
    assert_eq!(world.tree("/"), ["o/", "o/way/", "o/way/i/", "o/way/i/w"]);
    assert_eq!(world.origin("/o"), (None, "".into()));
    world.reap_all();
    assert_eq!(world.ino("/o/way/i"), kept);
    assert_eq!(world.meta.path(kept).unwrap(), Some(b"/o/way/i".to_vec()));
    assert_eq!(world.meta.inode_count().unwrap(), 5);
    // And back again.
    let root = world.mount("/", "mem://c");
    assert_eq!(world.origin("/o/way"), (Some(root), "o/way/".into()));
    let outer = world.mount("/o", "mem://o");
    assert_eq!(world.origin("/o/way"), (Some(outer), "way/".into()));
    assert_eq!(world.ino("/o/way/i"), kept);
    world.apply(Change::Unmount { mount: inner });
    assert_eq!(world.tree("/"), ["o/"]);
    world.reap_all();
    assert_eq!(world.meta.inode_count().unwrap(), 2);
}

#[test]
fn pins_go_over_when_a_mount_takes_the_place_of_the_root() {
    let mut world = World::new();
    world.apply(Change::SetPin {
        ino: Ino::ROOT,
        pinned: true,
    });
    world.mount("/", "mem://a");
    world.load("/", &[file("f", "1")]);
    assert!(world.meta.is_pinned(world.ino("/f")).unwrap());
}
