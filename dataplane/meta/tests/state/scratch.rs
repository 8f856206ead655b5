//! What clients change in a scratch mount.

use crate::support::*;
use forebay_kv::Read;
use forebay_meta::{Access, Change, Command, Entry, Meta, Outcome, Reply, RequestId, SetAttr};
use forebay_types::{Attr, Code, FileKind, Ino, MountSpec, SessionId};

const ACCESS: Access = Access {
    mode: 0o640,
    uid: 7,
    gid: 8,
};

fn create(parent: Ino, text: &str) -> Change {
    Change::Create {
        parent,
        name: name(text),
        access: ACCESS,
    }
}

fn mkdir(parent: Ino, text: &str) -> Change {
    Change::Mkdir {
        parent,
        name: name(text),
        access: ACCESS,
    }
}

fn remove(parent: Ino, text: &str) -> Change {
    Change::Remove {
        parent,
        name: name(text),
    }
}

fn rename(parent: Ino, text: &str, new_parent: Ino, new_text: &str) -> Change {
    Change::Rename {
        parent,
        name: name(text),
        new_parent,
        new_name: name(new_text),
        no_replace: false,
    }
}

fn made(outcome: Outcome) -> Attr {
    match outcome.reply {
        Reply::Attr(attr) => attr,
        other => panic!("{other:?}"),
    }
}

fn code(outcome: &Outcome) -> Code {
    match &outcome.reply {
        Reply::Refused { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_made_is_there_with_its_attributes_and_watchers_are_told() {
    let mut world = World::scratch();
    let s = world.ino("/s");
    assert_eq!(world.find("/s").unwrap().mode, 0o1777);
    let outcome = world.apply(create(s, "f"));
    assert_eq!(outcome.invalidated.entries, [(s, name("f"))]);
    assert_eq!(outcome.invalidated.inodes, [s]);
    let attr = made(outcome);
    assert_eq!(world.find("/s/f"), Some(attr));
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.size), (0o640, 7, 8, 0));
    assert_eq!(attr.mtime_ns, second(world.index));
    assert_eq!(world.find("/s").unwrap().mtime_ns, attr.mtime_ns);
    let set = SetAttr {
        uid: Some(9),
        mtime_ns: Some(77),
        ..SetAttr::default()
    };
    let set = made(world.apply(Change::SetAttr { ino: attr.ino, set }));
    assert_eq!(
        (set.mode, set.uid, set.gid, set.mtime_ns),
        (0o640, 9, 8, 77)
    );
    assert_eq!(world.find("/s/f"), Some(set));
}

#[test]
fn under_stores_and_ways_to_mounts_are_read_only() {
    let mut world = World::new();
    world.mount("/way/ufs", "mem://a");
    world.mount("/way/s", MountSpec::SCRATCH);
    world.load("/way/ufs", &[file("f", "1"), dir("d")]);
    let [way, ufs, s, f] = ["/way", "/way/ufs", "/way/s", "/way/ufs/f"].map(|p| world.ino(p));
    let set = SetAttr::default();
    for change in [
        create(Ino::ROOT, "x"),
        mkdir(way, "x"),
        create(ufs, "x"),
        remove(ufs, "f"),
        rename(s, "x", ufs, "f"),
        Change::SetAttr { ino: f, set },
        Change::SetAttr { ino: way, set },
    ] {
        assert_eq!(code(&world.apply(change)), Code::ReadOnly);
    }
    assert_eq!(code(&world.apply(create(f, "x"))), Code::NotDirectory);
    assert_eq!(code(&world.apply(create(Ino(999), "x"))), Code::NotFound);
    // And nobody lists a scratch mount.
    let upsert = world.upsert("/way/s", &[file("x", "1")]);
    assert_eq!(code(&upsert), Code::InvalidArgument);
}

#[test]
fn a_directory_moves_with_all_below_at_the_price_of_one_row() {
    let mut world = World::scratch();
    let s = world.ino("/s");
    let a = made(world.apply(mkdir(s, "a"))).ino;
    let b = made(world.apply(mkdir(s, "b"))).ino;
    let deep = made(world.apply(mkdir(a, "deep"))).ino;
    for n in 0..100 {
        made(world.apply(create(deep, &n.to_string())));
    }
    let before = rows(&*world.kv);
    let outcome = world.apply(rename(s, "a", b, "c"));
    assert_eq!(outcome.reply, Reply::Done);
    let after = rows(&*world.kv);
    let changed = after.iter().filter(|row| !before.contains(row)).count();
    assert_eq!(changed, 5, "edge, inode, two directories, counters");
    assert_eq!(world.tree("/s").len(), 3 + 100);
    assert_eq!(world.ino("/s/b/c/deep"), deep);
    assert_eq!(
        code(&world.apply(rename(s, "b", deep, "x"))),
        Code::InvalidArgument
    );
}

#[test]
fn an_unlinked_file_is_readable_by_its_number_until_it_is_reaped() {
    let mut world = World::scratch();
    let s = world.ino("/s");
    let old = made(world.apply(create(s, "f")));
    let new = made(world.apply(create(s, "g")));
    world.apply(rename(s, "g", s, "f"));
    assert_eq!(world.ino("/s/f"), new.ino);
    assert_eq!(world.meta.attr(old.ino).unwrap(), Some(old));
    assert_eq!(world.apply(remove(s, "f")).reply, Reply::Done);
    assert!(world.tree("/s").is_empty());
    world.reap_all();
    assert_eq!(world.meta.attr(old.ino).unwrap(), None);
    assert_eq!(world.meta.inode_count().unwrap(), 2);
}

#[test]
fn mounts_within_stay_where_they_are_and_hide_no_name() {
    let mut world = World::scratch();
    let s = world.ino("/s");
    world.mount("/s/way/m", "mem://m");
    let way = world.ino("/s/way");
    made(world.apply(create(way, "f")));
    let remove_dir = |parent, text| Change::RemoveDir {
        parent,
        name: name(text),
    };
    assert_eq!(code(&world.apply(rename(s, "way", s, "x"))), Code::ReadOnly);
    assert_eq!(code(&world.apply(rename(way, "m", s, "x"))), Code::ReadOnly);
    assert_eq!(code(&world.apply(remove_dir(way, "m"))), Code::ReadOnly);
    assert_eq!(code(&world.apply(remove_dir(s, "way"))), Code::NotEmpty);
    for path in ["/s/way", "/s/way/f", "/s/way/f/x"] {
        let outcome = world.apply(mount_of(spec(path, "mem://x")));
        assert_eq!(code(&outcome), Code::AlreadyExists, "{path}");
    }
    let id = world.meta.mounts().last().unwrap().0;
    world.apply(Change::Unmount { mount: id });
    assert_eq!(world.tree("/s"), ["way/", "way/f"]);
}

/// Requests of a session, some of them twice, some refused.
fn requests(world: &World, session: SessionId) -> Vec<Command> {
    let s = world.ino("/s");
    let changes = [
        create(s, "a"),
        create(s, "b"),
        create(s, "a"),
        rename(s, "a", s, "c"),
        mkdir(s, "d"),
        remove(s, "b"),
        remove(s, "b"),
        Change::RemoveDir {
            parent: s,
            name: name("d"),
        },
        create(s, "b"),
    ];
    let command = |(at, change): (usize, Change)| Command {
        now_ns: second(1000),
        request: Some(RequestId {
            session,
            sequence: at as u64 + 1,
            acknowledged: at as u64 / 2,
        }),
        change,
    };
    let once = changes.into_iter().enumerate().map(command);
    once.flat_map(|command| [command.clone(), command])
        .collect()
}

#[test]
fn commands_of_one_entry_see_each_other_and_take_effect_once() {
    let open = |world: &mut World| match world
        .apply(Change::OpenSession {
            client: String::new(),
        })
        .reply
    {
        Reply::Session(id) => id,
        other => panic!("{other:?}"),
    };
    let (mut one, mut many) = (World::scratch(), World::scratch());
    let session = open(&mut one);
    assert_eq!(open(&mut many), session);
    let commands = requests(&one, session);
    let mut singly = Vec::new();
    for command in &commands {
        one.index += 1;
        singly.push(apply_one(&one.meta, one.index, command));
    }
    let entry = Entry {
        index: many.index + 1,
        commands,
    };
    let together = many.meta.apply(std::slice::from_ref(&entry)).unwrap();
    assert_eq!(together, [singly.clone()]);
    for pair in singly.chunks(2) {
        assert_eq!(pair[0], pair[1], "a request sent again");
    }
    assert_eq!(many.tree("/s"), ["b", "c"]);
    // All rows but the counters, which hold the index.
    let without = |world: &World| {
        let rows = rows(&*world.kv).into_iter();
        rows.filter(|(key, _)| key[0] != 2).collect::<Vec<_>>()
    };
    assert_eq!(without(&one), without(&many));
    // Sent again after a restart, those that are not acknowledged still get the first answers.
    many.meta = Meta::open(many.kv.clone(), CACHE).unwrap();
    many.index += 2;
    let last = entry.commands.last().unwrap();
    assert_eq!(
        apply_one(&many.meta, many.index, last),
        *singly.last().unwrap()
    );
    assert_eq!(many.tree("/s"), ["b", "c"]);
}

#[test]
fn large_changes_do_not_share_an_entry() {
    let mut world = World::scratch();
    let s = world.ino("/s");
    let command = |change| Command {
        now_ns: 0,
        request: None,
        change,
    };
    let large = Change::SetPin {
        ino: s,
        pinned: true,
    };
    let entry = Entry {
        index: world.index + 1,
        commands: vec![command(create(s, "a")), command(large)],
    };
    let outcomes = world.meta.apply(&[entry]).unwrap().remove(0);
    assert!(matches!(outcomes[0].reply, Reply::Attr(_)));
    assert_eq!(code(&outcomes[1]), Code::InvalidArgument);
    world.index += 1;
    assert_eq!(world.find("/s/a").unwrap().kind, FileKind::File);
}

#[test]
fn a_removed_directory_was_empty_also_within_one_batch() {
    let mut world = World::scratch();
    let s = world.ino("/s");
    let d = made(world.apply(mkdir(s, "d"))).ino;
    made(world.apply(create(d, "old")));
    let remove_dir = Change::RemoveDir {
        parent: s,
        name: name("d"),
    };
    let commands = [
        remove_dir.clone(),
        remove(d, "old"),
        create(d, "new"),
        remove_dir.clone(),
        remove(d, "new"),
        remove_dir,
        create(d, "late"),
    ];
    let commands = commands.map(|change| Command {
        now_ns: 0,
        request: None,
        change,
    });
    let entry = Entry {
        index: world.index + 1,
        commands: commands.into(),
    };
    let outcomes = world.meta.apply(&[entry]).unwrap().remove(0);
    let codes: Vec<_> = outcomes
        .iter()
        .map(|outcome| match &outcome.reply {
            Reply::Refused { code, .. } => Some(*code),
            _ => None,
        })
        .collect();
    assert_eq!(
        codes,
        [
            Some(Code::NotEmpty),
            None,
            None,
            Some(Code::NotEmpty),
            None,
            None,
            Some(Code::NotFound)
        ]
    );
    let edges = world.kv.scan(&[0x11]..&[0x12]).count();
    assert_eq!(edges, 1, "only /s");
}
