//! Hanging inodes into the tree and taking them out.
//!
//! Nothing is ever taken out piece by piece: the edge goes, an orphan row remains, and reaping
//! deletes what is below in bounded steps. A directory on the way to a mount point is never taken
//! out with what is mounted below it: a new one takes its place ([`Txn::replant`]).

use crate::{
    Result,
    edge::{Edge, Origin},
    inode::{InodeRow, Owner, Place},
    pin, schema,
    stamp::Stamp,
    txn::{Fault, Txn, refused},
};
use forebay_types::{Code, FileKind, Ino, Name};
use std::sync::Arc;

impl Txn<'_> {
    /// Whether the tree's root leads to the inode.
    pub(crate) fn is_attached(&self, ino: Ino) -> Result<bool> {
        let mut at = ino;
        loop {
            let Some(row) = self.inode(at)? else {
                return Ok(false);
            };
            match &row.place {
                None => return Ok(at == self.state.counters.root),
                Some(place) if place.gone => return Ok(false),
                Some(place) => at = place.parent,
            }
        }
    }

    /// A directory in the tree that an under store fills (so none of a scratch mount).
    pub(crate) fn filled_directory(&self, dir: Ino) -> Result<(Arc<InodeRow>, Owner), Fault> {
        let outer = self.state.counters.outer(dir);
        let Some(row) = self.inode(dir)? else {
            return refused(Code::NotFound, format!("inode {outer} is not known"));
        };
        let Some(directory) = row.as_directory() else {
            return refused(
                Code::NotDirectory,
                format!("inode {outer} is not a directory"),
            );
        };
        if !self.is_attached(dir)? {
            return refused(
                Code::NotFound,
                format!("directory {outer} is no longer in the tree"),
            );
        }
        let Some(owner) = directory.owner.clone() else {
            let reason = format!("directory {outer} belongs to no mount");
            return refused(Code::InvalidArgument, reason);
        };
        if owner.is_scratch() {
            let reason = format!("directory {outer} belongs to a scratch mount");
            return refused(Code::InvalidArgument, reason);
        }
        Ok((row, owner))
    }

    /// Puts an empty directory under a name.
    pub(crate) fn add_directory(
        &mut self,
        dir: Ino,
        name: &Name,
        owner: Option<Owner>,
        origin: Origin,
    ) -> Ino {
        let ino = self.state.counters.new_ino();
        let place = Place {
            parent: dir,
            name: name.clone(),
            gone: false,
        };
        self.add_inode(ino, InodeRow::directory(Some(place), self.now_ns(), owner));
        self.put_edge(
            dir,
            name,
            Edge {
                ino,
                kind: FileKind::Directory,
                origin,
            },
        );
        ino
    }

    /// Takes a name out of a directory; the inode and all below become orphans.
    pub(crate) fn detach(&mut self, dir: Ino, name: &Name, edge: Edge) -> Result<()> {
        self.delete_edge(dir, name);
        self.orphan(edge.ino)
    }

    /// Makes an orphan of an inode to which no edge leads any more.
    pub(crate) fn orphan(&mut self, ino: Ino) -> Result<()> {
        let old = self.known_inode(ino)?;
        let mut row = InodeRow::clone(&*old);
        if let Some(place) = &mut row.place {
            place.gone = true;
            self.replace_inode(ino, &old, row);
        }
        self.batch
            .put(schema::orphan(self.now_ns(), ino), Vec::new());
        Ok(())
    }

    /// Makes an empty directory in the place of `old` and hangs the mount points below `old` into
    /// it, with new directories on the way to them. Pins go over. The caller sets the edge of the
    /// new directory and makes an orphan of `old`.
    pub(crate) fn replant(
        &mut self,
        old: Ino,
        place: Option<Place>,
        owner: Option<&Owner>,
    ) -> Result<Ino> {
        let new = self.state.counters.new_ino();
        self.add_inode(
            new,
            InodeRow::directory(place, self.now_ns(), owner.cloned()),
        );
        pin::carry_over(self, old, new)?;
        for child in self.state.mounts.on_the_way(old) {
            let mut row = InodeRow::clone(&*self.known_inode(child)?);
            let Some(place) = &mut row.place else {
                continue;
            };
            let name = place.name.clone();
            place.parent = new;
            let kind = FileKind::Directory;
            if self.state.mounts.is_mount_point(child) {
                self.put_inode(child, row);
                self.delete_edge(old, &name);
                self.put_edge(
                    new,
                    &name,
                    Edge {
                        ino: child,
                        kind,
                        origin: Origin::Mount,
                    },
                );
            } else {
                let owner = owner.map(|owner| owner.child(&name));
                let ino = self.replant(child, row.place, owner.as_ref())?;
                self.put_edge(
                    new,
                    &name,
                    Edge {
                        ino,
                        kind,
                        origin: Origin::Made,
                    },
                );
            }
        }
        Ok(new)
    }

    /// The names of a directory changed: its time follows, and what was cached of it is wrong.
    pub(crate) fn touch(&mut self, dir: Ino) -> Result<()> {
        let row = self.known_inode(dir)?;
        let now = Stamp(self.now_ns());
        if row.mtime < now {
            self.put_inode(
                dir,
                InodeRow {
                    mtime: now,
                    ..InodeRow::clone(&row)
                },
            );
        }
        self.invalidate_inode(dir);
        Ok(())
    }
}
