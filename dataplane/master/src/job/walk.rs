//! Walks a part of the tree, directories in parallel.

use crate::{
    error::{Error, Result, blocking},
    namespace::{DIR_BATCH, Namespace, Resolved},
};
use forebay_types::{Attr, Code, FileId, FileKind, Ino};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc};
use tokio::sync::mpsc;

/// Directories that are listed from their under stores at the same time.
const PARALLEL: usize = 16;

/// A file of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Names its bytes.
    pub(crate) id: FileId,
    /// How many there are.
    pub(crate) size: u64,
}

/// What a walk comes upon.
#[derive(Debug)]
pub(crate) enum Found {
    /// A directory was entered.
    Directory(Ino),
    /// Files of one directory.
    Files(Vec<File>),
    /// A directory could not be read; the walk goes on elsewhere.
    Failed(Ino, Error),
}

/// What to do with directories that were not listed from their under store, or long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unlisted {
    /// List them as the mount's policy demands.
    Load,
    /// Take what is known of them: nothing else can be cached.
    Skip,
}

/// Which files are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// By their path relative to the start of the walk.
    globs: Option<Arc<GlobSet>>,
    /// By the time of their last change, nanoseconds since the Unix epoch.
    since_ns: Option<i64>,
}

impl Filter {
    /// Shell globs: `*` stops at `/`, `**` does not. No globs: every file.
    pub(crate) fn new(globs: &[String]) -> Result<Filter> {
        if globs.is_empty() {
            return Ok(Filter::default());
        }
        let bad = |e: globset::Error| Error::new(Code::InvalidArgument, format!("bad glob: {e}"));
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(
                GlobBuilder::new(glob)
                    .literal_separator(true)
                    .build()
                    .map_err(bad)?,
            );
        }
        Ok(Filter {
            globs: Some(Arc::new(set.build().map_err(bad)?)),
            since_ns: None,
        })
    }

    /// Of these, only files that changed at that time or later.
    pub(crate) fn since(self, since_ns: Option<i64>) -> Filter {
        Filter { since_ns, ..self }
    }

    fn wants(&self, attr: &Attr, path: impl FnOnce() -> Vec<u8>) -> bool {
        self.since_ns.is_none_or(|since| attr.mtime_ns >= since)
            && (self.globs.as_ref()).is_none_or(|globs| globs.is_match(OsStr::from_bytes(&path())))
    }
}

/// Directories with their paths relative to the start of the walk, ending in `/` unless empty.
type Directories = Vec<(Ino, Vec<u8>)>;

/// Sends what lies at and below `start` to `out`; ends early when nobody listens.
pub(crate) async fn walk(
    namespace: Namespace,
    start: Resolved,
    filter: Filter,
    unlisted: Unlisted,
    out: mpsc::Sender<Found>,
) {
    if start.attr.kind == FileKind::File {
        let name = || {
            start
                .name
                .as_ref()
                .map_or_else(Vec::new, |name| name.as_bytes().to_vec())
        };
        if filter.wants(&start.attr, name) {
            let id = FileId {
                ino: start.attr.ino,
                version: start.attr.version,
            };
            // Nobody may listen any more.
            let _ = out
                .send(Found::Files(vec![File {
                    id,
                    size: start.attr.size,
                }]))
                .await;
        }
        return;
    }
    let visit = |dir: Ino, path: Vec<u8>| {
        visit(
            namespace.clone(),
            dir,
            path,
            filter.clone(),
            unlisted,
            out.clone(),
        )
        .boxed()
    };
    // Depth first: what waits are the siblings along the paths that are being walked.
    let mut waiting = vec![(start.attr.ino, Vec::new())];
    let mut running: FuturesUnordered<BoxFuture<Directories>> = FuturesUnordered::new();
    loop {
        while running.len() < PARALLEL
            && let Some((dir, path)) = waiting.pop()
        {
            running.push(visit(dir, path));
        }
        let Some(below) = running.next().await else {
            return;
        };
        if out.is_closed() {
            return;
        }
        waiting.extend(below);
    }
}

/// Reads one directory; returns those in it. `path` ends in `/` unless it is empty.
async fn visit(
    namespace: Namespace,
    dir: Ino,
    path: Vec<u8>,
    filter: Filter,
    unlisted: Unlisted,
    out: mpsc::Sender<Found>,
) -> Directories {
    let mut below = Vec::new();
    if let Err(error) = read(&namespace, dir, path, filter, unlisted, &out, &mut below).await {
        // Nobody may listen any more.
        let _ = out.send(Found::Failed(dir, error)).await;
    }
    below
}

async fn read(
    namespace: &Namespace,
    dir: Ino,
    path: Vec<u8>,
    filter: Filter,
    unlisted: Unlisted,
    out: &mpsc::Sender<Found>,
    below: &mut Directories,
) -> Result<()> {
    if unlisted == Unlisted::Load {
        namespace.sync().walked(dir).await?;
    }
    let mut send = Some(Found::Directory(dir));
    let mut after = None;
    loop {
        if let Some(found) = send.take()
            && out.send(found).await.is_err()
        {
            return Ok(());
        }
        let (meta, path, filter) = (namespace.meta().clone(), path.clone(), filter.clone());
        let (files, directories, last) = blocking(move || {
            let entries = meta.read_dir(dir, after.as_ref(), DIR_BATCH)?;
            let full = entries.len() == DIR_BATCH;
            let last = if full {
                entries.last().map(|(name, _)| name.clone())
            } else {
                None
            };
            let mut files = Vec::with_capacity(entries.len());
            let mut directories = Vec::new();
            for (name, attr) in entries {
                let full = || [&path, name.as_bytes()].concat();
                match attr.kind {
                    FileKind::Directory => {
                        let mut path = full();
                        path.push(b'/');
                        directories.push((attr.ino, path));
                    }
                    FileKind::File if filter.wants(&attr, full) => {
                        let id = FileId {
                            ino: attr.ino,
                            version: attr.version,
                        };
                        files.push(File {
                            id,
                            size: attr.size,
                        });
                    }
                    FileKind::File => {}
                }
            }
            Ok::<_, forebay_meta::Error>((files, directories, last))
        })
        .await??;
        below.extend(directories);
        if !files.is_empty() && out.send(Found::Files(files)).await.is_err() {
            return Ok(());
        }
        match last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_see_the_relative_path() {
        let globs = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
        let wants = |all: &[&str], path: &[u8]| {
            let filter = Filter::new(&globs(all)).unwrap();
            filter.wants(&attr(7), || path.to_vec())
        };
        assert!(wants(&["*.bin"], b"a.bin"));
        assert!(!wants(&["*.bin"], b"d/a.bin"));
        assert!(wants(&["**/*.bin"], b"d/e/a.bin"));
        assert!(wants(&["**/*.bin"], b"a.bin"));
        assert!(wants(&["x", "d/*"], b"d/\xff"));
        assert!(wants(&[], b"a") && wants(&["**"], b"a") && wants(&["**"], b"d/a"));
        let error = Filter::new(&globs(&["a["])).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
    }

    #[test]
    fn old_files_can_be_left_out() {
        let filter = Filter::default().since(Some(7));
        assert!(filter.wants(&attr(7), Vec::new));
        assert!(!filter.wants(&attr(6), Vec::new));
    }

    fn attr(mtime_ns: i64) -> Attr {
        Attr {
            ino: Ino(9),
            kind: FileKind::File,
            size: 1,
            mtime_ns,
            mode: 0o644,
            uid: 0,
            gid: 0,
            version: forebay_types::ContentVersion(1),
        }
    }
}
