//! Exactly once: requests, indexes, formats.

use crate::support::*;
use forebay_kv::{Batch, Durability, Kv, MemKv};
use forebay_meta::{Change, Command, Error, Meta, Outcome, Reply, RequestId};
use forebay_types::{Code, Ino, SessionId};
use std::sync::Arc;

fn open_session(world: &mut World) -> SessionId {
    match world
        .apply(Change::OpenSession {
            client: "test".to_owned(),
        })
        .reply
    {
        Reply::Session(id) => id,
        other => panic!("{other:?}"),
    }
}

fn send(
    world: &mut World,
    session: SessionId,
    sequence: u64,
    acknowledged: u64,
    change: Change,
) -> Outcome {
    world.index += 1;
    let request = Some(RequestId {
        session,
        sequence,
        acknowledged,
    });
    let command = Command {
        now_ns: second(world.index),
        request,
        change,
    };
    apply_one(&world.meta, world.index, &command)
}

fn mount(path: &str) -> Change {
    mount_of(spec(path, "mem://a"))
}

fn code(outcome: &Outcome) -> Code {
    match &outcome.reply {
        Reply::Refused { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_sent_again_gets_its_first_outcome_and_changes_nothing() {
    let mut world = World::new();
    let session = open_session(&mut world);
    let first = send(&mut world, session, 1, 0, mount("/m"));
    let unmount = Change::Unmount {
        mount: world.meta.mounts()[0].0,
    };
    let second = send(&mut world, session, 2, 0, unmount.clone());
    let refused = send(&mut world, session, 3, 0, unmount.clone());
    assert_eq!(code(&refused), Code::NotFound);
    for _ in 0..2 {
        assert_eq!(send(&mut world, session, 1, 0, mount("/m")), first);
        assert_eq!(send(&mut world, session, 2, 0, unmount.clone()), second);
        assert_eq!(send(&mut world, session, 3, 0, unmount.clone()), refused);
        assert!(world.meta.mounts().is_empty());
    }
    let reopened = Meta::open(world.kv.clone(), CACHE).unwrap();
    world.meta = reopened;
    assert_eq!(send(&mut world, session, 1, 0, mount("/m")), first);
}

#[test]
fn acknowledged_outcomes_are_forgotten_and_their_requests_refused() {
    let mut world = World::new();
    let session = open_session(&mut world);
    for sequence in 1..=9 {
        send(
            &mut world,
            session,
            sequence,
            0,
            mount(&format!("/m{sequence}")),
        );
    }
    let stored = |world: &World| {
        rows(&*world.kv)
            .iter()
            .filter(|(key, _)| key[0] == 0x19)
            .count()
    };
    assert_eq!(stored(&world), 9);
    send(&mut world, session, 10, 8, mount("/m10"));
    assert_eq!(stored(&world), 3);
    let count = world.meta.mounts().len();
    assert_eq!(
        code(&send(&mut world, session, 7, 8, mount("/again"))),
        Code::InvalidArgument
    );
    assert_eq!(world.meta.mounts().len(), count);
    let outcome = send(&mut world, session, 9, 8, mount("/m9"));
    assert!(matches!(outcome.reply, Reply::Mount(_)));
}

#[test]
fn a_session_keeps_a_bounded_number_of_outcomes() {
    let mut world = World::mounted();
    let session = open_session(&mut world);
    let pin = Change::SetPin {
        ino: Ino::ROOT,
        pinned: true,
    };
    for sequence in 1..=1500 {
        send(&mut world, session, sequence, 0, pin.clone());
    }
    let stored = rows(&*world.kv)
        .iter()
        .filter(|(key, _)| key[0] == 0x19)
        .count();
    assert_eq!(stored, 1024);
    assert_eq!(
        code(&send(&mut world, session, 476, 0, pin.clone())),
        Code::InvalidArgument
    );
    assert_eq!(send(&mut world, session, 477, 0, pin).reply, Reply::Done);
}

#[test]
fn unused_sessions_expire_and_their_requests_are_refused() {
    let mut world = World::new();
    let old = open_session(&mut world);
    send(&mut world, old, 1, 0, mount("/m"));
    let new = open_session(&mut world);
    let expire = Change::ExpireSessions {
        unused_since_ns: second(world.index),
    };
    assert_eq!(world.apply(expire.clone()).reply, Reply::Reaped(2));
    assert_eq!(world.apply(expire).reply, Reply::Reaped(0));
    assert_eq!(code(&send(&mut world, old, 1, 0, mount("/m"))), Code::Stale);
    assert!(matches!(
        send(&mut world, new, 1, 0, mount("/m")).reply,
        Reply::Mount(_)
    ));
}

#[test]
fn an_applied_index_changes_nothing_and_time_does_not_run_backwards() {
    let mut world = World::mounted();
    world.load("/", &[file("f", "1")]);
    let before = rows(&*world.kv);
    let command = Command {
        now_ns: second(1000),
        request: None,
        change: Change::RemoveEntries {
            parent: Ino::ROOT,
            names: vec![name("f")],
        },
    };
    assert_eq!(
        apply_one(&world.meta, world.index, &command),
        Outcome::default()
    );
    world.meta.skip(1).unwrap();
    assert_eq!(rows(&*world.kv), before);
    apply_one(&world.meta, world.index + 1, &command);
    let early = Command {
        now_ns: 0,
        request: None,
        change: mount("/m"),
    };
    apply_one(&world.meta, world.index + 2, &early);
    assert_eq!(world.find("/m").unwrap().mtime_ns, second(1000));
    world.meta.skip(77).unwrap();
    assert_eq!(world.meta.applied(), 77);
    assert_eq!(world.meta.flush().unwrap(), 77);
    assert_eq!(Meta::open(world.kv.clone(), CACHE).unwrap().applied(), 77);
}

#[test]
fn the_first_identity_counts() {
    let mut world = World::new();
    assert_eq!(world.meta.cluster().unwrap(), None);
    for text in ["one", "two"] {
        let reply = world
            .apply(Change::InitCluster {
                cluster: text.to_owned(),
            })
            .reply;
        assert_eq!(reply, Reply::Cluster("one".to_owned()));
    }
    assert_eq!(world.meta.cluster().unwrap().as_deref(), Some("one"));
}

#[test]
fn a_newer_format_is_refused_and_damage_is_told() {
    let put = |kv: &MemKv, key: &[u8], value: &[u8]| {
        let mut batch = Batch::default();
        batch.put(key, value);
        kv.write(&batch, Durability::Volatile).unwrap();
    };
    let kv = Arc::new(MemKv::new());
    put(&kv, &[0], &[9]);
    assert!(matches!(
        Meta::open(kv, CACHE),
        Err(Error::Newer { found: 9, known: 1 })
    ));
    let mut world = World::mounted();
    world.load("/", &[file("f", "1")]);
    world.reap_all();
    for (key, _) in rows(&*world.kv).iter().filter(|(key, _)| key[0] >= 0x10) {
        let copy = store_of(&rows(&*world.kv));
        put(&copy, key, &[0xff]);
        let read = || {
            let meta = Meta::open(copy.clone(), CACHE)?;
            meta.mounts();
            meta.attr(Ino::ROOT)?;
            meta.read_dir(Ino::ROOT, None, 10)
        };
        assert!(matches!(read(), Err(Error::Damaged(_))), "{key:?}");
    }
}
