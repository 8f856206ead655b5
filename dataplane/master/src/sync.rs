//! Keeps directories in step with their under stores, off the path of those who read.
//!
//! One flight per directory: the first who needs it starts the listing, the others share its
//! result. Entries are proposed in batches while the listing goes on; nothing is removed unless the
//! listing is complete.

use crate::{
    diff::{Diff, Existing, protected},
    error::{Error, Result, blocking},
    flight::{Flights, Join},
    freshness::{Freshness, freshness, lease},
    lock::Locks,
    metrics::Metrics,
    mounts::Mounts,
    naming::name_page,
    proposer::{Changes, Pipeline, Proposer, now_ns},
};
use forebay_consensus::ProposeError;
use forebay_meta::{Change, DirState, Meta, UfsEntry, UfsKind};
use forebay_service::Shutdown;
use forebay_types::{Attr, Code, FileKind, Ino, MountId, Name};
use forebay_ufs::Depth;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// Entries of one command.
const BATCH: usize = 2_000;

/// Entries read from the metadata at once.
const SCAN: usize = 4_096;

/// How long a directory whose comparison in the background failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Failed directories that are remembered.
const FAILED_MAX: usize = 10_000;

/// Keeps directories in step. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sync {
    meta: Arc<Meta>,
    proposer: Arc<Proposer>,
    mounts: Arc<Mounts>,
    metrics: Arc<Metrics>,
    directories: Arc<Flights<Changes>>,
    files: Arc<Flights<Changes>>,
    locks: Arc<Locks>,
    failed: Arc<Mutex<HashMap<Ino, Instant>>>,
    /// Whether this master keeps anything in step; else it only knows what is.
    leads: bool,
}

impl Sync {
    pub(crate) fn new(
        meta: Arc<Meta>,
        proposer: Arc<Proposer>,
        mounts: Arc<Mounts>,
        metrics: Arc<Metrics>,
        shutdown: &Shutdown,
    ) -> Sync {
        Sync {
            meta,
            proposer,
            mounts,
            metrics,
            directories: Flights::new(shutdown.clone()),
            files: Flights::new(shutdown.clone()),
            locks: Arc::default(),
            failed: Arc::default(),
            leads: true,
        }
    }

    /// That of a master which does not lead: says of everything that would need an under store that
    /// the leader is to be asked.
    pub(crate) fn of_follower(
        meta: Arc<Meta>,
        proposer: Arc<Proposer>,
        mounts: Arc<Mounts>,
        metrics: Arc<Metrics>,
        shutdown: &Shutdown,
    ) -> Sync {
        Sync {
            leads: false,
            ..Sync::new(meta, proposer, mounts, metrics, shutdown)
        }
    }

    /// Makes the directory fit to be listed from, as its mount's policy demands; how long the
    /// answer may be kept.
    pub(crate) async fn directory(&self, dir: Ino) -> Result<Duration> {
        let state = self.dir_state(dir)?;
        match self.freshness(&state)? {
            Freshness::Fresh => {}
            Freshness::Stale => self.behind(dir),
            Freshness::Unloaded => self.flight(dir, Join::Any).await.map(drop)?,
            Freshness::Check => self.flight(dir, Join::Fresh).await.map(drop)?,
        }
        Ok(lease(self.mounts.policy(state.mount)))
    }

    /// Makes one name of the directory fit to be answered; how long the answer may be kept.
    pub(crate) async fn name(&self, dir: Ino, name: &Name) -> Result<Duration> {
        if let Some(lease) = self.name_now(dir)? {
            return Ok(lease);
        }
        let state = self.dir_state(dir)?;
        match self.freshness(&state)? {
            Freshness::Fresh | Freshness::Stale => {}
            Freshness::Unloaded => self.flight(dir, Join::Any).await.map(drop)?,
            // One request for a file that is known; only a listing can tell of the rest.
            Freshness::Check => match self.meta.lookup(dir, name)? {
                Some(Attr {
                    kind: FileKind::File,
                    ino,
                    ..
                }) => {
                    self.compare(ino).await.map(drop)?;
                }
                _ => self.flight(dir, Join::Fresh).await.map(drop)?,
            },
        }
        Ok(lease(self.mounts.policy(state.mount)))
    }

    /// How long an answer about any name of the directory may be kept, if it can be given without
    /// waiting for the under store.
    pub(crate) fn name_now(&self, dir: Ino) -> Result<Option<Duration>> {
        let state = self.dir_state(dir)?;
        match self.freshness(&state)? {
            Freshness::Fresh => {}
            Freshness::Stale => self.behind(dir),
            Freshness::Unloaded | Freshness::Check => return Ok(None),
        }
        Ok(Some(lease(self.mounts.policy(state.mount))))
    }

    /// How long an answer about the attributes of an inode in `dir` may be kept, if it can be given
    /// without waiting for the under store.
    pub(crate) fn attributes_now(
        &self,
        kind: FileKind,
        dir: Option<&(Ino, DirState)>,
    ) -> Result<Option<Duration>> {
        // The root's attributes and those of an inode out of the tree never change.
        let Some((dir, state)) = dir else {
            return Ok(Some(lease(None)));
        };
        match self.freshness(state)? {
            Freshness::Stale => self.behind(*dir),
            Freshness::Check if kind == FileKind::File => return Ok(None),
            _ => {}
        }
        Ok(Some(lease(self.mounts.policy(state.mount))))
    }

    /// How long answers about what is in a mount may be kept.
    pub(crate) fn lease_of(&self, mount: Option<MountId>) -> Duration {
        lease(self.mounts.policy(mount))
    }

    /// Makes the directory fit to be walked for a job: what is new in the under store counts, but
    /// one that cannot be compared is taken as it is.
    pub(crate) async fn walked(&self, dir: Ino) -> Result<()> {
        match self.freshness(&self.dir_state(dir)?)? {
            Freshness::Fresh => Ok(()),
            Freshness::Unloaded => self.flight(dir, Join::Any).await.map(drop),
            Freshness::Check => self.flight(dir, Join::Fresh).await.map(drop),
            Freshness::Stale => {
                // The flight has logged why it failed.
                let _ = self.flight(dir, Join::Any).await;
                Ok(())
            }
        }
    }

    /// Compares the directory with the under store now.
    pub(crate) fn now(&self, dir: Ino) -> BoxFuture<'static, Result<Changes>> {
        self.flight(dir, Join::Fresh)
    }

    /// Compares one file with the under store now.
    pub(crate) fn compare(&self, file: Ino) -> BoxFuture<'static, Result<Changes>> {
        let sync = self.clone();
        self.files.join(file, Join::Fresh, move || {
            async move { sync.compare_file(file).await }.boxed()
        })
    }

    fn dir_state(&self, dir: Ino) -> Result<DirState> {
        if let Some(state) = self.meta.dir_state(dir)? {
            return Ok(state);
        }
        Err(match self.meta.attr(dir)? {
            Some(_) => Error::new(
                Code::NotDirectory,
                format!("inode {dir} is not a directory"),
            ),
            None => Error::new(Code::NotFound, format!("no directory has inode {dir}")),
        })
    }

    fn freshness(&self, state: &DirState) -> Result<Freshness> {
        let found = freshness(self.mounts.policy(state.mount), state.synced_ns, now_ns());
        if found == Freshness::Fresh || self.leads {
            return Ok(found);
        }
        let leader = Some(self.proposer.raft().status().leader).filter(|leader| *leader != 0);
        Err(ProposeError::NotLeader { leader }.into())
    }

    /// Compares in the background, unless that is under way or has just failed.
    fn behind(&self, dir: Ino) {
        let failed = self.failed.lock().get(&dir).copied();
        if failed.is_none_or(|at| at.elapsed() >= RETRY_AFTER) {
            drop(self.flight(dir, Join::Any));
        }
    }

    fn flight(&self, dir: Ino, join: Join) -> BoxFuture<'static, Result<Changes>> {
        let sync = self.clone();
        self.directories.join(dir, join, move || {
            async move { sync.run(dir).await }.boxed()
        })
    }

    /// One listing, with its bookkeeping.
    async fn run(&self, dir: Ino) -> Result<Changes> {
        let begun = Instant::now();
        let lock = self.locks.of(dir);
        let result = {
            let _alone = lock.write().await;
            self.list(dir).await
        };
        match &result {
            Ok(changes) => {
                self.failed.lock().remove(&dir);
                self.metrics.listed(changes, begun.elapsed());
            }
            Err(error) => {
                self.metrics.listing_failures.inc();
                tracing::warn!(inode = dir.0, %error, "cannot list a directory");
                let mut failed = self.failed.lock();
                if failed.len() >= FAILED_MAX {
                    failed.clear();
                }
                failed.insert(dir, Instant::now());
            }
        }
        result
    }

    async fn list(&self, dir: Ino) -> Result<Changes> {
        let state = self.dir_state(dir)?;
        // Without an under store there is nothing to follow.
        let (Some(mount_id), Some(_)) = (state.mount, self.mounts.policy(state.mount)) else {
            return Ok(Changes::default());
        };
        let store = self.mounts.store(mount_id)?;
        let path = self.meta.path(dir)?.ok_or_else(|| {
            Error::new(
                Code::NotFound,
                format!("directory with inode {dir} was removed"),
            )
        })?;
        let started_ns = now_ns();
        let empty = state.synced_ns.is_none() && self.meta.read_dir(dir, None, 1)?.is_empty();
        let rows = self.mounts.rows();
        let guard = protected(&path, rows.iter().map(|(_, m)| m.spec.path.as_str()));
        let mut diff = Diff::new(state.prefix.clone(), guard);
        let mut batch = Batch::new(dir);
        let mut pipeline = Pipeline::new(self.proposer.clone());
        let mut pages = store.list(&state.prefix, Depth::Directory);
        let mut first = true;
        while let Some(page) = pages.next().await {
            let page = match page {
                // Object stores list nothing where local directories are not found. The mount's own
                // directory is another matter: it may be a disk that is not there now.
                Err(e) if e.code == Code::NotFound && first && !state.prefix.is_empty() => break,
                page => page?,
            };
            first = false;
            let named = name_page(&state.prefix, page);
            let mut changed = Vec::new();
            if empty {
                diff.take(named, |_| Ok::<_, Error>(Existing::Absent), &mut changed)?;
            } else {
                let meta = self.meta.clone();
                (diff, changed) = blocking(move || {
                    diff.take(named, |name| existing(&meta, dir, name), &mut changed)?;
                    Ok::<_, Error>((diff, changed))
                })
                .await??;
            }
            for entry in changed {
                batch.add(entry, &mut pipeline).await?;
            }
        }
        for entry in diff.decide() {
            batch.add(entry, &mut pipeline).await?;
        }
        batch.flush(&mut pipeline).await?;
        if !empty {
            self.remove_gone(dir, &diff, &mut pipeline).await?;
        }
        let (problems, more) = diff.into_problems();
        if more > 0 {
            let shown = String::from_utf8_lossy(&path);
            tracing::warn!(directory = %shown, more, "too many keys cannot be shown: not all are recorded");
        }
        self.metrics
            .problem_keys
            .inc_by(problems.len() as u64 + more);
        if !problems.is_empty() || self.meta.problems(0)?.1 > 0 {
            let prefix = state.prefix;
            pipeline
                .push(Change::RecordProblems {
                    mount: mount_id,
                    prefix,
                    problems,
                })
                .await?;
        }
        // Only now: the directory must not be taken for complete while a batch can still fail.
        let changes = pipeline.drain().await?;
        self.proposer
            .propose(Change::FinishSync { dir, started_ns })
            .await?;
        Ok(changes)
    }

    async fn remove_gone(&self, dir: Ino, diff: &Diff, pipeline: &mut Pipeline) -> Result<()> {
        let mut after: Option<Name> = None;
        loop {
            let meta = self.meta.clone();
            let entries = blocking(move || meta.read_dir(dir, after.as_ref(), SCAN)).await??;
            let Some((last, _)) = entries.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let names: Vec<Name> = entries
                .into_iter()
                .map(|(name, _)| name)
                .filter(|n| diff.is_gone(n))
                .collect();
            if !names.is_empty() {
                pipeline
                    .push(Change::RemoveEntries { parent: dir, names })
                    .await?;
            }
        }
    }

    async fn compare_file(&self, ino: Ino) -> Result<Changes> {
        let Some((parent, _)) = self.meta.parent(ino)? else {
            return Ok(Changes::default());
        };
        let lock = self.locks.of(parent);
        let _no_listing = lock.read().await;
        // It may have been replaced or removed while we waited.
        let (Some((parent, name)), Some(file), Some(attr)) = (
            self.meta.parent(ino)?,
            self.meta.file_ref(ino)?,
            self.meta.attr(ino)?,
        ) else {
            return Ok(Changes::default());
        };
        let change = match self.mounts.store(file.mount)?.stat(&file.key).await {
            Ok(object)
                if object.fingerprint == file.fingerprint && object.mtime_ns == attr.mtime_ns =>
            {
                return Ok(Changes::default());
            }
            Ok(object) => {
                let kind = UfsKind::File {
                    fingerprint: object.fingerprint,
                    mtime_ns: object.mtime_ns,
                };
                Change::UpsertEntries {
                    parent,
                    entries: vec![UfsEntry { name, kind }],
                }
            }
            Err(error) if error.code == Code::NotFound => Change::RemoveEntries {
                parent,
                names: vec![name],
            },
            Err(error) => return Err(error.into()),
        };
        let changes = Changes::from(&self.proposer.propose(change).await?);
        self.metrics.changed(&changes);
        Ok(changes)
    }
}

fn existing(meta: &Meta, dir: Ino, name: &Name) -> Result<Existing> {
    let Some(attr) = meta.lookup(dir, name)? else {
        return Ok(Existing::Absent);
    };
    if attr.kind == FileKind::Directory {
        return Ok(Existing::Directory);
    }
    let Some(file) = meta.file_ref(attr.ino)? else {
        return Ok(Existing::Absent);
    };
    Ok(Existing::File(file.fingerprint, attr.mtime_ns))
}

/// Entries on their way to a command. A name is in it once: the last one counts.
struct Batch {
    parent: Ino,
    entries: BTreeMap<Name, UfsKind>,
}

impl Batch {
    fn new(parent: Ino) -> Batch {
        Batch {
            parent,
            entries: BTreeMap::new(),
        }
    }

    async fn add(&mut self, entry: UfsEntry, pipeline: &mut Pipeline) -> Result<()> {
        self.entries.insert(entry.name, entry.kind);
        if self.entries.len() >= BATCH {
            self.flush(pipeline).await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self, pipeline: &mut Pipeline) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.entries);
        let entries = entries
            .into_iter()
            .map(|(name, kind)| UfsEntry { name, kind })
            .collect();
        pipeline
            .push(Change::UpsertEntries {
                parent: self.parent,
                entries,
            })
            .await
    }
}
