//! Calls that a FUSE file system must answer: on threads of their own, for a bounded time.
//!
//! A thread in such a call cannot be stopped, so a file system that is silent has at most one,
//! and all together have a limit. None of these calls changes anything: one that comes back late does
//! no harm.

use crate::{error::Error, plan::Health, volume::SubPath};
use parking_lot::Mutex;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, StatVfs, openat, openat2, statvfs},
    io::Errno,
};
use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};

/// A live FUSE host answers in far less, unless it waits for masters.
const PATIENCE: Duration = Duration::from_secs(5);
const THREADS: usize = 64;

/// The threads.
#[derive(Clone, Debug)]
pub struct FuseCalls {
    threads: Arc<Semaphore>,
    waits: Arc<Waits>,
}

/// The mounts that a thread waits for.
#[derive(Debug, Default)]
struct Waits {
    mounts: Mutex<HashSet<PathBuf>>,
    ended: Notify,
}

/// One thread that waits.
struct Wait {
    waits: Arc<Waits>,
    mount: PathBuf,
}

impl Waits {
    /// Waits for one's turn.
    async fn begin(self: &Arc<Waits>, mount: &Path) -> Wait {
        loop {
            let ended = self.ended.notified();
            if self.mounts.lock().insert(mount.to_owned()) {
                return Wait {
                    waits: Arc::clone(self),
                    mount: mount.to_owned(),
                };
            }
            ended.await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.mounts.lock().remove(&self.mount);
        self.waits.ended.notify_waiters();
    }
}

impl Default for FuseCalls {
    fn default() -> FuseCalls {
        FuseCalls {
            threads: Arc::new(Semaphore::new(THREADS)),
            waits: Arc::default(),
        }
    }
}

impl FuseCalls {
    /// How the mount at `path` answers.
    pub async fn health(&self, path: &Path) -> Health {
        match self.stats(path).await {
            Ok(_) => Health::Live,
            Err(Error::System { source, .. }) => match Errno::from_io_error(&source) {
                Some(Errno::NOTCONN | Errno::CONNABORTED) => Health::Dead,
                // Somebody has answered.
                _ => Health::Live,
            },
            Err(_) => Health::Silent,
        }
    }

    /// What the file system at `path` holds.
    pub async fn stats(&self, path: &Path) -> Result<StatVfs, Error> {
        self.call(path, "ask", |path| statvfs(path)).await
    }

    /// Opens the root of a mount, or a directory below it: never one that a symbolic link leads to.
    pub async fn open(&self, mount: &Path, sub_path: Option<&SubPath>) -> Result<OwnedFd, Error> {
        let what = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let sub_path = sub_path.cloned();
        let opened = self.call(mount, "open", move |mount| {
            let root = openat(CWD, mount, what | OFlags::NOFOLLOW, Mode::empty())?;
            let Some(sub_path) = sub_path else {
                return Ok(Ok(root));
            };
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let sub_path = sub_path.as_path();
            match openat2(root, sub_path, what, Mode::empty(), within) {
                Ok(found) => Ok(Ok(found)),
                Err(Errno::NOENT) => Ok(Err("does not exist")),
                Err(Errno::NOTDIR) => Ok(Err("is not a directory")),
                Err(Errno::LOOP | Errno::XDEV) => Ok(Err("leads through a symbolic link")),
                Err(other) => Err(other),
            }
        });
        opened
            .await?
            .map_err(|why| Error::NotFound(format!("the volume's subPath {why}")))
    }

    async fn call<T: Send + 'static>(
        &self,
        path: &Path,
        what: &'static str,
        call: impl FnOnce(&Path) -> rustix::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let silent = || Error::Silent(path.to_owned());
        let deadline = Instant::now() + PATIENCE;
        let wait = timeout_at(deadline, self.waits.begin(path));
        let wait = wait.await.map_err(|_| silent())?;
        let thread = timeout_at(deadline, self.threads.clone().acquire_owned()).await;
        let thread = thread.map_err(|_| silent())?.map_err(|_| Error::Stopping)?;
        let done = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            call(&wait.mount)
        });
        match timeout_at(deadline, done).await {
            Ok(Ok(answer)) => answer.map_err(Error::system(what, path)),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(silent()),
        }
    }
}
