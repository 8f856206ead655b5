//! The naive model: a tree of nested maps.

use forebay_types::{Code, Ino, MountId, MountSpec};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Origin {
    Store,
    Mount,
    Made,
    Own,
}

/// The mount and the key in its under store; a scratch mount has no keys.
pub(crate) type Owner = Option<(MountId, Option<String>)>;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    /// Learned when first seen; from then on it must stay.
    pub(crate) ino: Option<Ino>,
    pub(crate) pinned: bool,
    /// If a client gave it one.
    pub(crate) mode: Option<u16>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(MountId, String),
    Dir(Owner, BTreeMap<String, Node>),
}

impl Node {
    pub(crate) fn dir(origin: Origin, owner: Owner) -> Node {
        Node {
            origin,
            ino: None,
            pinned: false,
            mode: None,
            body: Body::Dir(owner, BTreeMap::new()),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(..))
    }

    /// Whether clients may change names in it.
    pub(crate) fn writable(&self) -> Result<MountId, Code> {
        match &self.body {
            Body::File(..) => Err(Code::NotDirectory),
            Body::Dir(Some((mount, None)), _) => Ok(*mount),
            Body::Dir(..) => Err(Code::ReadOnly),
        }
    }

    pub(crate) fn children(&mut self) -> &mut BTreeMap<String, Node> {
        match &mut self.body {
            Body::Dir(_, children) => children,
            Body::File(..) => panic!("a file has no children"),
        }
    }

    pub(crate) fn leads_to_mount(&self) -> bool {
        match &self.body {
            Body::Dir(_, children) => children
                .values()
                .any(|child| child.origin == Origin::Mount || child.leads_to_mount()),
            Body::File(..) => false,
        }
    }

    /// Only what leads to mount points, in new directories.
    pub(crate) fn stripped(self, origin: Origin, owner: &Owner) -> Node {
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

pub(crate) fn below(owner: &Owner, name: &str) -> Owner {
    owner
        .as_ref()
        .map(|(mount, prefix)| (*mount, prefix.as_ref().map(|p| format!("{p}{name}/"))))
}

pub(crate) struct Model {
    pub(crate) root: Node,
    pub(crate) mounts: BTreeMap<String, (MountId, String)>,
}

impl Model {
    pub(crate) fn at(&mut self, path: &[String]) -> Option<&mut Node> {
        let mut node = &mut self.root;
        for name in path {
            let Body::Dir(_, children) = &mut node.body else {
                return None;
            };
            node = children.get_mut(name)?;
        }
        Some(node)
    }

    pub(crate) fn upsert(&mut self, path: &[String], entries: &[(String, Option<String>)]) {
        let Some(node) = self.at(path) else { return };
        let Body::Dir(Some(owner @ (_, Some(_))), children) = &mut node.body else {
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
                mode: None,
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

    pub(crate) fn remove(&mut self, path: &[String], names: &[String]) {
        let Some(node) = self.at(path) else { return };
        let Body::Dir(Some(owner @ (_, Some(_))), children) = &mut node.body else {
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

    /// Whether a mount would hide a name that cannot come back.
    pub(crate) fn hides_scratch(&self, path: &[String]) -> bool {
        let mut node = &self.root;
        for (at, name) in path.iter().enumerate() {
            let Body::Dir(_, children) = &node.body else {
                return false;
            };
            let Some(child) = children.get(name) else {
                return false;
            };
            let last = at + 1 == path.len();
            if last || !child.is_dir() {
                return node.writable().is_ok();
            }
            node = child;
        }
        false
    }

    pub(crate) fn mount(&mut self, path: &[String], uri: &str, id: MountId) {
        let text = format!("/{}", path.join("/"));
        self.mounts.insert(text, (id, uri.to_owned()));
        let scratch = uri == MountSpec::SCRATCH;
        let owner = Some((id, (!scratch).then(String::new)));
        let mode = scratch.then_some(0o1777);
        let Some((last, way)) = path.split_last() else {
            let old = std::mem::replace(&mut self.root, Node::dir(Origin::Store, None));
            self.root = old.stripped(Origin::Store, &owner);
            self.root.mode = mode;
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
        let mut new = match node.children().remove(last) {
            Some(old) if old.leads_to_mount() => old.stripped(Origin::Mount, &owner),
            _ => Node::dir(Origin::Mount, owner),
        };
        new.mode = mode;
        node.children().insert(last.clone(), new);
    }

    pub(crate) fn unmount(&mut self, path: &[String]) {
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

impl Model {
    /// The directory, in which clients may change names; it is there.
    pub(crate) fn writable(&mut self, path: &[String]) -> Result<(MountId, &mut Node), Code> {
        let node = self.at(path).expect("it has a number");
        Ok((node.writable()?, node))
    }

    pub(crate) fn make(
        &mut self,
        path: &[String],
        name: &str,
        directory: bool,
        mode: u16,
    ) -> Result<(), Code> {
        let (mount, dir) = self.writable(path)?;
        if dir.children().contains_key(name) {
            return Err(Code::AlreadyExists);
        }
        let mut node = Node::dir(Origin::Own, Some((mount, None)));
        if !directory {
            node.body = Body::File(mount, String::new());
        }
        node.mode = Some(mode);
        dir.children().insert(name.to_owned(), node);
        Ok(())
    }

    pub(crate) fn unlink(
        &mut self,
        path: &[String],
        name: &str,
        directory: bool,
    ) -> Result<(), Code> {
        let (_, dir) = self.writable(path)?;
        let node = dir.children().get_mut(name).ok_or(Code::NotFound)?;
        match (node.is_dir(), directory) {
            (true, false) => return Err(Code::IsDirectory),
            (false, true) => return Err(Code::NotDirectory),
            _ => {}
        }
        if node.origin == Origin::Mount {
            return Err(Code::ReadOnly);
        }
        if directory && !node.children().is_empty() {
            return Err(Code::NotEmpty);
        }
        dir.children().remove(name);
        Ok(())
    }

    pub(crate) fn rename(
        &mut self,
        from: (&[String], &str),
        to: (&[String], &str),
        no_replace: bool,
    ) -> Result<(), Code> {
        let (source, _) = self.writable(from.0)?;
        let (target, dir) = self.writable(to.0)?;
        let replaced = dir.children().get(to.1).cloned();
        let (_, dir) = self.writable(from.0)?;
        let mut moved = dir.children().get(from.1).cloned().ok_or(Code::NotFound)?;
        if moved.origin == Origin::Mount || moved.leads_to_mount() {
            return Err(Code::ReadOnly);
        }
        if source != target {
            return Err(Code::CrossMount);
        }
        if no_replace && replaced.is_some() {
            return Err(Code::AlreadyExists);
        }
        if from == to {
            return Ok(());
        }
        let full = [from.0, &[from.1.to_owned()]].concat();
        if moved.is_dir() && to.0.starts_with(&full) {
            return Err(Code::InvalidArgument);
        }
        if let Some(mut replaced) = replaced {
            if replaced.origin == Origin::Mount || replaced.leads_to_mount() {
                return Err(Code::ReadOnly);
            }
            match (moved.is_dir(), replaced.is_dir()) {
                (true, false) => return Err(Code::NotDirectory),
                (false, true) => return Err(Code::IsDirectory),
                (true, true) if !replaced.children().is_empty() => return Err(Code::NotEmpty),
                _ => {}
            }
        }
        dir.children().remove(from.1);
        moved.origin = Origin::Own;
        let (_, dir) = self.writable(to.0)?;
        dir.children().insert(to.1.to_owned(), moved);
        Ok(())
    }

    pub(crate) fn chmod(&mut self, path: &[String], mode: u16) -> Result<(), Code> {
        let is_dir = self.at(path).expect("it has a number").is_dir();
        let dir = if is_dir {
            path
        } else {
            &path[..path.len() - 1]
        };
        self.writable(dir)?;
        self.at(path).expect("it has a number").mode = Some(mode);
        Ok(())
    }
}
