//! The disk that everything is measured on.

use crate::interrupt::Entered;
use anyhow::{Context, bail};
use rustix::fs::{statfs, statvfs};
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// File systems on which figures mean nothing, and on which FUSE passthrough does not work.
const UNSUITABLE: [(u64, &str); 3] = [
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0x8584_58f6, "ramfs"),
];

/// A directory on the disk, removed with everything in it.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    _entered: Entered,
}

impl Scratch {
    /// A fresh directory below `$FOREBAY_BENCH_DIR`, or below the target directory that this
    /// executable lies in.
    pub fn new(purpose: &str) -> anyhow::Result<Scratch> {
        let parent = match env::var_os("FOREBAY_BENCH_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => target_directory()?,
        };
        fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let kind = statfs(&parent)?.f_type as u64;
        if let Some((_, name)) = UNSUITABLE.iter().find(|(magic, _)| *magic == kind) {
            bail!(
                "{} is on {name}: set FOREBAY_BENCH_DIR to a directory on a local disk",
                parent.display()
            );
        }
        let directory = tempfile::Builder::new()
            .prefix(&format!("forebay-{purpose}-"))
            .tempdir_in(&parent)?;
        Ok(Scratch {
            _entered: Entered::directory(directory.path()),
            directory,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves it where it is, for a look at it.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    /// A new directory in it.
    pub fn make(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Bytes free on its disk.
    pub fn free(&self) -> anyhow::Result<u64> {
        let disk = statvfs(self.path())?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    /// An error that names the remedy unless so many bytes are free.
    pub fn need(&self, bytes: u64) -> anyhow::Result<()> {
        let free = self.free()?;
        if free < bytes {
            bail!(
                "{} GiB are free at {}, {} GiB are needed: set FOREBAY_BENCH_DIR to a larger disk",
                free >> 30,
                self.path().display(),
                bytes.div_ceil(1 << 30)
            );
        }
        Ok(())
    }
}

/// The target directory: the one above the profile that this executable was built with.
pub fn target_directory() -> anyhow::Result<PathBuf> {
    let executable = env::current_exe().context("cannot find this executable")?;
    let profile = executable
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"));
    let target = profile.and_then(Path::parent);
    Ok(target
        .context("this executable lies in no target directory")?
        .to_owned())
}

/// Whether this process may drop the kernel's caches.
pub fn can_drop_caches() -> bool {
    fs::OpenOptions::new()
        .write(true)
        .open("/proc/sys/vm/drop_caches")
        .is_ok()
}

/// Writes everything dirty back, then drops page cache, dentries and inodes.
pub fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop caches")
}

/// Processes that wanted a processor in the last minute, on average.
pub fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}
