//! The mount table, and what mounting does to the tree.

use crate::{
    Result,
    edge::{self, Edge, Origin},
    inode::{InodeRow, Owner, Place, SCRATCH_ACCESS},
    outcome::Reply,
    problem, schema,
    txn::{Fault, Txn, refused},
};
use forebay_kv::Read;
use forebay_types::{Code, FileKind, Ino, MountId, MountSpec, Name};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A row of the mount table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRow {
    pub(crate) spec: Arc<MountSpec>,
    /// Its directory ([`Ino::ROOT`] for `/`).
    pub(crate) dir: Ino,
    /// Whether the masters' configuration names it.
    pub(crate) configured: bool,
}

/// The mount table in memory (it is small), with the ways that lead to mount points.
#[derive(Clone, Default)]
pub(crate) struct Mounts {
    rows: BTreeMap<MountId, MountRow>,
    /// Mount points other than `/`.
    points: BTreeSet<Ino>,
    /// Directory to those of its children that are mount points or lead to one.
    ways: BTreeMap<Ino, BTreeSet<Ino>>,
}

impl Mounts {
    /// All rows.
    pub(crate) fn rows(&self) -> &BTreeMap<MountId, MountRow> {
        &self.rows
    }

    pub(crate) fn get(&self, id: MountId) -> Option<&MountRow> {
        self.rows.get(&id)
    }

    fn at(&self, path: &str) -> Option<(MountId, &MountRow)> {
        self.rows
            .iter()
            .find(|(_, row)| row.spec.path == path)
            .map(|(id, row)| (*id, row))
    }

    /// Whether it is a mount point (`/` does not count: it has no name).
    pub(crate) fn is_mount_point(&self, ino: Ino) -> bool {
        self.points.contains(&ino)
    }

    /// Whether there is a mount point below a directory.
    pub(crate) fn leads_to_one(&self, dir: Ino) -> bool {
        self.ways.contains_key(&dir)
    }

    /// The children of a directory that are mount points or lead to one.
    pub(crate) fn on_the_way(&self, dir: Ino) -> BTreeSet<Ino> {
        self.ways.get(&dir).cloned().unwrap_or_default()
    }
}

/// The rows of the mount table.
pub(crate) fn rows(reader: &dyn Read) -> Result<BTreeMap<MountId, MountRow>> {
    let range = schema::mounts();
    let rows = reader.scan(range.start.as_slice()..range.end.as_slice());
    rows.map(|row| {
        let (key, value) = row?;
        Ok((schema::mount_of(&key)?, schema::decode(&value, "mount")?))
    })
    .collect()
}

/// Fills the table in memory from the rows.
pub(crate) fn load(txn: &mut Txn) -> Result<()> {
    txn.state.mounts = Arc::new(Mounts {
        rows: rows(txn.kv)?,
        ..Mounts::default()
    });
    find_ways(txn)
}

/// Finds the ways to mount points again, after the tree or the table changed.
pub(crate) fn find_ways(txn: &mut Txn) -> Result<()> {
    let dirs = txn.state.mounts.rows.values().map(|row| row.dir);
    let points: BTreeSet<Ino> = dirs.filter(|dir| *dir != Ino::ROOT).collect();
    let mut ways = BTreeMap::<Ino, BTreeSet<Ino>>::new();
    for point in &points {
        let mut at = *point;
        while let Some(place) = &txn.known_inode(at)?.place {
            ways.entry(place.parent).or_default().insert(at);
            at = place.parent;
        }
    }
    let mounts = Arc::make_mut(&mut txn.state.mounts);
    mounts.points = points;
    mounts.ways = ways;
    Ok(())
}

/// Mounts an under store, or makes a scratch mount.
pub(crate) fn mount(txn: &mut Txn, spec: &MountSpec, configured: bool) -> Result<Reply, Fault> {
    let Some(names) = names_of(&spec.path) else {
        let reason = format!(
            "mount path '{}' is not an absolute path without empty, '.' or '..' segments",
            spec.path
        );
        return refused(Code::InvalidArgument, reason);
    };
    if let Some((id, row)) = txn.state.mounts.at(&spec.path) {
        if row.spec.uri != spec.uri {
            let reason = format!(
                "'{}' is mounted from {}: unmount it first",
                spec.path, row.spec.uri
            );
            return refused(Code::AlreadyExists, reason);
        }
        let row = MountRow {
            spec: Arc::new(spec.clone()),
            configured,
            dir: row.dir,
        };
        put(txn, id, row);
        return Ok(Reply::Mount(id));
    }
    let counters = &mut txn.state.counters;
    let id = MountId(counters.next_mount);
    counters.next_mount += 1;
    txn.usage.begin(id);
    let owner = Owner::top(id, spec);
    let dir = match names.split_last() {
        None => {
            replace_root(txn, Some(&owner))?;
            Ino::ROOT
        }
        Some((name, way)) => {
            let mut at = txn.state.counters.root;
            for name in way {
                at = enter(txn, at, name)?;
            }
            spare(txn, at, name)?;
            let dir = match txn.edge(at, name)? {
                Some(edge) if txn.state.mounts.leads_to_one(edge.ino) => {
                    let place = Place {
                        parent: at,
                        name: name.clone(),
                        gone: false,
                    };
                    let new = txn.replant(edge.ino, Some(place), Some(&owner))?;
                    txn.orphan(edge.ino)?;
                    let kind = FileKind::Directory;
                    txn.put_edge(
                        at,
                        name,
                        Edge {
                            ino: new,
                            kind,
                            origin: Origin::Mount,
                        },
                    );
                    new
                }
                hidden => {
                    if let Some(edge) = hidden {
                        txn.detach(at, name, edge)?;
                    }
                    txn.add_directory(at, name, Some(owner), Origin::Mount)
                }
            };
            txn.invalidate_entry(at, name);
            txn.touch(at)?;
            dir
        }
    };
    if spec.is_scratch() {
        let top = txn.state.counters.inner(dir);
        let row = InodeRow::clone(&*txn.known_inode(top)?);
        let access = Some(SCRATCH_ACCESS);
        txn.put_inode(top, InodeRow { access, ..row });
    }
    put(
        txn,
        id,
        MountRow {
            spec: Arc::new(spec.clone()),
            dir,
            configured,
        },
    );
    find_ways(txn)?;
    Ok(Reply::Mount(id))
}

/// A directory on the way to a mount point, made if it is missing. It belongs to the mount that
/// it lies in, if any, and can be listed as part of it. A file of the name is hidden.
fn enter(txn: &mut Txn, dir: Ino, name: &Name) -> Result<Ino, Fault> {
    match txn.edge(dir, name)? {
        Some(edge) if edge.kind == FileKind::Directory => return Ok(edge.ino),
        Some(file) => {
            spare(txn, dir, name)?;
            txn.detach(dir, name, file)?;
        }
        None => {}
    }
    let parent = txn.known_inode(dir)?;
    let owner = parent
        .as_directory()
        .and_then(|directory| directory.owner.as_ref());
    let owner = owner.map(|owner| owner.child(name));
    let ino = txn.add_directory(dir, name, owner, Origin::Made);
    txn.invalidate_entry(dir, name);
    txn.touch(dir)?;
    Ok(ino)
}

/// Refuses to hide a name that no under store can show again: one of a scratch mount.
fn spare(txn: &Txn, dir: Ino, name: &Name) -> Result<(), Fault> {
    let row = txn.known_inode(dir)?;
    let owner = row.as_directory().and_then(|dir| dir.owner.as_ref());
    if owner.is_some_and(Owner::is_scratch) && txn.edge(dir, name)?.is_some() {
        let reason = format!("'{name}' is there already, in a scratch mount: rename or remove it");
        return refused(Code::AlreadyExists, reason);
    }
    Ok(())
}

/// Takes a mount out of the tree. What is mounted below it stays, and the directories that lead
/// there.
pub(crate) fn unmount(txn: &mut Txn, id: MountId) -> Result<Reply, Fault> {
    let Some(row) = Arc::make_mut(&mut txn.state.mounts).rows.remove(&id) else {
        return refused(Code::NotFound, format!("there is no mount {id}"));
    };
    txn.batch.delete(schema::mount(id));
    txn.usage.end(id);
    problem::forget_mount(txn, id);
    if row.dir == Ino::ROOT {
        replace_root(txn, None)?;
        find_ways(txn)?;
        return Ok(Reply::Done);
    }
    find_ways(txn)?;
    let Some(place) = txn.known_inode(row.dir)?.place.clone() else {
        return Ok(Reply::Done);
    };
    let (parent, name) = (place.parent, place.name.clone());
    let kind = FileKind::Directory;
    let edge = Edge {
        ino: row.dir,
        kind,
        origin: Origin::Mount,
    };
    let parent_row = txn.known_inode(parent)?;
    if txn.state.mounts.leads_to_one(row.dir) {
        let owner = parent_row
            .as_directory()
            .and_then(|directory| directory.owner.as_ref());
        let owner = owner.map(|owner| owner.child(&name));
        let new = txn.replant(row.dir, Some(place), owner.as_ref())?;
        txn.orphan(row.dir)?;
        txn.put_edge(
            parent,
            &name,
            Edge {
                ino: new,
                kind,
                origin: Origin::Made,
            },
        );
        find_ways(txn)?;
    } else {
        txn.detach(parent, &name, edge)?;
    }
    txn.invalidate_entry(parent, &name);
    txn.touch(parent)?;
    let survivor = prune(txn, parent, &name)?;
    // The mount point may have hidden an entry of the under store around it: list again.
    let row = txn.known_inode(survivor)?;
    if row
        .as_directory()
        .is_some_and(|directory| directory.synced_ns.is_some())
    {
        let again = row.with_directory(|directory| directory.synced_ns = None);
        txn.replace_inode(survivor, &row, again);
    }
    Ok(Reply::Done)
}

/// Takes out the directories that were made on the way to a mount point and lead nowhere now
/// that `gone` is out of `dir`. Returns the directory that remains.
fn prune(txn: &mut Txn, dir: Ino, gone: &Name) -> Result<Ino> {
    let (mut dir, mut gone) = (dir, gone.clone());
    loop {
        let Some(place) = txn.known_inode(dir)?.place.clone() else {
            return Ok(dir);
        };
        let Some(edge) = txn.edge(place.parent, &place.name)? else {
            return Ok(dir);
        };
        if edge.origin != Origin::Made || txn.state.mounts.leads_to_one(dir) {
            return Ok(dir);
        }
        // The scan shows the store before this command, so `gone` may still be in it.
        if edge::scan(txn.kv, dir, None, 2)?
            .iter()
            .any(|(name, _)| *name != gone)
        {
            return Ok(dir);
        }
        txn.detach(place.parent, &place.name, edge)?;
        txn.invalidate_entry(place.parent, &place.name);
        txn.touch(place.parent)?;
        (dir, gone) = (place.parent, place.name);
    }
}

/// Puts another directory in the place of the root. Any name may have been cached in it, so
/// everything is forgotten.
fn replace_root(txn: &mut Txn, owner: Option<&Owner>) -> Result<()> {
    let old = txn.state.counters.root;
    let new = txn.replant(old, None, owner)?;
    txn.orphan(old)?;
    txn.state.counters.root = new;
    txn.invalidated.all = true;
    Ok(())
}

fn put(txn: &mut Txn, id: MountId, row: MountRow) {
    txn.batch.put(schema::mount(id), schema::encode(&row));
    Arc::make_mut(&mut txn.state.mounts).rows.insert(id, row);
}

/// The segments of a normalised absolute path.
fn names_of(path: &str) -> Option<Vec<Name>> {
    let rest = path.strip_prefix('/')?;
    if rest.is_empty() {
        return Some(Vec::new());
    }
    rest.split('/')
        .map(|segment| Name::new(segment.to_owned()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_normalised_paths_are_taken() {
        let name = |text: &str| Name::new(text.to_owned()).unwrap();
        assert_eq!(names_of("/"), Some(vec![]));
        assert_eq!(names_of("/a/b"), Some(vec![name("a"), name("b")]));
        for path in ["", "a", "//", "/a/", "/a//b", "/./a", "/a/..", "/a\0"] {
            assert_eq!(names_of(path), None, "{path:?}");
        }
    }
}
