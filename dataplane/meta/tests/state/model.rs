//! A random walk against a naive model: a tree of nested maps.

use crate::support::*;
use forebay_meta::{Change, Command, Meta, Reply};
use forebay_types::{Code, FileKind, Ino, MountId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    Store,
    Mount,
    Made,
}

type Owner = Option<(MountId, String)>;

#[derive(Clone, Debug)]
struct Node {
    origin: Origin,
    /// Learned when first seen; from then on it must stay.
    ino: Option<Ino>,
    pinned: bool,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    File(MountId, String),
    Dir(Owner, BTreeMap<String, Node>),
}

impl Node {
    fn dir(origin: Origin, owner: Owner) -> Node {
        Node {
            origin,
            ino: None,
            pinned: false,
            body: Body::Dir(owner, BTreeMap::new()),
        }
    }

    fn children(&mut self) -> &mut BTreeMap<String, Node> {
        match &mut self.body {
            Body::Dir(_, children) => children,
            Body::File(..) => panic!("a file has no children"),
        }
    }

    fn leads_to_mount(&self) -> bool {
        match &self.body {
            Body::Dir(_, children) => children
                .values()
                .any(|child| child.origin == Origin::Mount || child.leads_to_mount()),
            Body::File(..) => false,
        }
    }

    /// Only what leads to mount points, in new directories.
    fn stripped(self, origin: Origin, owner: &Owner) -> Node {
        let mut new = Node::dir(origin, owner.clone());
        new.pinned = self.pinned;
        let Body::Dir(_, children) = self.body else {
            panic!("a file is never stripped")
        };
        for (name, child) in children {
            if child.origin == Origin::Mount {
                new.children().insert(name, child);
            } else if child.leads_to_mount() {
                let owner = below(owner, &name);
                new.children()
                    .insert(name, child.stripped(Origin::Made, &owner));
            }
        }
        new
    }
}

fn below(owner: &Owner, name: &str) -> Owner {
    owner
        .as_ref()
        .map(|(mount, prefix)| (*mount, format!("{prefix}{name}/")))
}

struct Model {
    root: Node,
    mounts: BTreeMap<String, (MountId, String)>,
}

impl Model {
    fn at(&mut self, path: &[String]) -> Option<&mut Node> {
        let mut node = &mut self.root;
        for name in path {
            let Body::Dir(_, children) = &mut node.body else {
                return None;
            };
            node = children.get_mut(name)?;
        }
        Some(node)
    }

    fn upsert(&mut self, path: &[String], entries: &[(String, Option<String>)]) {
        let Some(node) = self.at(path) else { return };
        let Body::Dir(Some(owner), children) = &mut node.body else {
            return;
        };
        let last: BTreeMap<_, _> = entries.iter().cloned().collect();
        for (name, content) in last {
            let body = match &content {
                Some(content) => Body::File(owner.0, content.clone()),
                None => Body::Dir(below(&Some(owner.clone()), &name), BTreeMap::new()),
            };
            let mut new = Node {
                origin: Origin::Store,
                ino: None,
                pinned: false,
                body,
            };
            if let Some(old) = children.get_mut(&name) {
                if old.origin == Origin::Mount {
                    continue;
                }
                match (&old.body, &content) {
                    (Body::File(_, before), Some(now)) if before == now => continue,
                    (Body::Dir(..), None) => {
                        old.origin = Origin::Store;
                        continue;
                    }
                    (Body::Dir(..), Some(_)) if old.leads_to_mount() => continue,
                    _ => new.pinned = old.pinned,
                }
            }
            children.insert(name, new);
        }
    }

    fn remove(&mut self, path: &[String], names: &[String]) {
        let Some(node) = self.at(path) else { return };
        let Body::Dir(Some(owner), children) = &mut node.body else {
            return;
        };
        let owner = Some(owner.clone());
        for name in names {
            let Some(old) = children.remove(name) else {
                continue;
            };
            if old.origin == Origin::Mount || old.origin == Origin::Made && old.leads_to_mount() {
                children.insert(name.clone(), old);
            } else if old.leads_to_mount() {
                let new = old.stripped(Origin::Made, &below(&owner, name));
                children.insert(name.clone(), new);
            }
        }
    }

    fn mount(&mut self, path: &[String], uri: &str, id: MountId) {
        let text = format!("/{}", path.join("/"));
        self.mounts.insert(text, (id, uri.to_owned()));
        let owner = Some((id, String::new()));
        let Some((last, way)) = path.split_last() else {
            let old = std::mem::replace(&mut self.root, Node::dir(Origin::Store, None));
            self.root = old.stripped(Origin::Store, &owner);
            return;
        };
        let mut node = &mut self.root;
        for name in way {
            let Body::Dir(above, children) = &mut node.body else {
                unreachable!()
            };
            let child = children
                .entry(name.clone())
                .or_insert_with(|| Node::dir(Origin::Made, below(above, name)));
            if matches!(child.body, Body::File(..)) {
                *child = Node::dir(Origin::Made, below(above, name));
            }
            node = child;
        }
        let new = match node.children().remove(last) {
            Some(old) if old.leads_to_mount() => old.stripped(Origin::Mount, &owner),
            _ => Node::dir(Origin::Mount, owner),
        };
        node.children().insert(last.clone(), new);
    }

    fn unmount(&mut self, path: &[String]) {
        self.mounts.remove(&format!("/{}", path.join("/")));
        let Some((last, way)) = path.split_last() else {
            let old = std::mem::replace(&mut self.root, Node::dir(Origin::Store, None));
            self.root = old.stripped(Origin::Store, &None);
            return;
        };
        let parent = self.at(way).expect("the way to a mount point is there");
        let Body::Dir(owner, children) = &mut parent.body else {
            unreachable!()
        };
        let old = children.remove(last).expect("the mount point is there");
        if old.leads_to_mount() {
            let new = old.stripped(Origin::Made, &below(owner, last));
            children.insert(last.clone(), new);
        }
        for depth in (1..=way.len()).rev() {
            let node = self.at(&way[..depth]).expect("it is there");
            if node.origin != Origin::Made || !node.children().is_empty() {
                break;
            }
            let above = self.at(&way[..depth - 1]).expect("it is there");
            above.children().remove(&way[depth - 1]);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
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
    let uri = prop::sample::select(vec!["mem://a", "mem://b"]).prop_map(str::to_owned);
    prop_oneof![
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

/// The walk so far.
struct Walk {
    world: World,
    model: Model,
    commands: Vec<Command>,
    seen: BTreeSet<Ino>,
    /// Files out of the tree: still there, or reaped.
    files: BTreeMap<Ino, u64>,
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
        self.world.meta.apply(index, &command).unwrap().reply
    }

    fn ino(&mut self, path: &[String]) -> Option<Ino> {
        if path.is_empty() {
            return Some(Ino::ROOT);
        }
        self.model.at(path).and_then(|node| node.ino)
    }

    fn step(&mut self, step: &Step) {
        match step {
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
                self.tell(Change::FinishSync { dir, started_ns: 1 });
            }
            Step::Mount(path, uri) => {
                let text = format!("/{}", path.join("/"));
                let reply = self.tell(Change::Mount {
                    spec: spec(&text, uri),
                });
                match self.model.mounts.get(&text) {
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
                self.world
                    .meta
                    .apply(self.commands.len() as u64, command)
                    .unwrap();
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
        let mounts = world.meta.mounts().unwrap();
        let mounts: BTreeMap<_, _> = mounts
            .into_iter()
            .map(|(id, spec)| (spec.path, (id, spec.uri)))
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
        let expected = 2 + self.model.mounts.len() as u64 + nodes + (nodes - 1) + pins;
        assert_eq!(rows(&*self.world.kv).len() as u64, expected);
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
    assert_eq!(&state, owner, "{path}/");
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
        match &child.body {
            Body::File(mount, content) => {
                assert_eq!(
                    (attr.kind, attr.size),
                    (FileKind::File, content.len() as u64)
                );
                let (_, prefix) = owner.as_ref().expect("a file is in a mount");
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_nested_maps_and_replays_to_the_same_rows(
        steps in prop::collection::vec(any_step(), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut walk = Walk {
            world: World::new(),
            model: Model { root: Node::dir(Origin::Store, None), mounts: BTreeMap::new() },
            commands: Vec::new(),
            seen: BTreeSet::new(),
            files: BTreeMap::new(),
        };
        let cut = cut.index(steps.len());
        let mut flushed = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            if at == cut {
                flushed = rows(&*walk.world.kv);
            }
            walk.step(step);
            walk.check();
        }
        walk.check_rows();

        // A crash loses what was not flushed; the journal is applied again, from the start or
        // from what was flushed, with a cache or without.
        let last = rows(&*walk.world.kv);
        for (from, cache) in [(Vec::new(), CACHE), (flushed, 0)] {
            let kv = store_of(&from);
            let meta = Meta::open(kv.clone(), cache).unwrap();
            for (at, command) in walk.commands.iter().enumerate() {
                meta.apply(at as u64 + 1, command).unwrap();
            }
            prop_assert!(rows(&*kv) == last, "replay gave other rows");
        }
    }
}
