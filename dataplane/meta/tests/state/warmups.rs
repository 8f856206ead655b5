//! The table of warm-ups.

use crate::support::*;
use forebay_meta::{Change, Reply, Warmup, WarmupEnd, WarmupSpec};
use forebay_types::Code;

fn spec(path: &'static str, pin: bool) -> WarmupSpec {
    WarmupSpec {
        path: path.into(),
        pin,
        ..WarmupSpec::default()
    }
}

fn start(world: &mut World, run: &str, spec: WarmupSpec) -> Reply {
    let (name, run) = ("w".to_owned(), run.to_owned());
    world.apply(Change::StartWarmup { name, run, spec }).reply
}

fn end(world: &mut World, run: &str) {
    let end = WarmupEnd {
        files_done: 3,
        ..WarmupEnd::default()
    };
    let (name, run) = ("w".to_owned(), run.to_owned());
    let ended = world.apply(Change::EndWarmup { name, run, end });
    assert_eq!(ended.reply, Reply::Done);
}

fn remove(world: &mut World, let_go: bool) {
    let name = "w".to_owned();
    let removed = world.apply(Change::RemoveWarmup { name, let_go });
    assert_eq!(removed.reply, Reply::Done);
}

fn only(world: &World) -> Option<Warmup> {
    let mut all = world.meta.warmups().unwrap();
    assert!(all.len() < 2);
    all.pop().map(|(name, warmup)| {
        assert_eq!(name, "w");
        warmup
    })
}

#[test]
fn a_run_begins_once_and_ends_once() {
    let mut world = World::new();
    assert_eq!(start(&mut world, "1", spec("/a", false)), Reply::Done);
    let begun = only(&world).unwrap();
    assert_eq!(begun.end, None);
    end(&mut world, "0");
    assert_eq!(only(&world), Some(begun), "the end of another run");
    end(&mut world, "1");
    let ended = only(&world);
    assert_eq!(start(&mut world, "1", spec("/b", true)), Reply::Done);
    assert_eq!(only(&world), ended, "it had begun before");
    assert_eq!(start(&mut world, "2", spec("/a", false)), Reply::Done);
    assert_eq!(only(&world).unwrap().end, None);
    remove(&mut world, false);
    assert_eq!(only(&world), None);
    remove(&mut world, false);
}

#[test]
fn pins_of_former_settings_are_remembered_until_they_are_let_go() {
    let mut world = World::new();
    start(&mut world, "1", spec("/a", true));
    start(&mut world, "2", spec("/a", true));
    assert_eq!(only(&world).unwrap().left, []);
    start(&mut world, "3", spec("/b", true));
    start(&mut world, "4", spec("/c", false));
    let left = [spec("/a", true), spec("/b", true)];
    assert_eq!(only(&world).unwrap().left, left);
    // What is wanted again stays pinned.
    start(&mut world, "5", spec("/a", true));
    assert_eq!(only(&world).unwrap().left, left[1..]);
    remove(&mut world, false);
    assert!(only(&world).unwrap().removed);
    end(&mut world, "5");
    assert!(only(&world).unwrap().removed);
    // Started again while its pins were let go: it stays.
    start(&mut world, "5", spec("/a", true));
    remove(&mut world, true);
    end(&mut world, "5");
    let warmup = only(&world).unwrap();
    assert!(!warmup.removed && warmup.left.is_empty() && warmup.end.is_some());
    remove(&mut world, false);
    remove(&mut world, true);
    assert_eq!(only(&world), None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut world = World::new();
    let code = |reply| match reply {
        Reply::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        code(start(&mut world, &"x".repeat(300), spec("/", false))),
        Code::InvalidArgument
    );
    let paths = ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10"];
    let mut replies = paths.map(|path| start(&mut world, path, spec(path, true)));
    assert_eq!(code(std::mem::take(&mut replies[9])), Code::Unavailable);
    assert!(replies.iter().all(|reply| *reply == Reply::Done));
}
