//! The directory of a tier: files by key, holes, free space, and the tier's identity.
//!
//! Layout: `tier.id` (the identity; locked while a store has the tier), and
//! `files/<2 hex>/<inode>.<version>`, spread over 256 directories by the inode's low byte.

use forebay_types::{ContentVersion, FileId, Ino, PAGE_SIZE, PageIndex};
use rustix::fs::{self, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const IDENTITY: &str = "tier.id";

/// An open tier directory.
#[derive(Debug)]
pub(crate) struct Device {
    dir: PathBuf,
    /// `files`, so that paths are short and a directory that was replaced is noticed.
    files: OwnedFd,
    /// Drawn at random when the tier was made.
    pub(crate) identity: u64,
    /// Device and inode of `dir`.
    place: (u64, u64),
    /// The identity file; holds the lock.
    lock: File,
}

/// What an I/O error says about the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The disk is full.
    Full,
    /// The process or the kernel is short of something: the tier is not at fault.
    Process,
    /// The file is not there.
    Missing,
    /// The tier does not work.
    Tier,
}

/// Whom to blame for an error.
pub(crate) fn blame(error: &io::Error) -> Blame {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Blame::Full,
        Some(Errno::NOENT) => Blame::Missing,
        Some(
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::FBIG | Errno::INTR | Errno::AGAIN,
        ) => Blame::Process,
        _ => Blame::Tier,
    }
}

fn name(id: FileId) -> String {
    format!("{:02x}/{}.{}", id.ino.0 & 0xff, id.ino, id.version)
}

fn parse_name(name: &str) -> Option<FileId> {
    let (ino, version) = name.split_once('.')?;
    let id = FileId {
        ino: Ino(ino.parse().ok()?),
        version: ContentVersion(version.parse().ok()?),
    };
    // `+1.1` and `01.1` parse, but are not ours.
    (format!("{}.{}", id.ino, id.version) == name).then_some(id)
}

fn make_dir(dir: &Path, recursive: bool) -> io::Result<()> {
    match std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(recursive)
        .create(dir)
    {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn read_identity(lock: &mut File) -> io::Result<Option<u64>> {
    let mut text = String::new();
    match lock.take(64).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(text
        .strip_prefix("forebay tier ")
        .and_then(|hex| u64::from_str_radix(hex.trim_end(), 16).ok()))
}

impl Device {
    /// Opens the tier in `dir`, made if missing. A tier without a readable identity gets a new one.
    pub(crate) fn open(dir: &Path) -> io::Result<Device> {
        make_dir(dir, true)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(IDENTITY))?;
        fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let files_dir = dir.join("files");
        let known = read_identity(&mut lock)?;
        make_dir(&files_dir, false)?;
        for shard in 0..=255 {
            make_dir(&files_dir.join(format!("{shard:02x}")), false)?;
        }
        let identity = if let Some(identity) = known {
            identity
        } else {
            let identity = random()?;
            lock.set_len(0)?;
            io::Seek::rewind(&mut lock)?;
            // One write of a short line: whole or not there.
            lock.write_all(format!("forebay tier {identity:016x}\n").as_bytes())?;
            identity
        };
        let files = fs::open(
            &files_dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let meta = std::fs::metadata(dir)?;
        Ok(Device {
            dir: dir.to_owned(),
            files,
            identity,
            place: (meta.dev(), meta.ino()),
            lock,
        })
    }

    /// Opens the tier in the same directory again, after a fault. Nothing is made on another file system
    /// than before: where a disk was unmounted, its empty mount point must not fill up.
    pub(crate) fn reopen(&self) -> io::Result<Device> {
        let beside = match std::fs::metadata(&self.dir) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::metadata(self.dir.parent().unwrap_or(Path::new("/")))?
            }
            Err(error) => return Err(error),
        };
        if beside.dev() != self.place.0 {
            return Err(io::Error::other("another file system is there"));
        }
        // The lock is ours if the old identity file is still in place, and a second descriptor
        // would not get it.
        if self.is_in_place() {
            fs::flock(&self.lock, FlockOperation::Unlock)?;
        }
        let device = Device::open(&self.dir)?;
        match device.try_write() {
            // A full disk works.
            Err(error) if blame(&error) != Blame::Full => Err(error),
            _ => Ok(device),
        }
    }

    /// Whether the directory is still the one that was opened.
    pub(crate) fn is_in_place(&self) -> bool {
        let same = |path: &Path, file: &dyn Fn() -> io::Result<(u64, u64)>| {
            let now = std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
            matches!((now, file()), (Ok(now), Ok(then)) if now == then)
        };
        same(&self.dir, &|| Ok(self.place))
            && same(&self.dir.join(IDENTITY), &|| {
                self.lock.metadata().map(|meta| (meta.dev(), meta.ino()))
            })
            && same(&self.dir.join("files"), &|| {
                let stat = fs::fstat(&self.files)?;
                Ok((stat.st_dev, stat.st_ino))
            })
    }

    /// Makes, writes and removes a file.
    fn try_write(&self) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&self.files, "probe", flags, Mode::from(0o600))?);
        let written = (&file).write_all(b"probe");
        fs::unlinkat(&self.files, "probe", AtFlags::empty())?;
        written
    }

    /// Makes an empty sparse file, in place of what may be there.
    pub(crate) fn create(&self, id: FileId, size: u64) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&self.files, name(id), flags, Mode::from(0o600))?);
        if size > 0 {
            fs::ftruncate(&file, size)?;
        }
        Ok(file)
    }

    /// Opens a file for reading.
    pub(crate) fn open_read(&self, id: FileId) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.files, name(id), flags, Mode::empty())?.into())
    }

    /// Opens a file for reading and writing.
    pub(crate) fn open_write(&self, id: FileId) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(fs::openat(&self.files, name(id), flags, Mode::empty())?.into())
    }

    /// Removes a file; it is no error if it is not there.
    pub(crate) fn unlink(&self, id: FileId) -> io::Result<()> {
        match fs::unlinkat(&self.files, name(id), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `each` with every file there is; names that are not ours are left alone.
    pub(crate) fn list(&self, mut each: impl FnMut(FileId)) -> io::Result<()> {
        for shard in 0..=255u8 {
            let dir = self.dir.join(format!("files/{shard:02x}"));
            for entry in std::fs::read_dir(dir)? {
                let name = entry?.file_name();
                let id = name.to_str().and_then(parse_name);
                if let Some(id) = id.filter(|id| id.ino.0 & 0xff == u64::from(shard)) {
                    each(id);
                }
            }
        }
        Ok(())
    }

    /// Bytes that the file system has in all, and that it can still take.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let stat = fs::fstatvfs(&self.files)?;
        Ok((
            stat.f_blocks.saturating_mul(stat.f_frsize),
            stat.f_bavail.saturating_mul(stat.f_frsize),
        ))
    }
}

/// Gives the blocks of some pages back to the file system.
pub(crate) fn punch(file: &File, pages: std::ops::Range<PageIndex>) -> io::Result<()> {
    let start = u64::from(pages.start) * PAGE_SIZE;
    let len = u64::from(pages.end - pages.start) * PAGE_SIZE;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fs::fallocate(file, flags, start, len)?)
}

/// Copies bytes to the same place of another file, in the kernel where it can.
pub(crate) fn copy(from: &File, to: &File, mut range: std::ops::Range<u64>) -> io::Result<()> {
    use rustix::io::Errno;
    use std::os::unix::fs::FileExt;
    while range.start < range.end {
        let (mut read_at, mut write_at) = (range.start, range.start);
        let len = (range.end - range.start) as usize;
        match fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => range.start += copied as u64,
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                // Between file systems.
                let mut buffer = vec![0; len.min(1 << 18)];
                while range.start < range.end {
                    let part = buffer.len().min((range.end - range.start) as usize);
                    from.read_exact_at(&mut buffer[..part], range.start)?;
                    to.write_all_at(&buffer[..part], range.start)?;
                    range.start += part as u64;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::id;
    use std::os::unix::fs::FileExt;

    #[test]
    fn names_read_back_and_strangers_are_left_alone() {
        assert_eq!(name(id(0x1ff)), "ff/511.1");
        assert_eq!(parse_name("511.1"), Some(id(511)));
        for other in ["", "511", "511.", ".1", "+5.1", "05.1", "5.1.tmp", "probe"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn the_identity_survives_and_a_tier_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/tier");
        let device = Device::open(&path).unwrap();
        let identity = device.identity;
        assert!(Device::open(&path).is_err(), "locked");
        assert!(device.is_in_place());
        drop(device);
        let device = Device::open(&path).unwrap();
        assert_eq!(device.identity, identity);
        std::fs::write(path.join(IDENTITY), "rubbish").unwrap();
        drop(device);
        assert_ne!(Device::open(&path).unwrap().identity, identity);
    }

    #[test]
    fn a_directory_that_vanished_or_was_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tier");
        let device = Device::open(&path).unwrap();
        std::fs::rename(&path, dir.path().join("away")).unwrap();
        assert!(!device.is_in_place());
        std::fs::create_dir(&path).unwrap();
        assert!(!device.is_in_place());
        let other = device.reopen().unwrap();
        assert_ne!(other.identity, device.identity);
        drop(other);
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::rename(dir.path().join("away"), &path).unwrap();
        assert!(device.is_in_place());
        assert_eq!(device.reopen().unwrap().identity, device.identity);
    }

    #[test]
    fn files_are_sparse_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::open(&dir.path().join("tier")).unwrap();
        let file = device.create(id(5), 64 << 20).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks()), (64 << 20, 0));
        assert_eq!(meta.mode() & 0o777, 0o600);
        let mut seen = Vec::new();
        std::fs::write(dir.path().join("tier/files/05/stranger"), "").unwrap();
        device.list(|id| seen.push(id)).unwrap();
        assert_eq!(seen, [id(5)]);
        device.unlink(id(5)).unwrap();
        device.unlink(id(5)).unwrap();
        assert!(device.open_read(id(5)).is_err());
    }

    #[test]
    fn bytes_are_copied_within_and_between_file_systems() {
        let one = tempfile::tempdir().unwrap();
        let other =
            tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let from = Device::open(&one.path().join("tier")).unwrap();
        let file = from.create(id(1), 3 << 20).unwrap();
        let bytes: Vec<u8> = (0..1 << 20).map(|n| (n % 251) as u8).collect();
        file.write_all_at(&bytes, 1 << 20).unwrap();
        for to in [from, Device::open(&other.path().join("tier")).unwrap()] {
            let copied = to.create(id(2), 3 << 20).unwrap();
            copy(&file, &copied, 1 << 20..2 << 20).unwrap();
            let mut back = vec![0; 1 << 20];
            copied.read_exact_at(&mut back, 1 << 20).unwrap();
            assert!(back == bytes);
        }
    }
}
