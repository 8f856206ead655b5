//! Mounting: what must hold before, the options, and what is set afterwards.

use fuser::{Config, MountOption, SessionACL};
use rustix::{io::Errno, mount::UnmountFlags};
use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Threads that read requests. They share one descriptor: requests read through a cloned one would
/// be lost with the process.
const THREADS: usize = 2;
/// Read-ahead of the mount; INIT can only lower the kernel's 128 KiB.
const READ_AHEAD_KIB: u32 = 4096;
/// Dead mounts that may lie on top of each other.
const STALE: usize = 16;

/// A mount point that cannot be used; the text names it and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MountError(pub String);

/// Checks a mount point; what a dead predecessor left there is detached first. Returns its real path.
pub fn check(mount_point: &Path) -> Result<PathBuf, MountError> {
    let shown = mount_point.display();
    let fail = |text: String| Err(MountError(text));
    let mut detached = 0;
    let metadata = loop {
        // The kernel may still know the attributes of a dead mount; statfs always asks.
        let alive = rustix::fs::statfs(mount_point).map_err(io::Error::from);
        match alive.and_then(|_| fs::metadata(mount_point)) {
            Ok(metadata) => break metadata,
            Err(error) if is(&error, Errno::NOTCONN) && detached < STALE => {
                tracing::info!(mount_point = %shown, "detaching the mount of a process that is gone");
                detach(mount_point).map_err(|error| {
                    MountError(format!("mount point {shown}: a dead mount is in the way and cannot be detached: {error}; run: umount -l {shown}"))
                })?;
                detached += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return fail(format!(
                    "mount point {shown} does not exist; run: mkdir -p {shown}"
                ));
            }
            Err(error) => return fail(format!("mount point {shown}: {error}")),
        }
    };
    if !metadata.is_dir() {
        return fail(format!(
            "mount point {shown} is not a directory; name an empty directory"
        ));
    }
    let real = fs::canonicalize(mount_point)
        .map_err(|error| MountError(format!("mount point {shown}: {error}")))?;
    if device(&mounts()?, &real).is_some() {
        return fail(format!(
            "mount point {shown} is busy: something is mounted there; run: umount {shown}"
        ));
    }
    let mut entries =
        fs::read_dir(&real).map_err(|error| MountError(format!("mount point {shown}: {error}")))?;
    if entries.next().is_some() {
        return fail(format!(
            "mount point {shown} is not empty; name an empty directory"
        ));
    }
    check_device()?;
    Ok(real)
}

fn check_device() -> Result<(), MountError> {
    let open = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let Err(error) = open else { return Ok(()) };
    let remedy = if error.kind() == io::ErrorKind::PermissionDenied {
        "run as root, or add yourself to the group that owns it"
    } else {
        "load the module with 'modprobe fuse', or give the container the device"
    };
    Err(MountError(format!(
        "/dev/fuse cannot be opened: {error}; {remedy}"
    )))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The options of the mount.
pub fn options(allow_other: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("forebay".to_owned()),
        MountOption::Subtype("forebay".to_owned()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(THREADS);
    config.clone_fd = false;
    config
}

/// Unmounts, lazily if files are open. Returns whether they are. A mount that is gone already is fine.
pub fn unmount(mount_point: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(mount_point, UnmountFlags::empty()) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(Errno::BUSY) => detach(mount_point).map(|()| true),
        Err(Errno::PERM) => helper(mount_point),
        Err(error) => Err(error.into()),
    }
}

/// Without privilege, the setuid helper that mounted also unmounts.
fn helper(mount_point: &Path) -> io::Result<bool> {
    let status = std::process::Command::new("fusermount3")
        .arg("-u")
        .arg("-z")
        .arg(mount_point)
        .status()?;
    if status.success() {
        return Ok(false);
    }
    Err(io::Error::other(format!("fusermount3 -u failed: {status}")))
}

fn detach(mount_point: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(mount_point, UnmountFlags::DETACH)?)
}

/// Raises the read-ahead of a mount; also sizes the read-around of mmap faults. Without permission the
/// kernel's default stays.
pub fn raise_read_ahead(mount_point: &Path) {
    let raised = mounts().map_err(|error| error.0).and_then(|mounts| {
        let device = device(&mounts, mount_point).ok_or("the mount is gone")?;
        let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
        fs::write(&file, READ_AHEAD_KIB.to_string()).map_err(|error| format!("{file}: {error}"))
    });
    if let Err(error) = raised {
        tracing::debug!(
            error,
            "read-ahead of the mount stays at the kernel's default"
        );
    }
}

fn mounts() -> Result<Vec<u8>, MountError> {
    fs::read("/proc/self/mountinfo")
        .map_err(|error| MountError(format!("/proc/self/mountinfo: {error}; is /proc mounted?")))
}

/// `MAJOR:MINOR` of what is mounted at `path`, topmost, by the text of `mountinfo`.
fn device(mountinfo: &[u8], path: &Path) -> Option<String> {
    let rows = mountinfo.split(|b| *b == b'\n').rev();
    for row in rows {
        let mut fields = row.split(|b| *b == b' ').skip(2);
        let (Some(device), Some(_root), Some(at)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if unescape(at) == path.as_os_str().as_bytes() {
            return Some(String::from_utf8_lossy(device).into_owned());
        }
    }
    None
}

/// Undoes the `\ooo` of mountinfo.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail
            .get(..3)
            .filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(&[a, b, c]) if *first == b'\\' => {
                let octal = |d: u8| u32::from(d - b'0');
                plain.push((octal(a) * 64 + octal(b) * 8 + octal(c)) as u8);
                rest = &tail[3..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_topmost_mount_at_a_path() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda rw\n\
            30 22 0:40 / /mnt/a\\040b rw - fuse.forebay forebay rw\n\
            31 22 0:41 / /mnt/a\\040b rw - fuse.forebay forebay rw\n";
        assert_eq!(device(text, Path::new("/mnt/a b")).as_deref(), Some("0:41"));
        assert_eq!(device(text, Path::new("/mnt")), None);
        assert_eq!(unescape(b"\\134x\\9"), b"\\x\\9");
    }

    #[test]
    fn refuses_what_cannot_be_mounted_on_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| check(path).unwrap_err().0;
        assert!(said(&dir.path().join("no")).contains("does not exist; run: mkdir -p"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(said(&file).contains("is not a directory"));
        assert!(said(dir.path()).contains("is not empty"));
        assert!(said(Path::new("/proc")).contains("is busy"));
    }
}
