//! The file system: what every request means. Async, and free of fuser's types, so that it is tested
//! without a kernel. Futures are ready at the first poll whenever nothing has to be waited for.

use crate::{
    buffer::{Buffer, Data},
    directory::Directories,
    failure::{Failure, Result},
    inode::{Backed, Inherited, Inode, Inodes, Mode},
    metrics::Metrics,
    top::Top,
};
use forebay_client::{Ensured, Leased, Listing, LocalFile, LocalWorker, Namespace, RemoteReader};
use forebay_types::{Attr, Code, FileRef, Ino, Name, NameError};
use std::{
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Idle inodes that keep their backing: each pins an open file of the worker's tiers.
const IDLE_BACKINGS: usize = 16_384;

/// The extended attribute of every inode that names the master, so that a program finds the cluster
/// through a mount.
pub const MASTER_XATTR: &str = "user.forebay.master";

/// Where the file system gets everything from.
pub struct Sources {
    /// Metadata.
    pub namespace: Namespace,
    /// The worker of this node, if there is one.
    pub local: Option<Arc<dyn LocalWorker>>,
    /// Workers of other nodes; used if there is no local one.
    pub remote: Arc<RemoteReader>,
}

/// The file system. `B` is what keeps a backing file registered with the kernel.
pub struct Fs<B> {
    sources: Arc<Sources>,
    top: Top,
    inodes: Inodes<B>,
    directories: Directories,
    passthrough: AtomicBool,
    /// Counters.
    pub metrics: Metrics,
}

/// An open directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDir {
    /// Names it in further requests.
    pub handle: u64,
    /// What the kernel may have cached of the directory is still right.
    pub keep_cache: bool,
}

impl<B: Backed> Fs<B> {
    /// The file system over `sources`, as much of it as `top` says; `passthrough` as far as the kernel has it.
    pub fn new(sources: Sources, top: Top, passthrough: bool, metrics: Metrics) -> Fs<B> {
        let sources = Arc::new(sources);
        let worker = sources.clone();
        let let_go = Box::new(move |inode: Arc<Inode<B>>| worker.let_go(inode));
        Fs {
            inodes: Inodes::new(IDLE_BACKINGS, metrics.idle.clone(), let_go),
            sources,
            top,
            directories: Directories::default(),
            passthrough: AtomicBool::new(passthrough),
            metrics,
        }
    }

    /// No passthrough from now on: the kernel has none.
    pub fn without_passthrough(&self) -> bool {
        self.passthrough.swap(false, Ordering::Relaxed)
    }

    /// The namespace below.
    pub fn namespace(&self) -> &Namespace {
        &self.sources.namespace
    }

    /// The node's worker below.
    pub fn local(&self) -> Option<&Arc<dyn LocalWorker>> {
        self.sources.local.as_ref()
    }

    /// What of the tree it shows.
    pub fn top(&self) -> &Top {
        &self.top
    }

    /// Open inodes.
    pub fn inodes(&self) -> &Inodes<B> {
        &self.inodes
    }

    /// A name in a directory.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Leased<Option<Attr>>> {
        match Name::new(name.to_vec()) {
            Ok(name) => {
                let namespace = &self.sources.namespace;
                let parent = self.top.inner(namespace, parent).await?;
                let found = namespace.lookup(parent.value, &name).await?;
                Ok(Leased {
                    valid: found.valid.min(parent.valid),
                    ..found
                })
            }
            Err(NameError::TooLong) => Err(Failure::new(
                Failure::NAME_TOO_LONG,
                "name is longer than 255 bytes",
            )),
            Err(error) => Err(Failure::of(Code::NotFound, error.to_string())),
        }
    }

    /// Attributes.
    pub async fn getattr(&self, ino: Ino) -> Result<Leased<Attr>> {
        let namespace = &self.sources.namespace;
        let inner = self.top.inner(namespace, ino).await?;
        let attr = namespace.attr(inner.value).await;
        let attr = attr.map_err(|error| self.vanished(inner.value, error))?;
        Ok(Leased {
            value: Attr { ino, ..attr.value },
            valid: attr.valid.min(inner.valid),
        })
    }

    /// Opens a file for reading. `register` makes a descriptor known to the kernel as a backing file;
    /// it is called at most once, when this is the first open and the file is whole on the node.
    pub async fn open(
        &self,
        ino: Ino,
        register: impl FnOnce(&File) -> io::Result<B>,
    ) -> Result<Arc<Inode<B>>> {
        let decide = |inherited| self.decide(ino, register, inherited);
        let inode = self.inodes.open(ino, decide).await?;
        if inode.stale.load(Ordering::Relaxed) {
            // Somebody still has it open. The kernel looks the path up again.
            self.inodes.release(ino);
            return Err(self.stale(&inode.file));
        }
        match inode.mode {
            Mode::Passthrough { .. } => self.metrics.opens_passthrough.inc(),
            Mode::Cached { .. } => self.metrics.opens_cached.inc(),
            Mode::Streamed => self.metrics.opens_streamed.inc(),
        };
        Ok(inode)
    }

    async fn decide(
        &self,
        ino: Ino,
        register: impl FnOnce(&File) -> io::Result<B>,
        inherited: Option<Inherited<B>>,
    ) -> Result<Inode<B>> {
        let file = self.sources.namespace.file_ref(ino).await;
        let file = file.map_err(|error| self.vanished(ino, error))?;
        if let Some(Inherited::Passthrough(backing)) = inherited {
            let lease = None;
            return Ok(Inode::new(file, Mode::Passthrough { backing, lease }));
        }
        let streamed = |file| Ok(Inode::new(file, Mode::Streamed));
        let Some(local) = &self.sources.local else {
            return streamed(file);
        };
        if file.size() == 0 {
            return streamed(file);
        }
        let LocalFile {
            lease,
            file: descriptor,
            whole,
        } = match local.open(&file).await {
            Ok(opened) => opened,
            Err(error) if error.code == Code::Stale => return Err(self.stale(&file)),
            Err(error) => {
                // The cache may cost time, never an error.
                tracing::debug!(%error, file = %file.id, "the node's worker cannot open; streaming");
                return streamed(file);
            }
        };
        if whole && inherited.is_none() && self.passthrough.load(Ordering::Relaxed) {
            match register(&descriptor) {
                Ok(backing) => {
                    let lease = Some(lease);
                    return Ok(Inode::new(file, Mode::Passthrough { backing, lease }));
                }
                Err(error) => self.refused(&error),
            }
        }
        Ok(Inode::new(
            file,
            Mode::Cached {
                file: descriptor,
                lease,
            },
        ))
    }

    /// The kernel refused a backing file: said once, and not tried again.
    fn refused(&self, error: &io::Error) {
        if self.without_passthrough() {
            tracing::warn!(%error, "the kernel refuses FUSE passthrough (it needs CAP_SYS_ADMIN, and tiers that are not on overlayfs); reads go through this process");
        }
    }

    /// Reads from an open file; cut at the end of the file.
    pub async fn read(&self, ino: Ino, range: Range<u64>) -> Result<Data> {
        let inode = match self.inodes.get(ino) {
            Some(inode) => inode,
            None => self.resume(ino).await?,
        };
        let range = range.start..range.end.min(inode.file.size());
        if range.is_empty() {
            return Ok(Data::Shared(bytes::Bytes::new()));
        }
        let data = self.read_from(&inode, range).await?;
        self.metrics.bytes_read.inc_by(data.len() as u64);
        Ok(data)
    }

    /// An inode that a predecessor of this process opened.
    async fn resume(&self, ino: Ino) -> Result<Arc<Inode<B>>> {
        let never = |_: &File| Err(io::ErrorKind::Unsupported.into());
        let decide = |inherited| self.decide(ino, never, inherited);
        self.inodes.resume(ino, decide).await?.ok_or_else(|| {
            Failure::of(
                Code::InvalidArgument,
                format!("read of inode {ino}, which is not open"),
            )
        })
    }

    async fn read_from(&self, inode: &Inode<B>, range: Range<u64>) -> Result<Data> {
        let Some(local) = &self.sources.local else {
            return self.finish(inode, self.sources.remote.read(&inode.file, range).await);
        };
        if let Mode::Cached { file, lease } = &inode.mode {
            match local.ensure(*lease, range.clone()).await {
                Ok(Ensured::Present) => {
                    let len = (range.end - range.start) as usize;
                    match Buffer::read(file, range.start, len) {
                        Ok(buffer) => return Ok(Data::Pooled(buffer)),
                        Err(error) => {
                            tracing::warn!(%error, file = %inode.file.id, "cached file cannot be read; reading past the cache");
                        }
                    }
                }
                Ok(Ensured::NotCached) => {}
                Err(error) if error.code == Code::Stale => return Err(self.stale_open(inode)),
                Err(error) => {
                    tracing::debug!(%error, file = %inode.file.id, "fill failed; reading past the cache");
                }
            }
        }
        self.finish(inode, local.read(&inode.file, range).await)
    }

    fn finish(&self, inode: &Inode<B>, read: forebay_client::Result<bytes::Bytes>) -> Result<Data> {
        match read {
            Ok(bytes) => Ok(Data::Shared(bytes)),
            Err(error) if error.code == Code::Stale => Err(self.stale_open(inode)),
            Err(error) => Err(error.into()),
        }
    }

    /// The under store has another content, and the master knows (workers tell it first): nothing that
    /// is cached about the inode counts any more, so that who looks again sees the new one.
    fn stale(&self, file: &FileRef) -> Failure {
        self.sources.namespace.distrust(file.id.ino);
        Failure::of(
            Code::Stale,
            format!("content of inode {} was replaced", file.id.ino),
        )
    }

    /// The same of an inode that is open: nobody opens it again.
    fn stale_open(&self, inode: &Inode<B>) -> Failure {
        inode.stale.store(true, Ordering::Relaxed);
        self.stale(&inode.file)
    }

    /// An inode that the kernel still knows and the master does not: ESTALE makes the kernel look the
    /// path up again, where ENOENT would reach the caller although the path exists.
    fn vanished(&self, ino: Ino, error: forebay_client::Error) -> Failure {
        match error.code {
            Code::NotFound | Code::Stale => {
                self.sources.namespace.distrust(ino);
                Failure::of(Code::Stale, error.message)
            }
            _ => error.into(),
        }
    }

    /// An open file is closed.
    pub fn release(&self, ino: Ino) {
        self.inodes.release(ino);
    }

    /// Opens a directory: a snapshot.
    pub async fn opendir(&self, ino: Ino) -> Result<OpenDir> {
        let listing = self.listing(ino).await?;
        let (handle, keep_cache) = self.directories.open(listing);
        Ok(OpenDir { handle, keep_cache })
    }

    /// The snapshot of an open directory, and how long the kernel may keep what is in it: no longer
    /// than nothing of it has changed. Ready at the first poll, but if a predecessor of this process opened it.
    pub async fn snapshot(&self, ino: Ino, handle: u64) -> Result<(Arc<Listing>, Duration)> {
        let listing = if let Some(listing) = self.directories.get(handle) {
            listing
        } else {
            let listing = self.listing(ino).await?;
            self.directories.resume(handle, listing.clone());
            listing
        };
        let valid = self.sources.namespace.lease_of(&listing);
        Ok((listing, valid))
    }

    async fn listing(&self, ino: Ino) -> Result<Arc<Listing>> {
        let namespace = &self.sources.namespace;
        let ino = self.top.inner(namespace, ino).await?.value;
        let listing = namespace.read_dir(ino).await;
        Ok(listing.map_err(|error| self.vanished(ino, error))?.value)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.directories.close(handle);
    }

    /// An extended attribute.
    pub fn getxattr(&self, name: &[u8]) -> Result<String> {
        if name == MASTER_XATTR.as_bytes() {
            return Ok(self.sources.namespace.masters().to_string());
        }
        Err(Failure::new(Failure::NO_DATA, "no such attribute"))
    }
}

impl Sources {
    /// Gives the lease of an inode back once nothing refers to its backing.
    fn let_go<B>(&self, inode: Arc<Inode<B>>) {
        self.remote.forget(&inode.file);
        let lease = inode.lease();
        // The backing goes first, with the last reference: a read under way may still hold one, and
        // it reads from a descriptor of its own.
        drop(inode);
        if let (Some(local), Some(lease)) = (&self.local, lease) {
            local.release(lease);
        }
    }
}
