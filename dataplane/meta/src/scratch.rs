//! What clients change, in mounts whose names and attributes are Forebay's own. Every function
//! checks all before it changes anything.

use crate::{
    Result,
    command::{Access, SetAttr},
    edge::{Edge, Origin},
    inode::{InodeRow, Owner, Place},
    outcome::Reply,
    stamp::Stamp,
    txn::{Fault, Txn, refused},
};
use forebay_types::{Code, FileKind, Fingerprint, Ino, Name};
use std::sync::Arc;

/// Makes an empty file.
pub(crate) fn create(txn: &mut Txn, dir: Ino, name: &Name, access: Access) -> Result<Reply, Fault> {
    let owner = vacant(txn, dir, name)?;
    let content = Fingerprint::default();
    let row = InodeRow::file(place(dir, name), txn.now_ns(), owner.mount, &content);
    hang(txn, dir, name, FileKind::File, row, access)
}

/// Makes an empty directory.
pub(crate) fn mkdir(txn: &mut Txn, dir: Ino, name: &Name, access: Access) -> Result<Reply, Fault> {
    let owner = vacant(txn, dir, name)?;
    let row = InodeRow::directory(Some(place(dir, name)), txn.now_ns(), Some(owner));
    hang(txn, dir, name, FileKind::Directory, row, access)
}

/// Gives an inode another name. What had that name is an orphan then.
pub(crate) fn rename(
    txn: &mut Txn,
    from: (Ino, &Name),
    to: (Ino, &Name),
    no_replace: bool,
) -> Result<Reply, Fault> {
    let source = writable(txn, from.0)?;
    let target = writable(txn, to.0)?;
    let moved = there(txn, from)?;
    let replaced = txn.edge(to.0, to.1)?;
    movable(txn, from.1, moved)?;
    if source.mount != target.mount {
        let reason = format!("'{}' and '{}' are in different mounts", from.1, to.1);
        return refused(Code::CrossMount, reason);
    }
    if no_replace && replaced.is_some() {
        return refused(Code::AlreadyExists, format!("'{}' is there already", to.1));
    }
    if from == to {
        return Ok(Reply::Done);
    }
    if moved.kind == FileKind::Directory && is_below(txn, to.0, moved.ino)? {
        let reason = format!("'{}' cannot go below itself", from.1);
        return refused(Code::InvalidArgument, reason);
    }
    if let Some(replaced) = replaced {
        movable(txn, to.1, replaced)?;
        match (moved.kind, replaced.kind) {
            (FileKind::File, FileKind::File) => {}
            (FileKind::Directory, FileKind::Directory) => empty(txn, to.1, replaced)?,
            (FileKind::Directory, FileKind::File) => not_a_directory(to.1)?,
            (FileKind::File, FileKind::Directory) => a_directory(to.1)?,
        }
    }
    let row = InodeRow::clone(&*txn.known_inode(moved.ino)?);

    if let Some(replaced) = replaced {
        txn.orphan(replaced.ino)?;
    }
    txn.delete_edge(from.0, from.1);
    let origin = Origin::Own;
    txn.put_edge(to.0, to.1, Edge { origin, ..moved });
    let place = Some(place(to.0, to.1));
    txn.put_inode(moved.ino, InodeRow { place, ..row });
    for (dir, name) in [from, to] {
        txn.invalidate_entry(dir, name);
        txn.touch(dir)?;
    }
    if moved.kind == FileKind::Directory {
        // Its listing names its parent.
        txn.invalidate_inode(moved.ino);
    }
    Ok(Reply::Done)
}

/// Takes a file's name away.
pub(crate) fn remove(txn: &mut Txn, dir: Ino, name: &Name) -> Result<Reply, Fault> {
    writable(txn, dir)?;
    let edge = there(txn, (dir, name))?;
    if edge.kind == FileKind::Directory {
        a_directory(name)?;
    }
    unhang(txn, dir, name, edge)
}

/// Takes an empty directory away.
pub(crate) fn remove_dir(txn: &mut Txn, dir: Ino, name: &Name) -> Result<Reply, Fault> {
    writable(txn, dir)?;
    let edge = there(txn, (dir, name))?;
    if edge.kind == FileKind::File {
        not_a_directory(name)?;
    }
    if txn.state.mounts.is_mount_point(edge.ino) {
        return movable(txn, name, edge).map(|()| Reply::Done);
    }
    empty(txn, name, edge)?;
    unhang(txn, dir, name, edge)
}

/// Sets attributes.
pub(crate) fn set_attr(txn: &mut Txn, ino: Ino, set: &SetAttr) -> Result<Reply, Fault> {
    let outer = txn.state.counters.outer(ino);
    let row = match txn.inode(ino)? {
        Some(row) if txn.is_attached(ino)? => row,
        _ => return refused(Code::NotFound, format!("inode {outer} is not in the tree")),
    };
    // A file is where its directory is.
    let dir = match &row.place {
        Some(place) if row.as_directory().is_none() => txn.known_inode(place.parent)?,
        _ => Arc::clone(&row),
    };
    scratch_owner(&dir, outer)?;
    let old = row.attr(outer);
    let row = InodeRow {
        mtime: set.mtime_ns.map_or(row.mtime, Stamp),
        access: Some(Access {
            mode: set.mode.map_or(old.mode, |mode| mode & 0o7777),
            uid: set.uid.unwrap_or(old.uid),
            gid: set.gid.unwrap_or(old.gid),
        }),
        ..InodeRow::clone(&row)
    };
    let attr = row.attr(outer);
    txn.put_inode(ino, row);
    txn.invalidate_inode(ino);
    Ok(Reply::Attr(attr))
}

/// A directory in which clients may change names.
fn writable(txn: &Txn, dir: Ino) -> Result<Owner, Fault> {
    let outer = txn.state.counters.outer(dir);
    let Some(row) = txn.inode(dir)? else {
        return refused(Code::NotFound, format!("inode {outer} is not known"));
    };
    if row.as_directory().is_none() {
        let reason = format!("inode {outer} is not a directory");
        return refused(Code::NotDirectory, reason);
    }
    if !txn.is_attached(dir)? {
        let reason = format!("directory {outer} is no longer in the tree");
        return refused(Code::NotFound, reason);
    }
    scratch_owner(&row, outer)
}

fn scratch_owner(dir: &InodeRow, outer: Ino) -> Result<Owner, Fault> {
    let owner = dir.as_directory().and_then(|dir| dir.owner.as_ref());
    match owner {
        Some(owner) if owner.is_scratch() => Ok(owner.clone()),
        Some(_) => refused(
            Code::ReadOnly,
            format!("inode {outer} belongs to an under store: change it there"),
        ),
        None => refused(
            Code::ReadOnly,
            format!("directory {outer} only leads to mounts"),
        ),
    }
}

/// A directory in which clients may change names, and which has not this one.
fn vacant(txn: &Txn, dir: Ino, name: &Name) -> Result<Owner, Fault> {
    let owner = writable(txn, dir)?;
    match txn.edge(dir, name)? {
        Some(_) => refused(Code::AlreadyExists, format!("'{name}' is there already")),
        None => Ok(owner),
    }
}

fn there(txn: &Txn, (dir, name): (Ino, &Name)) -> Result<Edge, Fault> {
    match txn.edge(dir, name)? {
        Some(edge) => Ok(edge),
        None => refused(Code::NotFound, format!("there is no '{name}'")),
    }
}

/// Mounts stay where the mount table has them.
fn movable(txn: &Txn, name: &Name, edge: Edge) -> Result<(), Fault> {
    let mounts = &txn.state.mounts;
    if mounts.is_mount_point(edge.ino) || mounts.leads_to_one(edge.ino) {
        let reason = format!("'{name}' is a mount point or leads to one: unmount it first");
        return refused(Code::ReadOnly, reason);
    }
    Ok(())
}

fn empty(txn: &Txn, name: &Name, edge: Edge) -> Result<(), Fault> {
    if txn.is_empty(edge.ino)? {
        return Ok(());
    }
    refused(Code::NotEmpty, format!("directory '{name}' is not empty"))
}

fn a_directory(name: &Name) -> Result<(), Fault> {
    refused(Code::IsDirectory, format!("'{name}' is a directory"))
}

fn not_a_directory(name: &Name) -> Result<(), Fault> {
    refused(Code::NotDirectory, format!("'{name}' is not a directory"))
}

/// Whether a directory of the tree is `top` or below it.
fn is_below(txn: &Txn, dir: Ino, top: Ino) -> Result<bool> {
    let mut at = dir;
    while at != top {
        let Some(place) = &txn.known_inode(at)?.place else {
            return Ok(false);
        };
        at = place.parent;
    }
    Ok(true)
}

fn place(dir: Ino, name: &Name) -> Place {
    Place {
        parent: dir,
        name: name.clone(),
        gone: false,
    }
}

fn hang(
    txn: &mut Txn,
    dir: Ino,
    name: &Name,
    kind: FileKind,
    row: InodeRow,
    access: Access,
) -> Result<Reply, Fault> {
    let ino = txn.state.counters.new_ino();
    let access = Access {
        mode: access.mode & 0o7777,
        ..access
    };
    let row = InodeRow {
        access: Some(access),
        ..row
    };
    let attr = row.attr(ino);
    txn.add_inode(ino, row);
    let origin = Origin::Own;
    txn.put_edge(dir, name, Edge { ino, kind, origin });
    txn.invalidate_entry(dir, name);
    txn.touch(dir)?;
    Ok(Reply::Attr(attr))
}

fn unhang(txn: &mut Txn, dir: Ino, name: &Name, edge: Edge) -> Result<Reply, Fault> {
    txn.detach(dir, name, edge)?;
    txn.invalidate_entry(dir, name);
    txn.touch(dir)?;
    Ok(Reply::Done)
}
