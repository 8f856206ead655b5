//! A local directory (or any mounted file system) as an under store.
//!
//! Names are raw bytes. Symbolic links are followed; a link that leads back to a directory above
//! itself is left out, a broken one too, and so are sockets, pipes and devices. The fingerprint is
//! size, modification time, inode and change time, so that an overwrite of the same size within
//! the same second is noticed; a read compares it before the first and after every piece.

use crate::{Body, Depth, Error, ListPage, Object, Requests, Result, UnderStore, counter::Counter};
use async_trait::async_trait;
use bytes::Bytes;
use forebay_types::{Code, Fingerprint};
use futures::{StreamExt as _, stream, stream::BoxStream};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    mem::MaybeUninit,
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinError, spawn_blocking},
};

/// Entries of one piece of a listing.
const PAGE: usize = 1000;
/// Bytes of one piece of a body.
const CHUNK: u64 = 1 << 20;
/// Pieces of a listing that wait for their reader.
const QUEUE: usize = 2;

/// A local directory. Clones share the counters.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<Path>,
    counter: Arc<Counter>,
    /// Who asks whether it is alive.
    asking: Arc<Semaphore>,
}

impl LocalStore {
    /// The directory `root`, an absolute path.
    pub fn new(root: impl Into<PathBuf>) -> LocalStore {
        LocalStore {
            root: root.into().into(),
            counter: Arc::default(),
            asking: Arc::new(Semaphore::new(1)),
        }
    }

    /// Where `key` is; [`Code::NotFound`] for keys that no path can have, so that no key leads
    /// out of the root.
    fn path(&self, key: &[u8]) -> Result<PathBuf> {
        let plain = |segment: &[u8]| !matches!(segment, b"" | b"." | b"..");
        if key.contains(&0) || !key.split(|b| *b == b'/').all(plain) {
            return Err(self.missing(key));
        }
        Ok(self.root.join(OsStr::from_bytes(key)))
    }

    fn missing(&self, key: &[u8]) -> Error {
        Error::new(
            Code::NotFound,
            format!(
                "no file '{}' in {}",
                key.escape_ascii(),
                self.root.display()
            ),
        )
    }
}

#[async_trait]
impl UnderStore for LocalStore {
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.counter.list();
        let directory = match prefix.strip_suffix(b"/") {
            None if prefix.is_empty() => Ok(self.root.to_path_buf()),
            // Only whole directories: a prefix in the middle of a name lists nothing here.
            None => Err(self.missing(prefix)),
            Some(key) => self.path(key),
        };
        let Ok(directory) = directory else {
            return stream::empty().boxed();
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let prefix = prefix.to_vec();
        let mut walk = Walk {
            root: self.root.clone(),
            depth,
            page: ListPage::default(),
            unreadable: None,
            sender,
        };
        // Owned by the stream: once its receiver is dropped, the next send ends the walk.
        spawn_blocking(move || walk.run(&directory, prefix));
        stream::unfold(receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        })
        .boxed()
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        self.counter.stat();
        let (store, key) = (self.clone(), key.to_vec());
        blocking(move || {
            let path = store.path(&key)?;
            let stat = rustix::fs::stat(&path).map_err(|errno| match errno {
                // Something above is a file: there is no such key.
                Errno::NOTDIR => store.missing(&key),
                _ => failed("stat", &path, errno),
            })?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(object(key, &stat)),
                _ => Err(store.missing(&key)),
            }
        })
        .await
    }

    async fn read(&self, key: &[u8], range: Range<u64>, expected: &Fingerprint) -> Result<Body> {
        self.counter.read();
        let path = self.path(key)?;
        let reading = blocking({
            let (expected, range) = (expected.clone(), range.clone());
            move || Reading::open(path, range, expected)
        })
        .await?;
        if range.start >= range.end || range.end > expected.size {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "range {}..{} is not within {} bytes",
                    range.start, range.end, expected.size
                ),
            ));
        }
        let fingerprint = reading.expected.clone();
        let counter = self.counter.clone();
        let bytes = stream::try_unfold(Some(reading), move |state| {
            let counter = counter.clone();
            async move {
                let Some(mut state) = state.filter(|s| !s.range.is_empty()) else {
                    return Ok(None);
                };
                let (piece, state) = blocking(move || Ok((state.piece()?, state))).await?;
                counter.bytes(piece.len());
                Ok(Some((piece, Some(state))))
            }
        });
        Ok(Body {
            fingerprint,
            bytes: bytes.boxed(),
        })
    }

    async fn probe(&self) -> Result<()> {
        let root = self.root.clone();
        blocking(move || usable(&root)).await
    }

    async fn alive(&self) -> Result<()> {
        // A file system that hangs holds one thread, however often it is asked.
        let Ok(asking) = self.asking.clone().try_acquire_owned() else {
            let text = format!("{} has not answered for a while", self.root.display());
            return Err(Error::new(Code::Timeout, text));
        };
        let root = self.root.clone();
        blocking(move || {
            let answered = usable(&root);
            drop(asking);
            answered
        })
        .await
    }

    fn requests(&self) -> Requests {
        self.counter.get()
    }
}

/// Whether `root` is a directory that can be listed.
fn usable(root: &Path) -> Result<()> {
    let stat = rustix::fs::stat(root).map_err(|e| failed("use", root, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let root = root.display();
        let text = format!("{root} is not a directory: name the directory to mount");
        return Err(Error::new(Code::NotDirectory, text));
    }
    let opened = open_directory(root);
    opened.map(drop).map_err(|e| failed("list", root, e))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = |e: JoinError| Error::caused(Code::Internal, "file work ended early", e);
    spawn_blocking(work).await.map_err(ended)?
}

fn failed(what: &str, path: &Path, errno: Errno) -> Error {
    let code = match errno {
        Errno::NOENT | Errno::NAMETOOLONG | Errno::LOOP => Code::NotFound,
        Errno::NOTDIR => Code::NotDirectory,
        Errno::ACCESS | Errno::PERM => Code::PermissionDenied,
        Errno::STALE => Code::Stale,
        Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM => Code::Unavailable,
        _ => Code::Internal,
    };
    Error::caused(code, format!("cannot {what} {}", path.display()), errno)
}

fn fingerprint(stat: &Stat) -> Fingerprint {
    Fingerprint {
        size: stat.st_size as u64,
        mtime_ns: mtime_ns(stat),
        etag: format!(
            "{:x}-{:x}-{:x}",
            stat.st_ino, stat.st_ctime, stat.st_ctime_nsec
        ),
    }
}

fn mtime_ns(stat: &Stat) -> i64 {
    stat.st_mtime
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_mtime_nsec as i64)
}

fn object(key: Vec<u8>, stat: &Stat) -> Object {
    Object {
        key: key.into(),
        fingerprint: fingerprint(stat),
        mtime_ns: mtime_ns(stat),
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// A read that has begun.
struct Reading {
    file: File,
    path: PathBuf,
    /// What is left.
    range: Range<u64>,
    expected: Fingerprint,
}

impl Reading {
    fn open(path: PathBuf, range: Range<u64>, expected: Fingerprint) -> Result<Reading> {
        // Not blocking: a FIFO that took the file's place must not hold the thread.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(stale(&path)),
            Err(errno) => return Err(failed("open", &path, errno)),
        };
        let reading = Reading {
            file,
            path,
            range,
            expected,
        };
        reading.check()?;
        Ok(reading)
    }

    fn check(&self) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file).map_err(|e| failed("stat", &self.path, e))?;
        if fingerprint(&stat) == self.expected {
            Ok(())
        } else {
            Err(stale(&self.path))
        }
    }

    fn piece(&mut self) -> Result<Bytes> {
        let length = CHUNK.min(self.range.end - self.range.start) as usize;
        let mut piece: Vec<u8> = Vec::with_capacity(length);
        while piece.len() < length {
            let offset = self.range.start + piece.len() as u64;
            match rustix::io::pread(
                &self.file,
                rustix::buffer::spare_capacity(&mut piece),
                offset,
            ) {
                Ok(0) => return Err(stale(&self.path)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("read", &self.path, errno)),
            }
        }
        piece.truncate(length);
        // Bytes count only if the file was the expected one after they were read, too.
        self.check()?;
        self.range.start += length as u64;
        Ok(piece.into())
    }
}

fn stale(path: &Path) -> Error {
    Error::new(Code::Stale, format!("{} has changed", path.display()))
}

/// A walk over a directory or a tree, on a thread for blocking work.
struct Walk {
    root: Arc<Path>,
    depth: Depth,
    page: ListPage,
    /// The first directory below the first that could not be read: reported at the end.
    unreadable: Option<Error>,
    sender: mpsc::Sender<Result<ListPage>>,
}

/// The listener is gone.
struct Deaf;

/// Device and inode of a directory.
type DirId = (u64, u64);

impl Walk {
    fn run(&mut self, directory: &Path, prefix: Vec<u8>) {
        // Directories above: a link back to one of them would never end.
        let mut above: Vec<DirId> = directory
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(&self.root))
            .filter_map(|path| rustix::fs::stat(path).ok())
            .map(|stat| (stat.st_dev, stat.st_ino))
            .collect();
        // Depth first: what is above an entry is a prefix of what is above its successor.
        let mut todo = vec![(prefix, above.len())];
        while let Some((prefix, level)) = todo.pop() {
            above.truncate(level);
            let mut below = Vec::new();
            if self.directory(&prefix, &mut above, &mut below).is_err() {
                return;
            }
            todo.extend(below.into_iter().map(|prefix| (prefix, above.len())));
        }
        if self.flush(1).is_ok()
            && let Some(error) = self.unreadable.take()
        {
            let _ = self.sender.blocking_send(Err(error));
        }
    }

    /// Sends what has gathered once it has `least` entries.
    fn flush(&mut self, least: usize) -> std::result::Result<(), Deaf> {
        if self.page.objects.len() + self.page.prefixes.len() < least {
            return Ok(());
        }
        self.sender
            .blocking_send(Ok(std::mem::take(&mut self.page)))
            .map_err(|_| Deaf)
    }

    fn unreadable(&mut self, path: &Path, errno: Errno) {
        let error = failed("list", path, errno);
        self.unreadable.get_or_insert(error);
    }

    /// Lists the directory `prefix`; in a recursive walk its directories go to `below`.
    fn directory(
        &mut self,
        prefix: &[u8],
        above: &mut Vec<DirId>,
        below: &mut Vec<Vec<u8>>,
    ) -> std::result::Result<(), Deaf> {
        let path = self.root.join(OsStr::from_bytes(prefix));
        let opened = open_directory(&path).and_then(|fd| {
            let stat = rustix::fs::fstat(&fd)?;
            Ok((fd, (stat.st_dev, stat.st_ino)))
        });
        let (fd, id) = match opened {
            Ok(opened) => opened,
            // Gone since, as a prefix without keys; but a root that is gone is not an empty one.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !prefix.is_empty() => return Ok(()),
            Err(errno) => {
                self.unreadable(&path, errno);
                return Ok(());
            }
        };
        if above.contains(&id) {
            return Ok(());
        }
        above.push(id);
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut entries = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    self.unreadable(&path, errno);
                    break;
                }
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut key = [prefix, name.to_bytes()].concat();
            // Without a stat where the directory itself says enough.
            let kind = entry.file_type();
            let stat = match kind {
                FileType::Directory => None,
                // Gone since, or a broken link, or a link to itself.
                _ => match rustix::fs::statat(&fd, name, AtFlags::empty()) {
                    Ok(stat) => Some(stat),
                    Err(_) => continue,
                },
            };
            let kind = stat
                .as_ref()
                .map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode));
            match (kind, stat) {
                (FileType::RegularFile, Some(stat)) => self.page.objects.push(object(key, &stat)),
                (FileType::Directory, stat) => {
                    key.push(b'/');
                    let link = stat.is_some_and(|s| above.contains(&(s.st_dev, s.st_ino)));
                    match self.depth {
                        _ if link => {}
                        Depth::Recursive => below.push(key),
                        Depth::Directory => self.page.prefixes.push(key.into()),
                    }
                }
                _ => {}
            }
            self.flush(PAGE)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;
    use std::{fs, os::unix::fs::symlink};

    async fn names(store: &LocalStore, prefix: &str, depth: Depth) -> Vec<String> {
        let pages: Vec<_> = store
            .list(prefix.as_bytes(), depth)
            .try_collect()
            .await
            .unwrap();
        let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        let mut names: Vec<_> = pages
            .iter()
            .flat_map(|p| {
                p.objects
                    .iter()
                    .map(|o| text(&o.key))
                    .chain(p.prefixes.iter().map(text))
            })
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn links_are_followed_but_never_in_circles() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        symlink("a/b/file", dir.path().join("link")).unwrap();
        symlink("nowhere", dir.path().join("broken")).unwrap();
        symlink("self", dir.path().join("self")).unwrap();
        symlink("..", dir.path().join("a/up")).unwrap();
        symlink("../..", dir.path().join("a/b/top")).unwrap();
        symlink("a", dir.path().join("again")).unwrap();
        let store = LocalStore::new(dir.path());
        assert_eq!(
            names(&store, "", Depth::Recursive).await,
            ["a/b/file", "again/b/file", "link"]
        );
        assert_eq!(
            names(&store, "", Depth::Directory).await,
            ["a/", "again/", "link"]
        );
        assert_eq!(names(&store, "a/b/", Depth::Directory).await, ["a/b/file"]);
    }

    #[tokio::test]
    async fn an_overwrite_of_the_same_size_and_time_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, vec![1; 3 << 20]).unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let store = LocalStore::new(dir.path());
        let print = store.stat(b"f").await.unwrap().fingerprint;
        let mut body = store.read(b"f", 0..3 << 20, &print).await.unwrap().bytes;
        assert_eq!(body.next().await.unwrap().unwrap(), vec![1; 1 << 20]);
        // The clock of a file system may be coarse: overwrite until it has ticked.
        while store.stat(b"f").await.unwrap().fingerprint == print {
            fs::write(&path, vec![2; 3 << 20]).unwrap();
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(body.next().await.unwrap().unwrap_err().code(), Code::Stale);
        assert_eq!(
            store.read(b"f", 0..1, &print).await.err().unwrap().code(),
            Code::Stale
        );
    }

    #[tokio::test]
    async fn keys_never_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        let store = LocalStore::new(dir.path().join("root"));
        for key in [
            "../secret",
            "/etc/passwd",
            "a/../../secret",
            "",
            ".",
            "x//y",
            "x/",
        ] {
            assert_eq!(
                store.stat(key.as_bytes()).await.unwrap_err().code(),
                Code::NotFound,
                "{key}"
            );
        }
        assert!(names(&store, "../", Depth::Directory).await.is_empty());
    }

    #[tokio::test]
    async fn a_missing_root_is_an_error_and_no_empty_listing() {
        let store = LocalStore::new("/nowhere/at/all");
        assert_eq!(store.probe().await.unwrap_err().code(), Code::NotFound);
        let listed: Result<Vec<_>> = store.list(b"", Depth::Directory).try_collect().await;
        assert_eq!(listed.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn one_thread_asks_a_directory_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path());
        store.alive().await.unwrap();
        let hangs = store.asking.clone().try_acquire_owned().unwrap();
        assert_eq!(store.alive().await.unwrap_err().code(), Code::Timeout);
        drop(hangs);
        store.alive().await.unwrap();
        fs::remove_dir(dir.path()).unwrap();
        assert_eq!(store.alive().await.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn names_need_not_be_utf8_and_pipes_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(b"\xff\n\xfe");
        fs::write(dir.path().join(name), "x").unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let store = LocalStore::new(dir.path());
        let pages: Vec<_> = store
            .list(b"", Depth::Directory)
            .try_collect()
            .await
            .unwrap();
        assert_eq!(pages.len(), 1);
        assert_eq!(pages[0].objects[0].key.as_ref(), b"\xff\n\xfe");
        assert!(store.stat(b"\xff\n\xfe").await.is_ok());
        assert_eq!(
            store.stat(b"pipe").await.unwrap_err().code(),
            Code::NotFound
        );
    }
}
