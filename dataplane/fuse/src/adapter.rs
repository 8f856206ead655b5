//! From fuser to [`Fs`] and back: the only file that knows fuser's requests and replies.
//!
//! A request's future is polled once on the thread that read the request. What is cached is answered
//! there and then, without a hand-over; what has to wait goes to the runtime and is answered later.

use crate::{
    backing::{Backing, Device},
    directory::rows,
    failure::Failure,
    fs::Fs,
    inode::Mode,
    metrics::Op,
    wake::Wake,
};
use forebay_client::Leased;
use forebay_types::{Attr, FileKind, Ino};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::{
    ffi::OsStr,
    future::Future,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Largest read or write request, in bytes.
const MAX_REQUEST: u32 = 1 << 20;
/// Requests of the kernel that nobody waits for (read-ahead) under way at once.
const MAX_BACKGROUND: u16 = 64;
/// Inode numbers are never used again, so a generation tells nothing.
const GENERATION: Generation = Generation(0);
/// Block size of `statfs`.
const BLOCK: u32 = 4096;
/// What `statfs` shows as the size of an under store: nobody knows it.
const TOTAL: u64 = 1 << 50;

/// The file system as fuser wants it.
pub(crate) struct Adapter {
    pub(crate) fs: Arc<Fs<Backing>>,
    pub(crate) device: Device,
    /// What the kernel can do, by its first message.
    pub(crate) capabilities: Arc<AtomicU64>,
    pub(crate) runtime: Handle,
    /// Requests that wait for something.
    pub(crate) waiting: TaskTracker,
    /// Whom `stat` shows as the owner of everything.
    pub(crate) owner: (u32, u32),
    /// Told of every request that somebody waits for.
    pub(crate) wake: Arc<Wake>,
}

impl Adapter {
    /// Polls `work`, which ends with a reply, once; hands it to the runtime if that is not enough.
    fn serve(&self, op: Op, work: impl Future<Output = ()> + Send + 'static) {
        let started = Instant::now();
        self.wake.request();
        let mut work = Box::pin(work);
        let _runtime = self.runtime.enter();
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => self.fs.metrics.answered(op, started.elapsed()),
            Poll::Pending => {
                let fs = self.fs.clone();
                fs.metrics.deferred.inc();
                self.waiting.spawn_on(
                    async move {
                        work.await;
                        fs.metrics.answered(op, started.elapsed());
                    },
                    &self.runtime,
                );
            }
        }
    }
}

/// What `stat` shows of an inode that belongs to `owner`.
fn stat(attr: &Attr, owner: (u32, u32)) -> FileAttr {
    let nanos = Duration::from_nanos(attr.mtime_ns.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let changed = if attr.mtime_ns < 0 {
        epoch.checked_sub(nanos)
    } else {
        epoch.checked_add(nanos)
    };
    let changed = changed.unwrap_or(epoch);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: if attr.kind == FileKind::Directory {
            2
        } else {
            1
        },
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
    }
}

/// Counts a failure and gives its errno.
fn errno(fs: &Fs<Backing>, op: Op, failure: &Failure) -> Errno {
    fs.metrics.failed(failure.errno);
    let errno = Errno::from_i32(failure.errno);
    if errno == Errno::EIO {
        tracing::warn!(?op, %failure, "request failed");
    } else {
        tracing::debug!(?op, %failure, errno = failure.errno, "request failed");
    }
    errno
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let capabilities = config.capabilities().bits();
        self.capabilities.store(capabilities, Ordering::Relaxed);
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "the kernel lacks a capability");
            }
        }
        // The values are within the limits, and larger ones than the kernel likes are cut by it.
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        // Two levels: tiers may be on a stacked file system, our mount is not to be stacked on.
        let passthrough = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(2).is_ok();
        if !passthrough && self.fs.without_passthrough() {
            tracing::info!(
                "this kernel has no FUSE passthrough (Linux 6.9 has it); reads go through this process"
            );
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, owner) = (self.fs.clone(), self.owner);
        let name = name.as_bytes().to_vec();
        self.serve(Op::Lookup, async move {
            match fs.lookup(Ino(parent.0), &name).await {
                Ok(Leased {
                    value: Some(attr),
                    valid,
                }) => {
                    reply.entry(&valid, &stat(&attr, owner), GENERATION);
                }
                Ok(Leased { value: None, valid }) if valid.is_zero() => reply.error(Errno::ENOENT),
                // An entry of inode 0 is how the kernel is told to keep a negative answer.
                Ok(Leased { value: None, valid }) => reply.entry(&valid, &nothing(), GENERATION),
                Err(failure) => reply.error(errno(&fs, Op::Lookup, &failure)),
            }
        });
    }

    fn forget(&self, _req: &Request, _ino: INodeNo, _nlookup: u64) {
        // Inode numbers are the cluster's: there is no table to take anything out of.
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, owner) = (self.fs.clone(), self.owner);
        self.serve(Op::GetAttr, async move {
            match fs.getattr(Ino(ino.0)).await {
                Ok(attr) => reply.attr(&attr.valid, &stat(&attr.value, owner)),
                Err(failure) => reply.error(errno(&fs, Op::GetAttr, &failure)),
            }
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let (fs, device) = (self.fs.clone(), self.device.clone());
        self.serve(Op::Open, async move {
            let opened = fs
                .open(Ino(ino.0), |file| Backing::open(&device, file))
                .await;
            match opened {
                Ok(inode) => match &inode.mode {
                    Mode::Passthrough { backing, .. } => {
                        backing.answer(reply, FopenFlags::FOPEN_NOFLUSH);
                    }
                    // The content of an inode never changes: what the page cache has stays right.
                    Mode::Cached { .. } | Mode::Streamed => reply.opened(
                        FileHandle(0),
                        FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE,
                    ),
                },
                Err(failure) => reply.error(errno(&fs, Op::Open, &failure)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        self.serve(Op::Read, async move {
            let range = offset..offset.saturating_add(u64::from(size));
            match fs.read(Ino(ino.0), range).await {
                Ok(data) => reply.data(&data),
                Err(failure) => reply.error(errno(&fs, Op::Read, &failure)),
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.serve(Op::Release, async move {
            fs.release(Ino(ino.0));
            reply.ok();
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        self.serve(Op::OpenDir, async move {
            match fs.opendir(Ino(ino.0)).await {
                Ok(dir) => {
                    let mut flags = FopenFlags::FOPEN_CACHE_DIR;
                    flags.set(FopenFlags::FOPEN_KEEP_CACHE, dir.keep_cache);
                    reply.opened(FileHandle(dir.handle), flags);
                }
                Err(failure) => reply.error(errno(&fs, Op::OpenDir, &failure)),
            }
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        self.serve(Op::ReadDir, async move {
            match fs.snapshot(Ino(ino.0), fh.0).await {
                Ok((listing, _)) => {
                    for row in rows(&listing, fs.top().end(), offset) {
                        let kind = file_type(row.kind);
                        let name = OsStr::from_bytes(row.name);
                        if reply.add(INodeNo(row.ino.0), row.next, kind, name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(failure) => reply.error(errno(&fs, Op::ReadDir, &failure)),
            }
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, owner) = (self.fs.clone(), self.owner);
        self.serve(Op::ReadDir, async move {
            match fs.snapshot(Ino(ino.0), fh.0).await {
                Ok((listing, valid)) => {
                    for row in rows(&listing, fs.top().end(), offset) {
                        // The kernel takes only the number and the kind of `.` and `..`.
                        let attr = stat(row.attr.unwrap_or(&listing.directory), owner);
                        let name = OsStr::from_bytes(row.name);
                        let ino = INodeNo(row.ino.0);
                        if reply.add(ino, row.next, name, &valid, &attr, GENERATION) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(failure) => reply.error(errno(&fs, Op::ReadDir, &failure)),
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.serve(Op::ReleaseDir, async move {
            fs.releasedir(fh.0);
            reply.ok();
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let blocks = TOTAL / u64::from(BLOCK);
        reply.statfs(
            blocks,
            0,
            0,
            0,
            0,
            BLOCK,
            forebay_types::Name::MAX as u32,
            BLOCK,
        );
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let started = Instant::now();
        match self.fs.getxattr(name.as_bytes()) {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(value.as_bytes()),
            Err(failure) => reply.error(Errno::from_i32(failure.errno)),
        }
        self.fs.metrics.answered(Op::GetXattr, started.elapsed());
    }

    // The kernel does not ask again after ENOSYS: no flush, no fsync, no list of attributes.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    // Everything that writes. The mount is read-only, so the kernel itself refuses before it asks.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

/// The entry that means "no such name".
fn nothing() -> FileAttr {
    let attr = Attr {
        ino: Ino(0),
        kind: FileKind::File,
        size: 0,
        mtime_ns: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        version: forebay_types::ContentVersion(0),
    };
    stat(&attr, (0, 0))
}
