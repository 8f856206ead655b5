//! The namespace as a FUSE host sees it: the masters' metadata behind a cache with leases.
//!
//! An answer is kept for as long as the master granted and only while the `Watch` stream lives; when
//! the stream breaks, everything is forgotten, also in the kernel.

use crate::{
    Access, Error, Result, Session, SetAttr, Voter, changes::Change, flight::Flights,
    master::Master, metacache::MetaCache, watch,
};
use bytes::{Bytes, BytesMut};
use forebay_proto::v1;
use forebay_types::{Addresses, Attr, Code, FileRef, Ino, Name};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Most entries of a directory that is fetched whole because of lookups in it.
const PREFETCH_ENTRIES: usize = 65_536;
/// Invalidations that a receiver may lag behind.
const BACKLOG: usize = 4_096;

/// Something with the time for which it may be kept.
#[derive(Clone, Debug)]
pub struct Leased<T> {
    /// The thing.
    pub value: T,
    /// How long the kernel may keep it from now on.
    pub valid: Duration,
}

/// A whole directory at one moment, in the order of names.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    /// The directory.
    pub directory: Attr,
    /// Its parent (the root is its own).
    pub parent: Ino,
    /// Names and attributes.
    pub entries: Vec<(Name, Attr)>,
}

impl Listing {
    /// The attributes of a name.
    pub fn find(&self, name: &Name) -> Option<Attr> {
        let at = self.entries.binary_search_by(|(n, _)| n.cmp(name)).ok()?;
        Some(self.entries[at].1)
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        let row = size_of::<(Name, Attr)>();
        self.entries
            .iter()
            .map(|(name, _)| row + name.as_bytes().len())
            .sum::<usize>() as u64
            + 128
    }

    pub(crate) fn holds(&self, ino: Ino) -> bool {
        self.directory.ino == ino || self.entries.iter().any(|(_, attr)| attr.ino == ino)
    }

    pub(crate) fn holds_any(&self, inodes: &HashSet<Ino>) -> bool {
        inodes.contains(&self.directory.ino)
            || self
                .entries
                .iter()
                .any(|(_, attr)| inodes.contains(&attr.ino))
    }
}

/// What somebody else's kernel must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// A name in a directory, and the directory's listing.
    Entry(Ino, Name),
    /// An inode's attributes and data.
    Inode(Ino),
    /// Everything that was ever handed out.
    All,
}

/// The namespace; cheap to clone.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) master: Master,
    pub(crate) session: Session,
    pub(crate) cache: MetaCache,
    changes: broadcast::Sender<Invalidation>,
    lookups: Flights<(Ino, Name), Result<Leased<Option<Attr>>>>,
    attrs: Flights<Ino, Result<Leased<Attr>>>,
    listings: Flights<Ino, Result<Leased<Arc<Listing>>>>,
    prefetches: Flights<Ino, Result<Option<Leased<Arc<Listing>>>>>,
    files: Flights<Ino, Result<FileRef>>,
}

impl Namespace {
    /// Connects, opens a session, and starts to watch. `cache_bytes` bounds the metadata cache.
    pub async fn connect(
        master: Master,
        cache_bytes: u64,
        shutdown: CancellationToken,
    ) -> Result<Namespace> {
        let client = format!("fuse pid {}", std::process::id());
        let session = Session::open(&master, &client).await?;
        let stream = watch::open(&master, session.id()).await?;
        let inner = Arc::new(Inner {
            master: master.patient(),
            session,
            cache: MetaCache::new(cache_bytes),
            changes: broadcast::Sender::new(BACKLOG),
            lookups: Flights::new(),
            attrs: Flights::new(),
            listings: Flights::new(),
            prefetches: Flights::new(),
            files: Flights::new(),
        });
        inner.cache.watched();
        let watched = inner.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => watched.cache.unwatched(),
                () = watch::run(watched.clone(), stream) => {}
            }
        });
        Ok(Namespace { inner })
    }

    /// From now on the metadata cache has at most so many bytes.
    pub fn limit_cache(&self, bytes: u64) {
        self.inner.cache.limit(bytes);
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> &str {
        self.inner.session.cluster()
    }

    /// The masters' addresses.
    pub fn masters(&self) -> &Addresses {
        self.inner.master.addresses()
    }

    /// A name in a directory; `None` (also leased) if there is no such name. Ready at the first poll
    /// when cached.
    pub async fn lookup(&self, parent: Ino, name: &Name) -> Result<Leased<Option<Attr>>> {
        let inner = &self.inner;
        let now = Instant::now();
        if let Some(hit) = inner.cache.lookup(parent, name, now) {
            return Ok(hit);
        }
        let mark = inner.cache.mark();
        if inner.cache.missed(parent, now) {
            let ask = || inner.clone().fetch_small(parent, mark);
            // A failure here is no answer to the question; the lookup below gives the right one.
            if let Ok(Some(listing)) = inner.prefetches.join(parent, mark, ask).await {
                return Ok(Leased {
                    value: listing.value.find(name),
                    valid: listing.valid,
                });
            }
        }
        let ask = || inner.clone().fetch_lookup(parent, name.clone(), mark);
        inner.lookups.join((parent, name.clone()), mark, ask).await
    }

    /// Attributes. Ready at the first poll when cached.
    pub async fn attr(&self, ino: Ino) -> Result<Leased<Attr>> {
        let inner = &self.inner;
        if let Some(hit) = inner.cache.attr(ino, Instant::now()) {
            return Ok(hit);
        }
        let mark = inner.cache.mark();
        inner
            .attrs
            .join(ino, mark, || inner.clone().fetch_attr(ino, mark))
            .await
    }

    /// A directory, whole. Ready at the first poll when cached.
    pub async fn read_dir(&self, dir: Ino) -> Result<Leased<Arc<Listing>>> {
        let inner = &self.inner;
        if let Some(hit) = inner.cache.listing(dir, Instant::now()) {
            return Ok(hit);
        }
        let mark = inner.cache.mark();
        inner
            .listings
            .join(dir, mark, || inner.clone().fetch_listing(dir, mark))
            .await
    }

    /// How long a listing that was handed out may still be kept; zero once anything in it changed.
    pub fn lease_of(&self, listing: &Arc<Listing>) -> Duration {
        self.inner.cache.lease_of(listing, Instant::now())
    }

    /// What a worker needs to fetch the file. Ready at the first poll when cached.
    pub async fn file_ref(&self, ino: Ino) -> Result<FileRef> {
        let inner = &self.inner;
        if let Some(hit) = inner.cache.file(ino) {
            return Ok(hit);
        }
        let mark = inner.cache.mark();
        inner
            .files
            .join(ino, mark, || inner.clone().fetch_file(ino, mark))
            .await
    }

    /// Makes an empty file. This and the other changes are possible in scratch mounts only; each takes
    /// effect once, and what was cached of it is forgotten here before the call returns.
    pub async fn create(&self, parent: Ino, name: &Name, access: Access) -> Result<Attr> {
        let made = self.inner.session.create(parent, name, access).await;
        self.forget_names(&[(parent, name)]);
        made
    }

    /// Makes an empty directory.
    pub async fn mkdir(&self, parent: Ino, name: &Name, access: Access) -> Result<Attr> {
        let made = self.inner.session.mkdir(parent, name, access).await;
        self.forget_names(&[(parent, name)]);
        made
    }

    /// Gives what is at `from` the name `to`, in place of what has that name; with `no_replace` only
    /// if nothing has.
    pub async fn rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        no_replace: bool,
    ) -> Result<()> {
        let renamed = self.inner.session.rename(from, to, no_replace).await;
        self.forget_names(&[from, to]);
        renamed
    }

    /// Takes a file's name away.
    pub async fn remove(&self, parent: Ino, name: &Name) -> Result<()> {
        let removed = self.inner.session.remove(parent, name).await;
        self.forget_names(&[(parent, name)]);
        removed
    }

    /// Takes an empty directory away.
    pub async fn remove_dir(&self, parent: Ino, name: &Name) -> Result<()> {
        let removed = self.inner.session.remove_dir(parent, name).await;
        self.forget_names(&[(parent, name)]);
        removed
    }

    /// Sets attributes.
    pub async fn set_attr(&self, ino: Ino, set: SetAttr) -> Result<Attr> {
        let set = self.inner.session.set_attr(ino, set).await;
        self.inner.cache.invalidate(&[Change::Inode(ino)]);
        set
    }

    /// Also after an error: the change may have taken effect.
    fn forget_names(&self, names: &[(Ino, &Name)]) {
        let entries = names
            .iter()
            .map(|(parent, name)| Change::Entry(*parent, (*name).clone()));
        let parents = names.iter().map(|(parent, _)| Change::Inode(*parent));
        let changes: Vec<_> = entries.chain(parents).collect();
        self.inner.cache.invalidate(&changes);
    }

    /// Tells the master that the under store has another content.
    pub async fn report_stale(&self, file: &FileRef) -> Result<()> {
        let report = || {
            let (mut metadata, file) = (
                self.inner.master.metadata(),
                v1::FileRef::from(file.clone()),
            );
            async move { metadata.report_stale(file).await }
        };
        self.inner
            .master
            .retrying("report of stale content", report)
            .await
            .map(|_| ())
    }

    /// Forgets what is cached about an inode that turned out to be wrong: the next question about it, or
    /// about a name that leads to it, goes to the master.
    pub fn distrust(&self, ino: Ino) {
        self.inner.cache.invalidate(&[Change::Inode(ino)]);
    }

    /// Changes from now on; a receiver that lags must treat it as [`Invalidation::All`].
    pub fn invalidations(&self) -> broadcast::Receiver<Invalidation> {
        self.inner.changes.subscribe()
    }
}

impl Inner {
    /// Applies what the master says: first here, then to those who listen.
    pub(crate) fn apply(&self, message: v1::Invalidation) {
        if message.all {
            self.cache.forget_all();
            self.tell(Invalidation::All);
            return;
        }
        let entries = message.entries.into_iter().filter_map(|entry| {
            Some(Change::Entry(
                Ino(entry.parent),
                Name::new(compact(&entry.name)).ok()?,
            ))
        });
        let inodes = message
            .inodes
            .into_iter()
            .map(|ino| Change::Inode(Ino(ino)));
        let changes: Vec<Change> = entries.chain(inodes).collect();
        if changes.is_empty() {
            return;
        }
        self.cache.invalidate(&changes);
        for change in changes {
            self.tell(match change {
                Change::Entry(parent, name) => Invalidation::Entry(parent, name),
                Change::Inode(ino) => Invalidation::Inode(ino),
            });
        }
    }

    /// The stream broke: leases are void.
    pub(crate) fn lost(&self) {
        self.cache.unwatched();
        self.tell(Invalidation::All);
    }

    fn tell(&self, invalidation: Invalidation) {
        // Nobody listening is fine.
        let _ = self.changes.send(invalidation);
    }

    async fn fetch_lookup(
        self: Arc<Self>,
        parent: Ino,
        name: Name,
        mark: u64,
    ) -> Result<Leased<Option<Attr>>> {
        let ask = |master: Voter| {
            let request = v1::LookupRequest {
                parent: parent.0,
                name: name.clone().into_bytes(),
            };
            async move { master.calls().lookup(request).await }
        };
        let now = Instant::now();
        let answer = self.master.ask("lookup", ask).await?;
        let attr = answer.attr.map(Attr::from);
        let lease = Duration::from_millis(answer.lease_ms);
        let valid = self
            .cache
            .put_lookup(mark, (parent, &name), attr, lease, now);
        Ok(Leased { value: attr, valid })
    }

    async fn fetch_attr(self: Arc<Self>, ino: Ino, mark: u64) -> Result<Leased<Attr>> {
        let ask = |master: Voter| async move {
            let request = v1::GetAttrRequest { ino: ino.0 };
            master.calls().get_attr(request).await
        };
        let now = Instant::now();
        let answer = self.master.ask("getattr", ask).await?;
        let attr = Attr::from(answer.attr.ok_or_else(|| self.garbled("getattr"))?);
        let lease = Duration::from_millis(answer.lease_ms);
        Ok(Leased {
            value: attr,
            valid: self.cache.put_attr(mark, attr, lease, now),
        })
    }

    async fn fetch_file(self: Arc<Self>, ino: Ino, mark: u64) -> Result<FileRef> {
        let ask = |master: Voter| async move {
            let request = v1::OpenFileRequest { ino: ino.0 };
            master.calls().open_file(request).await
        };
        let answer = self.master.ask("open", ask).await?;
        let mut file = FileRef::try_from(answer).map_err(|_| self.garbled("open"))?;
        file.key = compact(&file.key);
        self.cache.put_file(mark, &file);
        Ok(file)
    }

    async fn fetch_listing(self: Arc<Self>, dir: Ino, mark: u64) -> Result<Leased<Arc<Listing>>> {
        self.list(dir, 0, mark).await
    }

    /// The listing of a directory that is not too large; `None` if it is.
    async fn fetch_small(
        self: Arc<Self>,
        dir: Ino,
        mark: u64,
    ) -> Result<Option<Leased<Arc<Listing>>>> {
        // A listing cut at the limit must not be taken for a whole one.
        let listing = self.collect(dir, PREFETCH_ENTRIES as u64 + 1).await?;
        if listing.0.entries.len() > PREFETCH_ENTRIES {
            return Ok(None);
        }
        Ok(Some(self.keep(listing, mark)))
    }

    async fn list(&self, dir: Ino, limit: u64, mark: u64) -> Result<Leased<Arc<Listing>>> {
        let listing = self.collect(dir, limit).await?;
        Ok(self.keep(listing, mark))
    }

    fn keep(
        &self,
        (listing, lease, asked): (Listing, Duration, Instant),
        mark: u64,
    ) -> Leased<Arc<Listing>> {
        self.cache.put_listing(mark, listing, lease, asked)
    }

    async fn collect(&self, dir: Ino, limit: u64) -> Result<(Listing, Duration, Instant)> {
        let now = Instant::now();
        let ask = |master: Voter| {
            let request = v1::ReadDirRequest {
                ino: dir.0,
                after: Bytes::new(),
                limit,
            };
            async move {
                let mut stream = master.read_dir(request).await?;
                let mut parts = Parts::default();
                while let Some(message) = stream.message().await? {
                    parts.add(message);
                }
                Ok(parts)
            }
        };
        let parts = self.master.ask("readdir", ask).await?;
        let directory = Attr::from(parts.directory.ok_or_else(|| self.garbled("readdir"))?);
        let mut entries = parts.entries;
        entries.shrink_to_fit();
        let listing = Listing {
            directory,
            parent: Ino(parts.parent),
            entries,
        };
        Ok((listing, parts.lease.unwrap_or_default(), now))
    }

    fn garbled(&self, what: &str) -> Error {
        let master = self.master.address();
        Error::new(
            Code::Internal,
            format!("{what} at {master}: the answer is incomplete"),
        )
    }
}

/// A listing that is being received.
#[derive(Default)]
struct Parts {
    directory: Option<v1::Attr>,
    parent: u64,
    lease: Option<Duration>,
    entries: Vec<(Name, Attr)>,
}

impl Parts {
    fn add(&mut self, message: v1::ReadDirResponse) {
        if let Some(directory) = message.directory {
            self.directory = Some(directory);
            self.parent = message.parent;
        }
        let lease = Duration::from_millis(message.lease_ms);
        self.lease = Some(self.lease.map_or(lease, |known| known.min(lease)));
        // One allocation for the names of a batch; a slice of the message would keep all of it.
        let bytes = message.entries.iter().map(|e| e.name.len()).sum();
        let mut names = BytesMut::with_capacity(bytes);
        for entry in message.entries {
            let Some(attr) = entry.attr else { continue };
            names.extend_from_slice(&entry.name);
            // A name that Linux cannot show never gets this far; the master keeps it out.
            if let Ok(name) = Name::new(names.split().freeze()) {
                self.entries.push((name, attr.into()));
            }
        }
    }
}

/// A copy that does not keep the message alive which `bytes` is a slice of.
fn compact(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
