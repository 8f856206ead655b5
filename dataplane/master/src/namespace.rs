//! Answers from the tree: brings what is asked for in step with the under store as far as the
//! mount's policy demands, then reads the metadata.
//!
//! Point reads are made on the calling task: they come from memory nearly always, and a hand-over to
//! another thread would cost more than they do.

use crate::{
    error::{Error, Result},
    proposer::Proposer,
    sync::Sync,
};
use forebay_meta::{Meta, Placed};
use forebay_types::{Attr, Code, FileKind, FileRef, Ino, Name};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most entries of one message of a listing.
pub(crate) const DIR_BATCH: usize = 4_096;

/// Listings that may have many more entries in memory at the same time.
const LARGE_LISTINGS: usize = 2;

/// A path's end.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// The inode at the path.
    pub(crate) attr: Attr,
    /// Its directory; the root is its own.
    pub(crate) parent: Ino,
    /// Its name; the root has none.
    pub(crate) name: Option<Name>,
}

/// The tree. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Namespace {
    meta: Arc<Meta>,
    sync: Sync,
    proposer: Arc<Proposer>,
    large_listings: Arc<Semaphore>,
}

impl Namespace {
    pub(crate) fn new(meta: Arc<Meta>, sync: Sync, proposer: Arc<Proposer>) -> Namespace {
        Namespace {
            meta,
            sync,
            proposer,
            large_listings: Arc::new(Semaphore::new(LARGE_LISTINGS)),
        }
    }

    /// The state below.
    pub(crate) fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// Leave to have many entries of a listing in memory, if it is to be had.
    pub(crate) fn large_listing(&self) -> Option<OwnedSemaphorePermit> {
        self.large_listings.clone().try_acquire_owned().ok()
    }

    /// What keeps it in step.
    pub(crate) fn sync(&self) -> &Sync {
        &self.sync
    }

    /// Makes the reads after it linearizable: they see all that was ever acknowledged. Costs two
    /// loads from memory while this is the only voter.
    pub(crate) async fn barrier(&self) -> Result<()> {
        Ok(self.proposer.raft().read_barrier().await?)
    }

    /// As [`Namespace::lookup`], if nothing must be waited for.
    pub(crate) fn lookup_now(
        &self,
        parent: Ino,
        name: &Name,
    ) -> Result<Option<(Option<Attr>, Duration)>> {
        let Some(lease) = self.sync.name_now(parent)? else {
            return Ok(None);
        };
        Ok(Some((self.meta.lookup(parent, name)?, lease)))
    }

    /// As [`Namespace::attr`], if nothing must be waited for.
    pub(crate) fn attr_now(&self, ino: Ino) -> Result<Option<(Attr, Duration)>> {
        let Placed { attr, dir } = self.meta.attr_within(ino)?.ok_or_else(|| unknown(ino))?;
        let lease = self.sync.attributes_now(attr.kind, dir.as_ref())?;
        Ok(lease.map(|lease| (attr, lease)))
    }

    /// A name in a directory, and how long the answer may be kept.
    pub(crate) async fn lookup(
        &self,
        parent: Ino,
        name: &Name,
    ) -> Result<(Option<Attr>, Duration)> {
        let lease = self.sync.name(parent, name).await?;
        Ok((self.meta.lookup(parent, name)?, lease))
    }

    /// Attributes of an inode, and how long the answer may be kept.
    pub(crate) async fn attr(&self, ino: Ino) -> Result<(Attr, Duration)> {
        if let Some(answer) = self.attr_now(ino)? {
            return Ok(answer);
        }
        self.sync.compare(ino).await?;
        let Placed { attr, dir } = self.meta.attr_within(ino)?.ok_or_else(|| unknown(ino))?;
        let mount = dir.and_then(|(_, state)| state.mount);
        Ok((attr, self.sync.lease_of(mount)))
    }

    /// Begins to read a directory: its attributes, its parent, and how long the answer may be
    /// kept.
    pub(crate) async fn open_dir(&self, dir: Ino) -> Result<(Attr, Ino, Duration)> {
        let lease = self.sync.directory(dir).await?;
        let attr = self.meta.attr(dir)?.ok_or_else(|| unknown(dir))?;
        let parent = self.meta.parent(dir)?.map_or(dir, |(parent, _)| parent);
        Ok((attr, parent, lease))
    }

    /// What stands at an absolute path.
    pub(crate) async fn resolve(&self, path: &[u8]) -> Result<Resolved> {
        let mut parent = Ino::ROOT;
        let mut name = None;
        let mut attr = self
            .meta
            .attr(Ino::ROOT)?
            .ok_or_else(|| unknown(Ino::ROOT))?;
        for segment in segments(path)? {
            let not_found =
                |code, what| Error::new(code, format!("{}: {what}", String::from_utf8_lossy(path)));
            if attr.kind != FileKind::Directory {
                return Err(not_found(
                    Code::NotDirectory,
                    "a part of the path is a file",
                ));
            }
            parent = attr.ino;
            attr = self
                .lookup(parent, &segment)
                .await?
                .0
                .ok_or_else(|| not_found(Code::NotFound, "no such file or directory"))?;
            name = Some(segment);
        }
        Ok(Resolved { attr, parent, name })
    }

    /// What a worker needs to fetch the file.
    pub(crate) fn file(&self, ino: Ino) -> Result<FileRef> {
        if let Some(file) = self.meta.file_ref(ino)? {
            return Ok(file);
        }
        Err(match self.meta.attr(ino)?.map(|attr| attr.kind) {
            Some(FileKind::Directory) => {
                Error::new(Code::IsDirectory, format!("inode {ino} is a directory"))
            }
            Some(FileKind::File) => {
                let text = format!("inode {ino} is in a scratch mount, which holds no file data");
                Error::new(Code::Unsupported, text)
            }
            None => unknown(ino),
        })
    }
}

fn unknown(ino: Ino) -> Error {
    Error::new(
        Code::NotFound,
        format!("no file or directory has inode {ino}"),
    )
}

/// The names of an absolute path; doubled and trailing slashes do not count.
fn segments(path: &[u8]) -> Result<Vec<Name>> {
    let bad = |why: &str| {
        let shown = String::from_utf8_lossy(path);
        Error::new(Code::InvalidArgument, format!("bad path '{shown}': {why}"))
    };
    let rest = path
        .strip_prefix(b"/")
        .ok_or_else(|| bad("it must begin with '/'"))?;
    rest.split(|b| *b == b'/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| Name::new(segment.to_vec()).map_err(|e| bad(&e.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let names = |path: &str| {
            segments(path.as_bytes()).map(|s| s.iter().map(Name::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names("/").unwrap(), Vec::<String>::new());
        assert_eq!(names("/a//b/").unwrap(), ["a", "b"]);
        for path in ["", "a", "/a/../b", "/.", "/a\0"] {
            assert_eq!(
                names(path).unwrap_err().code,
                Code::InvalidArgument,
                "{path}"
            );
        }
    }
}
