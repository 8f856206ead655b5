//! Random walks against a naive model.

use crate::support::*;
use crate::tree::{Body, Model, Node, Origin};
use forebay_meta::{Access, Change, Command, Entry, Meta, Reply, SetAttr};
use forebay_types::{Code, FileKind, Ino, MountId, MountSpec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    Make(Vec<String>, String, bool, u16),
    Unlink(Vec<String>, String, bool),
    Rename((Vec<String>, String), (Vec<String>, String), bool),
    Chmod(Vec<String>, u16),
    Upsert(Vec<String>, Vec<(String, Option<String>)>),
    Remove(Vec<String>, Vec<String>),
    Finish(Vec<String>),
    Mount(Vec<String>, String),
    Unmount(usize),
    Pin(Vec<String>, bool),
    Reap(u32),
    Again,
    Reopen,
}

fn any_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn any_path() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any_name(), 0..4)
}

fn any_step() -> impl Strategy<Value = Step> {
    let content = prop::option::of(prop::sample::select(vec!["one", "three"]));
    let entry = (
        any_name(),
        content.prop_map(|content| content.map(str::to_owned)),
    );
    let uris = vec!["mem://a", "mem://b", MountSpec::SCRATCH, MountSpec::SCRATCH];
    let uri = prop::sample::select(uris).prop_map(str::to_owned);
    prop_oneof![
        16 => any_client_step(),
        8 => (any_path(), prop::collection::vec(entry, 1..7)).prop_map(|(p, e)| Step::Upsert(p, e)),
        3 => (any_path(), prop::collection::vec(any_name(), 1..4))
            .prop_map(|(p, n)| Step::Remove(p, n)),
        1 => any_path().prop_map(Step::Finish),
        3 => (any_path(), uri).prop_map(|(p, u)| Step::Mount(p, u)),
        2 => any::<usize>().prop_map(Step::Unmount),
        2 => (any_path(), any::<bool>()).prop_map(|(p, on)| Step::Pin(p, on)),
        2 => (0_u32..6).prop_map(Step::Reap),
        1 => Just(Step::Again),
        1 => Just(Step::Reopen),
    ]
}

/// Most walks begin in scratch mounts: few would come upon one otherwise.
fn any_start() -> impl Strategy<Value = Vec<Step>> {
    let scratch = |path: &[&str]| {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        Step::Mount(path, MountSpec::SCRATCH.to_owned())
    };
    prop::sample::select(vec![
        vec![],
        vec![scratch(&[])],
        vec![scratch(&["a"]), scratch(&["b"])],
    ])
}

/// The walk so far.
struct Walk {
    world: World,
    model: Model,
    commands: Vec<Command>,
    seen: BTreeSet<Ino>,
    /// Files out of the tree: still there, or reaped.
    files: BTreeMap<Ino, u64>,
    /// The latest complete listing of each mount.
    synced: BTreeMap<MountId, i64>,
}

impl Walk {
    fn tell(&mut self, change: Change) -> Reply {
        let index = self.commands.len() as u64 + 1;
        let command = Command {
            now_ns: second(index),
            request: None,
            change,
        };
        self.commands.push(command.clone());
        apply_one(&self.world.meta, index, &command).reply
    }

    fn ino(&mut self, path: &[String]) -> Option<Ino> {
        if path.is_empty() {
            return Some(Ino::ROOT);
        }
        self.model.at(path).and_then(|node| node.ino)
    }

    /// The reply must say what the model says.
    fn expect(&mut self, change: Change, expected: Result<(), Code>) {
        let shown = format!("{change:?}");
        let answer = match self.tell(change) {
            Reply::Refused { code, .. } => Err(code),
            Reply::Done | Reply::Attr(_) => Ok(()),
            other => panic!("{other:?}"),
        };
        assert_eq!(answer, expected, "{shown}");
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Make(path, text, directory, mode) => {
                let Some(parent) = self.ino(path) else { return };
                let (name, access) = (name(text), access(*mode));
                let change = match directory {
                    true => Change::Mkdir {
                        parent,
                        name,
                        access,
                    },
                    false => Change::Create {
                        parent,
                        name,
                        access,
                    },
                };
                let expected = self.model.make(path, text, *directory, *mode);
                self.expect(change, expected);
            }
            Step::Unlink(path, text, directory) => {
                let Some(parent) = self.ino(path) else { return };
                let name = name(text);
                let change = match directory {
                    true => Change::RemoveDir { parent, name },
                    false => Change::Remove { parent, name },
                };
                let expected = self.model.unlink(path, text, *directory);
                self.expect(change, expected);
            }
            Step::Rename((from, old), (to, new), no_replace) => {
                let (Some(parent), Some(new_parent)) = (self.ino(from), self.ino(to)) else {
                    return;
                };
                let change = Change::Rename {
                    parent,
                    name: name(old),
                    new_parent,
                    new_name: name(new),
                    no_replace: *no_replace,
                };
                let expected = self.model.rename((from, old), (to, new), *no_replace);
                self.expect(change, expected);
            }
            Step::Chmod(path, mode) => {
                let Some(ino) = self.ino(path) else { return };
                let set = SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                };
                let expected = self.model.chmod(path, *mode);
                self.expect(Change::SetAttr { ino, set }, expected);
            }
            Step::Upsert(path, entries) => {
                let Some(parent) = self.ino(path) else { return };
                let sent = entries
                    .iter()
                    .map(|(name, content)| match content {
                        Some(content) => file(name, content),
                        None => dir(name),
                    })
                    .collect();
                self.tell(Change::UpsertEntries {
                    parent,
                    entries: sent,
                });
                self.model.upsert(path, entries);
            }
            Step::Remove(path, names) => {
                let Some(parent) = self.ino(path) else { return };
                let sent = names.iter().map(|text| name(text)).collect();
                self.tell(Change::RemoveEntries {
                    parent,
                    names: sent,
                });
                self.model.remove(path, names);
            }
            Step::Finish(path) => {
                let Some(dir) = self.ino(path) else { return };
                // Now and then one that began before another that is told already.
                let started_ns = second(self.commands.len() as u64 / 4 * 7 % 5);
                let state = self.world.meta.dir_state(dir).unwrap();
                let mount = state.and_then(|state| state.mount);
                let reply = self.tell(Change::FinishSync { dir, started_ns });
                if let (Some(mount), Reply::Done) = (mount, reply) {
                    let latest = self.synced.entry(mount).or_default();
                    *latest = started_ns.max(*latest);
                }
            }
            Step::Mount(path, uri) => {
                let text = format!("/{}", path.join("/"));
                let reply = self.tell(mount_of(spec(&text, uri)));
                match self.model.mounts.get(&text) {
                    None if self.model.hides_scratch(path) => assert!(matches!(
                        reply,
                        Reply::Refused {
                            code: Code::AlreadyExists,
                            ..
                        }
                    )),
                    None => {
                        let Reply::Mount(id) = reply else {
                            panic!("{reply:?}")
                        };
                        self.model.mount(path, uri, id);
                    }
                    Some((id, before)) if before == uri => assert_eq!(reply, Reply::Mount(*id)),
                    Some(_) => assert!(matches!(
                        reply,
                        Reply::Refused {
                            code: Code::AlreadyExists,
                            ..
                        }
                    )),
                }
            }
            Step::Unmount(nth) => {
                let count = self.model.mounts.len();
                let Some((text, (id, _))) = self.model.mounts.iter().nth(nth % count.max(1)) else {
                    return;
                };
                let segments = text.split('/').filter(|segment| !segment.is_empty());
                let (path, mount) = (segments.map(str::to_owned).collect::<Vec<_>>(), *id);
                assert_eq!(self.tell(Change::Unmount { mount }), Reply::Done);
                self.model.unmount(&path);
            }
            Step::Pin(path, pinned) => {
                let Some(ino) = self.ino(path) else { return };
                assert_eq!(
                    self.tell(Change::SetPin {
                        ino,
                        pinned: *pinned
                    }),
                    Reply::Done
                );
                self.model.at(path).expect("it has a number").pinned = *pinned;
            }
            Step::Reap(limit) => {
                self.tell(Change::Reap {
                    before_ns: i64::MAX,
                    limit: *limit,
                });
            }
            Step::Again => {
                let Some(command) = self.commands.last() else {
                    return;
                };
                apply_one(&self.world.meta, self.commands.len() as u64, command);
            }
            Step::Reopen => self.world.meta = Meta::open(self.world.kv.clone(), CACHE).unwrap(),
        }
    }

    fn check(&mut self) {
        let mut there = BTreeSet::new();
        let Walk {
            world,
            model,
            seen,
            files,
            ..
        } = self;
        let pinned = model.root.pinned;
        assert_eq!(world.meta.is_pinned(Ino::ROOT).unwrap(), pinned);
        compare(
            world,
            &mut model.root,
            Ino::ROOT,
            "",
            pinned,
            seen,
            &mut there,
            files,
        );
        for (ino, size) in files.iter() {
            if there.contains(ino) {
                continue;
            }
            assert_eq!(world.meta.path(*ino).unwrap(), None, "{ino} is an orphan");
            assert_eq!(world.meta.parent(*ino).unwrap(), None);
            if let Some(attr) = world.meta.attr(*ino).unwrap() {
                assert_eq!(attr.size, *size, "an orphan keeps its attributes");
            }
        }
        let mounts = world.meta.mounts();
        let mounts: BTreeMap<_, _> = mounts
            .into_iter()
            .map(|(id, row)| (row.spec.path.clone(), (id, row.spec.uri.clone())))
            .collect();
        assert_eq!(mounts, model.mounts);
    }

    /// After everything is reaped, exactly the rows of the tree are left.
    fn check_rows(&mut self) {
        while !matches!(
            self.tell(Change::Reap {
                before_ns: i64::MAX,
                limit: 3
            }),
            Reply::Reaped(0)
        ) {}
        self.check();
        let nodes = count(&self.model.root, &|_| true);
        assert_eq!(self.world.meta.inode_count().unwrap(), nodes);
        let pins = count(&self.model.root, &|node| node.pinned);
        let expected = 2 + 2 * self.model.mounts.len() as u64 + nodes + (nodes - 1) + pins;
        assert_eq!(rows(&*self.world.kv).len() as u64, expected);
        let mut expected = recount(&self.world.meta);
        for (mount, usage) in &mut expected {
            usage.last_sync_ns = self.synced.get(mount).copied().unwrap_or(0);
        }
        assert_eq!(usages(&self.world.meta), expected);
        for mount in (0..20).map(MountId) {
            let there = expected.contains_key(&mount);
            assert_eq!(self.world.meta.usage(mount).is_some(), there, "{mount}");
        }
    }
}

fn access(mode: u16) -> Access {
    Access {
        mode,
        uid: 5,
        gid: 6,
    }
}

fn count(node: &Node, which: &dyn Fn(&Node) -> bool) -> u64 {
    let below = match &node.body {
        Body::Dir(_, children) => children.values().map(|child| count(child, which)).sum(),
        Body::File(..) => 0,
    };
    below + u64::from(which(node))
}

#[expect(
    clippy::too_many_arguments,
    reason = "a recursion over two trees and its findings"
)]
fn compare(
    world: &World,
    node: &mut Node,
    ino: Ino,
    path: &str,
    pinned: bool,
    seen: &mut BTreeSet<Ino>,
    there: &mut BTreeSet<Ino>,
    files: &mut BTreeMap<Ino, u64>,
) {
    let Body::Dir(owner, children) = &mut node.body else {
        unreachable!()
    };
    let state = world.meta.dir_state(ino).unwrap().unwrap();
    let state = state
        .mount
        .map(|mount| (mount, String::from_utf8(state.prefix.into()).unwrap()));
    let expected = owner
        .as_ref()
        .map(|(mount, prefix)| (*mount, prefix.clone().unwrap_or_default()));
    assert_eq!(state, expected, "{path}/");
    let list = world.meta.read_dir(ino, None, usize::MAX).unwrap();
    let names: Vec<_> = list.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(
        names,
        children.keys().cloned().collect::<Vec<_>>(),
        "names in {path}/"
    );
    for ((name, attr), child) in list.into_iter().zip(children.values_mut()) {
        let path = format!("{path}/{name}");
        match child.ino {
            Some(ino) => assert_eq!(attr.ino, ino, "{path} keeps its number"),
            None => assert!(seen.insert(attr.ino), "{path} has a number of before"),
        }
        child.ino = Some(attr.ino);
        there.insert(attr.ino);
        assert_eq!(world.meta.lookup(ino, &name).unwrap(), Some(attr));
        assert_eq!(world.meta.attr(attr.ino).unwrap(), Some(attr));
        assert_eq!(
            world.meta.parent(attr.ino).unwrap(),
            Some((ino, name.clone()))
        );
        assert_eq!(
            world.meta.path(attr.ino).unwrap(),
            Some(path.clone().into_bytes())
        );
        let pinned = pinned || child.pinned;
        assert_eq!(
            world.meta.is_pinned(attr.ino).unwrap(),
            pinned,
            "pin of {path}"
        );
        let mode = child
            .mode
            .unwrap_or(if child.is_dir() { 0o755 } else { 0o644 });
        assert_eq!(attr.mode, mode, "mode of {path}");
        match &child.body {
            Body::File(_, content) if content.is_empty() => {
                assert_eq!((attr.kind, attr.size), (FileKind::File, 0));
                assert_eq!(world.meta.file_ref(attr.ino).unwrap(), None);
                files.insert(attr.ino, 0);
            }
            Body::File(mount, content) => {
                assert_eq!(
                    (attr.kind, attr.size),
                    (FileKind::File, content.len() as u64)
                );
                let (_, Some(prefix)) = owner.as_ref().expect("a file is in a mount") else {
                    panic!("{path} has a content without an under store")
                };
                let file = world.meta.file_ref(attr.ino).unwrap().unwrap();
                assert_eq!(file.key, format!("{prefix}{name}"));
                assert_eq!(
                    (file.mount, file.fingerprint.etag),
                    (*mount, format!("\"{content}\""))
                );
                files.insert(attr.ino, attr.size);
            }
            Body::Dir(..) => {
                assert_eq!(attr.kind, FileKind::Directory);
                assert_eq!(world.meta.file_ref(attr.ino).unwrap(), None);
                compare(world, child, attr.ino, &path, pinned, seen, there, files);
            }
        }
    }
}

/// What clients do, near the top of a scratch mount, so that names meet.
fn any_client_step() -> impl Strategy<Value = Step> {
    let at = || (prop::collection::vec(any_name(), 0..3), any_name());
    prop_oneof![
        12 => (at(), prop::bool::weighted(0.7), 0_u16..0o1000)
            .prop_map(|((p, n), d, m)| Step::Make(p, n, d, m)),
        3 => (at(), any::<bool>()).prop_map(|((p, n), d)| Step::Unlink(p, n, d)),
        10 => (at(), at(), prop::bool::weighted(0.2)).prop_map(|(a, b, no)| Step::Rename(a, b, no)),
        1 => (any_path(), 0_u16..0o1000).prop_map(|(p, m)| Step::Chmod(p, m)),
    ]
}

/// Walks, compares, replays.
fn walk(steps: &[Step], cut: prop::sample::Index) {
    let mut walk = Walk {
        world: World::new(),
        model: Model {
            root: Node::dir(Origin::Store, None),
            mounts: BTreeMap::new(),
        },
        commands: Vec::new(),
        seen: BTreeSet::new(),
        files: BTreeMap::new(),
        synced: BTreeMap::new(),
    };
    let cut = cut.index(steps.len());
    let (mut flushed, mut flushed_at) = (Vec::new(), 0);
    for (at, step) in steps.iter().enumerate() {
        if at == cut {
            flushed = rows(&*walk.world.kv);
            flushed_at = walk.commands.len();
        }
        walk.step(step);
        walk.check();
    }
    walk.check_rows();

    let last = rows(&*walk.world.kv);

    // A version that kept no figures of mounts wrote all, or all until some command.
    for (from, begin) in [(&flushed, flushed_at), (&last, walk.commands.len())] {
        let kv = store_of(&without_usage(from));
        assert_eq!(Meta::must_count(&*kv).unwrap().is_some(), !from.is_empty());
        let meta = Meta::open(kv.clone(), CACHE).unwrap();
        assert_eq!(Meta::must_count(&*kv).unwrap(), None);
        for (at, command) in walk.commands.iter().enumerate().skip(begin) {
            apply_one(&meta, at as u64 + 1, command);
        }
        assert_eq!(recount(&meta), without_times(usages(&meta)));
        let same = without_usage(&rows(&*kv)) == without_usage(&last);
        assert!(same, "counting changed other rows");
    }

    // A crash loses what was not flushed; the journal is applied again, from the start or
    // from what was flushed, with a cache or without.
    for (from, cache) in [(Vec::new(), CACHE), (flushed, 0)] {
        let kv = store_of(&from);
        let meta = Meta::open(kv.clone(), cache).unwrap();
        for (at, command) in walk.commands.iter().enumerate() {
            apply_one(&meta, at as u64 + 1, command);
        }
        assert!(rows(&*kv) == last, "replay gave other rows");
    }
    // Many entries in one batch leave the same.
    let kv = store_of(&[]);
    let meta = Meta::open(kv.clone(), CACHE).unwrap();
    let entry = |(at, command): (usize, &Command)| Entry {
        index: at as u64 + 1,
        commands: vec![command.clone()],
    };
    let entries: Vec<_> = walk.commands.iter().enumerate().map(entry).collect();
    for run in entries.chunks(1 + cut) {
        meta.apply(run).unwrap();
    }
    assert!(rows(&*kv) == last, "batches gave other rows");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_nested_maps_and_replays_to_the_same_rows(
        start in any_start(),
        steps in prop::collection::vec(any_step(), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        walk(&[start, steps].concat(), cut);
    }

    #[test]
    fn clients_alone_change_it_like_nested_maps(
        steps in prop::collection::vec(any_client_step(), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let start = vec![Step::Mount(Vec::new(), MountSpec::SCRATCH.to_owned())];
        walk(&[start, steps].concat(), cut);
    }
}
