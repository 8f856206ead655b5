//! The system calls behind the actions. None of them asks a FUSE file system anything.

use crate::{
    error::Error,
    flag::{Flag, Flags},
    mount_table::MountTable,
};
use rustix::{
    fs::{AtFlags, CWD},
    io::Errno,
    mount::{
        MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_remount, move_mount, open_tree, unmount,
    },
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

/// More mounts than that above each other are not ours to take away.
const DEEPEST: u32 = 64;

/// Makes a directory and those above it.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o750).create(path);
    made.map_err(Error::system("make directory", path))
}

/// Removes a directory, if there is one and it is empty.
pub fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::system("remove directory", path)(error))
        }
        _ => Ok(()),
    }
}

/// Takes away what is mounted at `path`, at once: pods that have files open keep them.
pub fn unmount_all(path: &Path) -> Result<(), Error> {
    for _ in 0..DEEPEST {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not mounted, or no such path.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::system("unmount", path)(error)),
        }
    }
    Err(Error::system("unmount", path)(io::Error::other(
        "too many mounts above each other",
    )))
}

/// Mounts the directory that is open as `from` at `target`, too.
pub fn bind(from: &OwnedFd, target: &Path) -> Result<(), Error> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(from, "", clone).map_err(Error::system("clone the mount for", target))?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, target, empty).map_err(Error::system("mount", target))
}

/// Adds flags to those that the mount at `target` has.
pub fn add_flags(target: &Path, flags: &Flags) -> Result<(), Error> {
    let table = MountTable::read().map_err(Error::system("read the mounts for", target))?;
    let had = table.at(target).map(|mount| mount.flags.clone());
    let had = had.ok_or_else(|| {
        Error::system("find the mount", target)(io::Error::from(io::ErrorKind::NotFound))
    })?;
    // A remount replaces what is not named.
    let all = had.union(flags).copied().map(Flag::bit).collect();
    let bind = rustix::mount::MountFlags::BIND.union(all);
    mount_remount(target, bind, "").map_err(Error::system("set the mount options of", target))
}

/// Whether nothing is at `path`; it is not a mount.
pub fn is_missing(path: &Path) -> bool {
    let found = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
}
