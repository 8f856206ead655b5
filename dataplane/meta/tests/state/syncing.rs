//! Following the under store.

use crate::support::*;
use forebay_meta::{Change, Invalidated, Problem, ProblemReason, Reply, UfsEntry, UfsKind};
use forebay_types::{Code, FileKind, Ino};

#[test]
fn an_empty_store_has_a_root_of_no_mount() {
    let world = World::new();
    let root = world.find("/").unwrap();
    assert_eq!(
        (root.ino, root.kind, root.mode),
        (Ino::ROOT, FileKind::Directory, 0o755)
    );
    assert_eq!(world.meta.path(Ino::ROOT).unwrap(), Some(b"/".to_vec()));
    assert_eq!(world.meta.parent(Ino::ROOT).unwrap(), None);
    assert_eq!(world.origin("/"), (None, "".into()));
    assert_eq!(world.meta.inode_count().unwrap(), 1);
    assert_eq!(world.meta.attr(Ino(99)).unwrap(), None);
    assert_eq!(world.meta.file_ref(Ino::ROOT).unwrap(), None);
    assert_eq!(world.meta.lookup(Ino(99), &name("x")).unwrap(), None);
}

#[test]
fn entries_appear_with_key_fingerprint_and_attributes() {
    let mut world = World::mounted();
    world.upsert("/", &[dir("d"), file("f", "one")]);
    let reply = world.upsert("/d", &[file("g", "four"), dir("e")]).reply;
    assert_eq!(reply, entries(2, 0, 0));
    assert_eq!(world.tree("/"), ["d/", "d/e/", "d/g", "f"]);
    let attr = world.find("/d/g").unwrap();
    assert_eq!((attr.size, attr.mtime_ns, attr.mode), (4, 5, 0o644));
    let file = world.meta.file_ref(attr.ino).unwrap().unwrap();
    assert_eq!(
        (&file.key[..], file.fingerprint.etag.as_str()),
        (&b"d/g"[..], "\"four\"")
    );
    assert_eq!((file.id.version, file.size()), (attr.version, 4));
    assert_eq!(world.origin("/d/e").1, "d/e/");
    assert_eq!(world.meta.path(attr.ino).unwrap(), Some(b"/d/g".to_vec()));
    assert_eq!(
        world.meta.parent(attr.ino).unwrap(),
        Some((world.ino("/d"), name("g")))
    );
    assert_eq!(
        world.meta.parent(world.ino("/d")).unwrap(),
        Some((Ino::ROOT, name("d")))
    );
}

#[test]
fn a_listing_loaded_in_any_order_is_numbered_in_the_order_of_names() {
    let mut world = World::mounted();
    world.upsert("/", &[file("c", "1"), file("a", "1"), file("b", "1")]);
    let inos: Vec<_> = ["/a", "/b", "/c"].map(|path| world.ino(path).0).into();
    assert_eq!(inos, [inos[0], inos[0] + 1, inos[0] + 2]);
}

#[test]
fn unchanged_entries_cost_no_rows_and_invalidate_nothing() {
    let mut world = World::mounted();
    let many: Vec<UfsEntry> = (0..500).map(|n| file(&format!("{n:03}"), "x")).collect();
    world.load("/", &many);
    let before = rows(&*world.kv);
    for part in [&many[..], &many[7..9], &many[400..]] {
        let outcome = world.upsert("/", part);
        assert_eq!(outcome.reply, entries(0, 0, 0));
        assert_eq!(outcome.invalidated, Invalidated::default());
    }
    let after = rows(&*world.kv);
    let differing = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(
        (before.len(), differing),
        (after.len(), 1),
        "only the counters move"
    );
}

#[test]
fn a_replaced_file_is_a_new_inode_and_the_old_one_stays_readable() {
    let mut world = World::mounted();
    world.load("/", &[file("f", "one")]);
    let old = world.ino("/f");
    let outcome = world.upsert("/", &[file("f", "two!")]);
    assert_eq!(outcome.reply, entries(0, 1, 0));
    assert_eq!(outcome.invalidated.entries, [(Ino::ROOT, name("f"))]);
    assert_eq!(outcome.invalidated.inodes, [Ino::ROOT]);
    let new = world.find("/f").unwrap();
    assert_ne!(new.ino, old);
    assert_eq!(new.size, 4);
    assert_eq!(world.meta.attr(old).unwrap().unwrap().size, 3);
    let file = world.meta.file_ref(old).unwrap().unwrap();
    assert_eq!(
        (&file.key[..], file.fingerprint.etag.as_str()),
        (&b"f"[..], "\"one\"")
    );
    assert_eq!(world.meta.path(old).unwrap(), None);
    assert_eq!(world.meta.parent(old).unwrap(), None);
    world.reap_all();
    assert_eq!(world.meta.attr(old).unwrap(), None);
    assert_eq!(world.meta.file_ref(old).unwrap(), None);
}

#[test]
fn a_name_that_changes_its_kind_is_a_new_inode() {
    let mut world = World::mounted();
    world.load("/", &[file("x", "one"), dir("y")]);
    world.upsert("/y", &[file("inside", "1")]);
    let (file_ino, dir_ino) = (world.ino("/x"), world.ino("/y"));
    assert_eq!(
        world.upsert("/", &[dir("x"), file("y", "1")]).reply,
        entries(0, 2, 0)
    );
    assert_eq!(world.find("/x").unwrap().kind, FileKind::Directory);
    assert_eq!(world.find("/y").unwrap().kind, FileKind::File);
    assert_ne!(world.ino("/x"), file_ino);
    let inside = world
        .meta
        .lookup(dir_ino, &name("inside"))
        .unwrap()
        .unwrap();
    assert_eq!(world.meta.path(inside.ino).unwrap(), None);
    world.reap_all();
    assert_eq!(world.meta.attr(inside.ino).unwrap(), None);
    assert_eq!(world.meta.inode_count().unwrap(), 3);
}

#[test]
fn the_same_content_with_another_time_keeps_its_inode() {
    let mut world = World::mounted();
    world.load("/", &[file("f", "one"), dir("d")]);
    let (f, d) = (world.ino("/f"), world.ino("/d"));
    let UfsKind::File { fingerprint, .. } = file("f", "one").kind else {
        unreachable!()
    };
    let kind = UfsKind::File {
        fingerprint,
        mtime_ns: 77,
    };
    let later = UfsKind::Directory {
        mtime_ns: second(100),
    };
    let outcome = world.upsert(
        "/",
        &[
            UfsEntry {
                name: name("f"),
                kind,
            },
            UfsEntry {
                name: name("d"),
                kind: later,
            },
        ],
    );
    assert_eq!(outcome.reply, entries(0, 2, 0));
    assert_eq!(outcome.invalidated.inodes, [d, f]);
    assert!(outcome.invalidated.entries.is_empty());
    assert_eq!(
        world.find("/f").map(|attr| (attr.ino, attr.mtime_ns)),
        Some((f, 77))
    );
    assert_eq!(
        world.find("/d").map(|attr| (attr.ino, attr.mtime_ns)),
        Some((d, second(100)))
    );
}

#[test]
fn a_first_listing_invalidates_nothing_and_a_later_one_each_new_name() {
    let mut world = World::mounted();
    assert_eq!(
        world.upsert("/", &[file("a", "1"), dir("d")]).invalidated,
        Invalidated::default()
    );
    assert_eq!(world.finish("/").invalidated, Invalidated::default());
    let outcome = world.upsert("/", &[file("a", "1"), file("b", "1")]);
    assert_eq!(outcome.reply, entries(1, 0, 0));
    assert_eq!(
        outcome.invalidated.entries,
        [(Ino::ROOT, name("b"))],
        "it was cached as absent"
    );
    assert_eq!(outcome.invalidated.inodes, [Ino::ROOT]);
    assert_eq!(world.find("/").unwrap().mtime_ns, second(world.index));
}

#[test]
fn of_a_name_given_twice_the_last_counts() {
    let mut world = World::mounted();
    let reply = world
        .upsert("/", &[file("f", "one"), file("f", "two2")])
        .reply;
    assert_eq!(reply, entries(1, 0, 0));
    assert_eq!(world.find("/f").unwrap().size, 4);
}

#[test]
fn removed_names_are_gone_with_all_below() {
    let mut world = World::mounted();
    world.load("/", &[dir("d"), file("f", "1")]);
    world.load("/d", &[file("g", "1")]);
    let g = world.ino("/d/g");
    let outcome = world.remove("/", &["f", "absent", "d", "d"]);
    assert_eq!(outcome.reply, entries(0, 0, 2));
    assert_eq!(
        outcome.invalidated.entries,
        [(Ino::ROOT, name("d")), (Ino::ROOT, name("f"))]
    );
    assert_eq!(outcome.invalidated.inodes, [Ino::ROOT]);
    assert!(world.tree("/").is_empty());
    assert_eq!(world.meta.path(g).unwrap(), None);
    assert_eq!(&world.meta.file_ref(g).unwrap().unwrap().key[..], b"d/g");
    assert_eq!(world.remove("/", &["f"]).reply, entries(0, 0, 0));
}

#[test]
fn a_directory_out_of_the_tree_takes_no_changes() {
    let mut world = World::mounted();
    world.load("/", &[dir("d"), file("f", "1")]);
    world.load("/d", &[dir("e")]);
    let (d, e, f) = (world.ino("/d"), world.ino("/d/e"), world.ino("/f"));
    world.remove("/", &["d"]);
    let code = |world: &mut World, change| match world.apply(change).reply {
        Reply::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    };
    let entries = vec![file("x", "1")];
    for parent in [d, e, Ino(1000)] {
        let change = Change::UpsertEntries {
            parent,
            entries: entries.clone(),
        };
        assert_eq!(code(&mut world, change), Code::NotFound);
        let change = Change::RemoveEntries {
            parent,
            names: vec![],
        };
        assert_eq!(code(&mut world, change), Code::NotFound);
        let change = Change::FinishSync {
            dir: parent,
            started_ns: 1,
        };
        assert_eq!(code(&mut world, change), Code::NotFound);
        let change = Change::SetPin {
            ino: parent,
            pinned: true,
        };
        assert_eq!(code(&mut world, change), Code::NotFound);
    }
    let change = Change::UpsertEntries {
        parent: f,
        entries: entries.clone(),
    };
    assert_eq!(code(&mut world, change), Code::NotDirectory);
    let mut world = World::new();
    let change = Change::UpsertEntries {
        parent: Ino::ROOT,
        entries,
    };
    assert_eq!(code(&mut world, change), Code::InvalidArgument);
}

#[test]
fn a_finished_listing_says_when_it_began_and_never_goes_back() {
    let mut world = World::mounted();
    assert_eq!(world.synced_ns("/"), None);
    for (started_ns, synced_ns) in [(50, 50), (40, 50), (60, 60)] {
        world.apply(Change::FinishSync {
            dir: Ino::ROOT,
            started_ns,
        });
        assert_eq!(world.synced_ns("/"), Some(synced_ns));
    }
}

#[test]
fn directories_are_read_in_batches() {
    let mut world = World::mounted();
    let many: Vec<UfsEntry> = (0..9000).map(|n| file(&format!("{n:05}"), "x")).collect();
    for part in many.chunks(4000) {
        world.upsert("/", part);
    }
    for limit in [1, 1000, 4096, 4097, usize::MAX] {
        let mut seen = 8990;
        let mut after = Some(name("08989"));
        if limit > 1 {
            (seen, after) = (0, None);
        }
        loop {
            let batch = world
                .meta
                .read_dir(Ino::ROOT, after.as_ref(), limit)
                .unwrap();
            let Some((last, _)) = batch.last() else { break };
            assert!(batch.len() <= limit);
            for (entry, attr) in &batch {
                assert_eq!(entry, &name(&format!("{seen:05}")));
                assert_eq!(attr.size, 1);
                seen += 1;
            }
            after = Some(last.clone());
        }
        assert_eq!(seen, 9000, "by {limit}");
    }
    assert!(world.meta.read_dir(Ino::ROOT, None, 0).unwrap().is_empty());
}

#[test]
fn pins_hold_for_all_below_and_go_over_to_a_replacement() {
    let mut world = World::mounted();
    world.load("/", &[dir("d"), file("f", "one")]);
    world.load("/d", &[file("g", "1")]);
    let pinned = |world: &World, path: &str| world.meta.is_pinned(world.ino(path)).unwrap();
    assert!(!pinned(&world, "/d/g"));
    for path in ["/d", "/f"] {
        let ino = world.ino(path);
        for _ in 0..2 {
            assert_eq!(
                world.apply(Change::SetPin { ino, pinned: true }).reply,
                Reply::Done
            );
        }
    }
    assert!(pinned(&world, "/d/g") && pinned(&world, "/f") && !pinned(&world, "/"));
    let old = world.ino("/f");
    world.upsert("/", &[file("f", "two")]);
    assert!(pinned(&world, "/f") && !world.meta.is_pinned(old).unwrap());
    let ino = world.ino("/f");
    world.apply(Change::SetPin { ino, pinned: false });
    world.remove("/", &["d"]);
    world.reap_all();
    world.upsert("/", &[dir("d")]);
    assert!(!pinned(&world, "/d") && !pinned(&world, "/f"));
}

#[test]
fn problems_are_kept_by_directory_and_counted_beyond_the_bound() {
    let mut world = World::mounted();
    let mount = world.meta.mounts()[0].0;
    world.load("/", &[dir("d")]);
    let problem = |key: String| Problem {
        key: key.into(),
        reason: ProblemReason::EmptySegment,
    };
    let record = |world: &mut World, prefix: &'static str, problems: Vec<Problem>| {
        world
            .apply(Change::RecordProblems {
                mount,
                prefix: prefix.into(),
                problems,
            })
            .reply
    };
    assert_eq!(
        record(&mut world, "", vec![problem("/x".into())]),
        Reply::Done
    );
    record(
        &mut world,
        "d/",
        (0..9_000).map(|n| problem(format!("d//{n:05}"))).collect(),
    );
    let (list, total) = world.meta.problems(3).unwrap();
    assert_eq!((list.len(), total), (3, 9_001));
    assert_eq!(list[0], (mount, problem("/x".into())));
    record(
        &mut world,
        "d/",
        (0..15_000).map(|n| problem(format!("d//{n:05}"))).collect(),
    );
    let (list, total) = world.meta.problems(usize::MAX).unwrap();
    assert_eq!((list.len(), total), (10_000, 15_001));
    let before = rows(&*world.kv).len();
    record(
        &mut world,
        "d/",
        (0..15_000).map(|n| problem(format!("d//{n:05}"))).collect(),
    );
    assert_eq!(rows(&*world.kv).len(), before);
    record(&mut world, "d/", vec![problem("d//00007".into())]);
    assert_eq!(world.meta.problems(usize::MAX).unwrap().1, 2);
    assert!(matches!(
        record(&mut world, "absent/", vec![]),
        Reply::Refused {
            code: Code::NotFound,
            ..
        }
    ));
    world.remove("/", &["d"]);
    world.reap_all();
    assert_eq!(
        world.meta.problems(9).unwrap(),
        (vec![(mount, problem("/x".into()))], 1)
    );
    world.apply(Change::Unmount { mount });
    assert_eq!(world.meta.problems(9).unwrap(), (vec![], 0));
    world.reap_all();
    assert_eq!(rows(&*world.kv).len(), 3, "format, counters, root");
}
