//! Another database in the place of a closed one, at once or not at all.

use crate::error::io_failed;
use forebay_kv::Result;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Puts a copy of the checkpoint in `from` in the place of the database in `dir`, which nobody has
/// open. Tables are linked where the file system can. When it returns, the new database survives
/// the loss of power; if power is lost meanwhile, `dir` holds either the old one or the new one,
/// and [`RocksKv::open`](crate::RocksKv::open) removes what is left of the other.
pub fn replace(dir: &Path, from: &Path) -> Result<()> {
    exchange(dir, from).map_err(io_failed)
}

fn exchange(dir: &Path, from: &Path) -> io::Result<()> {
    remove_other(dir)?;
    let other = other(dir);
    fs::create_dir(&other)?;
    for file in fs::read_dir(from)? {
        let source = file?.path();
        let target = other.join(source.file_name().expect("of a listing"));
        // RocksDB never changes a table; the small files it appends to or rewrites.
        let table = source.extension().is_some_and(|e| e == "sst");
        if !table || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
        }
        File::open(&target)?.sync_all()?;
    }
    File::open(&other)?.sync_all()?;
    let flags = if dir.exists() {
        RenameFlags::EXCHANGE
    } else {
        RenameFlags::NOREPLACE
    };
    renameat_with(CWD, &other, CWD, dir, flags)?;
    if let Some(parent) = dir.parent() {
        File::open(parent)?.sync_all()?;
    }
    remove_other(dir)
}

/// Where the database lies that is not `dir`: the new one at first, then the old one.
fn other(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().map(OsString::from).unwrap_or_default();
    name.push(".other");
    dir.with_file_name(name)
}

/// Removes what an interrupted [`replace`] may have left.
pub(crate) fn remove_other(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(other(dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
