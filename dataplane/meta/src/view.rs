//! What reads see.
//!
//! A view of several rows reads them from one snapshot, or from the live store where any mixture
//! of before and after is a state that was: an inode's attributes do not change with its edge, and
//! a number is never used again. So every answer is that of one moment between the call and its
//! return.

use crate::{
    Error, Meta, Result,
    command::Problem,
    counters::Counters,
    edge,
    inode::{self, Directory, InodeRow},
    mount::MountRow,
    pin, problem, schema,
    usage::Usage,
};
use bytes::Bytes;
use forebay_kv::Read;
use forebay_types::{Attr, FileRef, Ino, MountId, MountSpec, Name};
use std::{sync::Arc, sync::atomic::Ordering};

/// Where a directory's entries come from, and how fresh they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirState {
    /// The mount; `None`: a directory made only to hold mount points.
    pub mount: Option<MountId>,
    /// Its key in the under store: empty, or ending in `/`.
    pub prefix: Bytes,
    /// When the last complete listing began (`FinishSync`), nanoseconds since the Unix epoch;
    /// `None`: never listed, or to be listed again.
    pub synced_ns: Option<i64>,
}

/// An inode's attributes and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its attributes.
    pub attr: Attr,
    /// The directory that it is in.
    pub dir: Option<(Ino, DirState)>,
}

/// A row of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What and where.
    pub spec: Arc<MountSpec>,
    /// Whether the masters' configuration names it; else somebody asked for it.
    pub configured: bool,
}

impl Mount {
    fn of(row: &MountRow) -> Mount {
        Mount {
            spec: Arc::clone(&row.spec),
            configured: row.configured,
        }
    }
}

impl DirState {
    fn of(directory: &Directory) -> DirState {
        let owner = directory.owner.as_ref();
        DirState {
            mount: owner.map(|owner| owner.mount),
            prefix: owner
                .and_then(|owner| owner.prefix.clone())
                .unwrap_or_default(),
            synced_ns: directory.synced_ns,
        }
    }
}

/// Most entries read at once: they are in memory together.
const PORTION: usize = 131_072;

impl Meta {
    /// The cluster's identity, once given.
    pub fn cluster(&self) -> Result<Option<String>> {
        let value = self.kv.get(&schema::cluster())?;
        let text = value.map(String::from_utf8).transpose();
        text.map_err(|_| Error::Damaged("the cluster's identity is not UTF-8".to_owned()))
    }

    /// Attributes of an inode (orphans included).
    pub fn attr(&self, ino: Ino) -> Result<Option<Attr>> {
        Ok(self.row(self.inner(ino))?.map(|row| row.attr(ino)))
    }

    /// A name in a directory.
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Attr>> {
        let dir = self.inner(parent);
        if let Some(ino) = self.hints.get(dir, name)
            && let Some(row) = self.row(ino)?
            && row.is_at(dir, name)
        {
            return Ok(Some(row.attr(ino)));
        }
        match edge::get(&*self.kv, dir, name)? {
            None if parent != Ino::ROOT => return Ok(None),
            // Another directory may just have taken the place of the root.
            None => {}
            Some(edge) => {
                if let Some(row) = self.row(edge.ino)? {
                    if row.is_at(dir, name) {
                        self.hints.put(dir, name, edge.ino);
                    }
                    return Ok(Some(row.attr(edge.ino)));
                }
                // The name was changed, and what it led to reaped, between the two reads.
            }
        }
        let now = self.kv.snapshot();
        let dir = inner_at(&*now, parent)?;
        let Some(edge) = edge::get(&*now, dir, name)? else {
            return Ok(None);
        };
        Ok(inode::get(&*now, edge.ino)?.map(|row| row.attr(edge.ino)))
    }

    /// Up to `limit` entries after a name, in the order of names. The entries of one call are of
    /// one moment.
    pub fn read_dir(
        &self,
        dir: Ino,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<(Name, Attr)>> {
        let now = self.kv.snapshot();
        let dir = inner_at(&*now, dir)?;
        let mut list: Vec<(Name, Attr)> = Vec::new();
        while list.len() < limit {
            let after = list.last().map_or(after, |(name, _)| Some(name));
            let portion = PORTION.min(limit - list.len());
            let edges = edge::scan(&*now, dir, after, portion)?;
            let complete = edges.len() < portion;
            let inos: Vec<_> = edges.iter().map(|(_, edge)| edge.ino).collect();
            let attrs = inode::read_many(&*now, &inos, |ino, row| row.attr(ino))?;
            list.reserve_exact(attrs.len());
            for ((name, edge), attr) in edges.into_iter().zip(attrs) {
                let missing = || Error::Damaged(format!("inode {} is missing", edge.ino));
                list.push((name, attr.ok_or_else(missing)?));
            }
            if complete {
                break;
            }
        }
        Ok(list)
    }

    /// Of a directory; `None` if there is no such directory.
    pub fn dir_state(&self, dir: Ino) -> Result<Option<DirState>> {
        let Some(row) = self.row(self.inner(dir))? else {
            return Ok(None);
        };
        Ok(row.as_directory().map(DirState::of))
    }

    /// Attributes of an inode (orphans included), and the directory that it is in, if it is in
    /// one.
    pub fn attr_within(&self, ino: Ino) -> Result<Option<Placed>> {
        let Some(row) = self.row(self.inner(ino))? else {
            return Ok(None);
        };
        let attr = row.attr(ino);
        let Some(place) = row.place.as_ref().filter(|place| !place.gone) else {
            return Ok(Some(Placed { attr, dir: None }));
        };
        let root = self.root.load(Ordering::Acquire);
        let dir = if place.parent.0 == root {
            Ino::ROOT
        } else {
            place.parent
        };
        let dir = self.dir_state(dir)?.map(|state| (dir, state));
        Ok(Some(Placed { attr, dir }))
    }

    /// Of a file (orphans included); `None` if there is no such file in an under store.
    pub fn file_ref(&self, ino: Ino) -> Result<Option<FileRef>> {
        let Some(row) = self.row(ino)? else {
            return Ok(None);
        };
        let (Some(file), Some(place)) = (row.as_file(), &row.place) else {
            return Ok(None);
        };
        let Some(parent) = self.row(place.parent)? else {
            return Ok(None);
        };
        Ok(parent
            .as_directory()
            .and_then(|directory| file.file_ref(ino, place, directory)))
    }

    /// Parent and name; `None` for the root, orphans and unknown inodes.
    pub fn parent(&self, ino: Ino) -> Result<Option<(Ino, Name)>> {
        let way = self.way(ino)?;
        Ok(way.and_then(|way| way.into_iter().next()))
    }

    /// Absolute path of an inode in the tree; `None` for orphans and unknown inodes.
    pub fn path(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let Some(way) = self.way(ino)? else {
            return Ok(None);
        };
        let mut path = Vec::new();
        for (_, name) in way.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Some(path))
    }

    /// Whether the inode or a directory above it is pinned.
    pub fn is_pinned(&self, ino: Ino) -> Result<bool> {
        if self.pins.load(Ordering::Acquire) == 0 {
            return Ok(false);
        }
        let mut at = self.inner(ino);
        loop {
            if pin::is_pinned(&*self.kv, at)? {
                return Ok(true);
            }
            let Some(row) = self.row(at)? else {
                return Ok(false);
            };
            let Some(place) = &row.place else {
                return Ok(false);
            };
            at = place.parent;
        }
    }

    /// The mount table.
    pub fn mounts(&self) -> Vec<(MountId, Mount)> {
        let mounts = self.mounts.read().clone();
        let rows = mounts.rows().iter();
        rows.map(|(id, row)| (*id, Mount::of(row))).collect()
    }

    /// A row of the mount table; from memory.
    pub fn mount(&self, id: MountId) -> Option<Mount> {
        self.mounts.read().get(id).map(Mount::of)
    }

    /// What a mount has; from memory. `None`: there is no such mount.
    pub fn usage(&self, mount: MountId) -> Option<Usage> {
        self.usages.get(mount)
    }

    /// Up to `limit` recorded problems, and how many there are in all.
    pub fn problems(&self, limit: usize) -> Result<(Vec<(MountId, Problem)>, u64)> {
        problem::list(&*self.kv.snapshot(), limit)
    }

    /// Inodes there are, orphans included until they are reaped.
    pub fn inode_count(&self) -> Result<u64> {
        Ok(self.inodes.load(Ordering::Acquire))
    }

    fn inner(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT {
            Ino(self.root.load(Ordering::Acquire))
        } else {
            ino
        }
    }

    fn row(&self, ino: Ino) -> Result<Option<Arc<InodeRow>>> {
        self.cache.load(&*self.kv, ino)
    }

    /// Parents and names from an inode up to the root; `None` if it is not in the tree.
    fn way(&self, ino: Ino) -> Result<Option<Vec<(Ino, Name)>>> {
        let now = self.kv.snapshot();
        let counters = Counters::load(&*now)?;
        let mut way = Vec::new();
        let mut at = counters.inner(ino);
        loop {
            let Some(row) = inode::get(&*now, at)? else {
                return Ok(None);
            };
            match row.place {
                None if at == counters.root => return Ok(Some(way)),
                Some(place) if !place.gone => {
                    way.push((counters.outer(place.parent), place.name));
                    at = place.parent;
                }
                _ => return Ok(None),
            }
        }
    }
}

/// The number under which the tables of `now` keep the inode that others call `ino`.
fn inner_at(now: &dyn Read, ino: Ino) -> Result<Ino> {
    Ok(if ino == Ino::ROOT {
        Counters::load(now)?.root
    } else {
        ino
    })
}
