//! A daemon's directory: which format, which cluster, whose; one process at a time.

use crate::config::ConfigError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The layout of the directory that this program writes and reads.
const FORMAT: u32 = 1;
const IDENTITY: &str = "forebay.json";
const IDENTITY_DRAFT: &str = "forebay.json.tmp";
const LOCK: &str = "lock";

/// Names that do not make a directory somebody else's: our own before the identity is in place,
/// and what a fresh ext4 volume holds.
const HARMLESS: [&str; 3] = [IDENTITY_DRAFT, LOCK, "lost+found"];

/// What `forebay.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    role: String,
    cluster: Option<String>,
    /// Of a master: its number among the voters.
    #[serde(default)]
    id: Option<u64>,
}

/// Read before the rest, whose shape depends on it.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// An open data directory; the lock lasts as long as the value.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Mutex<Identity>,
    /// Holds the flock.
    _lock: File,
}

impl DataDir {
    /// Opens or makes `path` (mode 0700) for a daemon of kind `role` (`master`, `worker`,
    /// `local`). Refuses one that another process has open, another role made, or a newer format
    /// made, and a directory with files that are not Forebay's.
    pub fn open(path: &Path, role: &str) -> Result<DataDir, ConfigError> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                return refuse(
                    path,
                    "is not a directory: give a directory, or a path to make one",
                );
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut builder = fs::DirBuilder::new();
                builder
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .map_err(|e| cannot(path, &e))?;
            }
            Err(error) => return Err(cannot(path, &error)),
        }
        // Before the lock file is made: a directory of somebody else stays untouched.
        if !path.join(IDENTITY).exists() {
            refuse_foreign(path)?;
        }
        let lock = lock(path)?;
        let identity = if let Some(identity) = read(path)? {
            if identity.role != role {
                return refuse(
                    path,
                    &format!(
                        "belongs to a {} and not to a {role}: give another directory",
                        identity.role
                    ),
                );
            }
            identity
        } else {
            let identity = Identity {
                format: FORMAT,
                role: role.to_owned(),
                cluster: None,
                id: None,
            };
            write(path, &identity)?;
            identity
        };
        Ok(DataDir {
            path: path.to_owned(),
            identity: Mutex::new(identity),
            _lock: lock,
        })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster that it belongs to, once known.
    pub fn cluster(&self) -> Option<String> {
        self.identity.lock().cluster.clone()
    }

    /// Records the cluster; refuses if it belongs to another one.
    pub fn bind(&self, cluster: &str) -> Result<(), ConfigError> {
        let mut identity = self.identity.lock();
        match identity.cluster.as_deref() {
            Some(bound) if bound == cluster => Ok(()),
            Some(bound) => refuse(
                &self.path,
                &format!(
                    "belongs to cluster {bound} and not to {cluster}: give another directory, or \
                     remove this one if its cluster is gone"
                ),
            ),
            None => {
                let cluster = Some(cluster.to_owned());
                self.replace(&mut identity, |bound| bound.cluster = cluster)
            }
        }
    }

    /// The number recorded with [`DataDir::bind_id`].
    pub fn id(&self) -> Option<u64> {
        self.identity.lock().id
    }

    /// Records the master's number; refuses if the directory is that of another number, whose
    /// promises to the other masters lie in it.
    pub fn bind_id(&self, id: u64) -> Result<(), ConfigError> {
        let mut identity = self.identity.lock();
        match identity.id {
            Some(bound) if bound == id => Ok(()),
            Some(bound) => refuse(
                &self.path,
                &format!(
                    "belongs to master {bound} and not to master {id}: give each master its own \
                     directory"
                ),
            ),
            None => self.replace(&mut identity, |bound| bound.id = Some(id)),
        }
    }

    fn replace(
        &self,
        identity: &mut Identity,
        change: impl FnOnce(&mut Identity),
    ) -> Result<(), ConfigError> {
        let mut changed = identity.clone();
        change(&mut changed);
        write(&self.path, &changed)?;
        *identity = changed;
        Ok(())
    }
}

fn refuse<T>(path: &Path, what: &str) -> Result<T, ConfigError> {
    Err(ConfigError(format!(
        "data directory {} {what}",
        path.display()
    )))
}

fn cannot(path: &Path, error: &io::Error) -> ConfigError {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ": give a directory that this user may write"
        }
        io::ErrorKind::StorageFull => ": make space on its file system",
        io::ErrorKind::NotADirectory => ": a part of the path is a file",
        _ => "",
    };
    ConfigError(format!(
        "data directory {} cannot be used: {error}{remedy}",
        path.display()
    ))
}

fn refuse_foreign(path: &Path) -> Result<(), ConfigError> {
    for entry in fs::read_dir(path).map_err(|e| cannot(path, &e))? {
        let name = entry.map_err(|e| cannot(path, &e))?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            return refuse(
                path,
                &format!(
                    "holds '{}' and no {IDENTITY}, so it is not Forebay's: give an empty \
                     directory, or a path to make one",
                    name.display()
                ),
            );
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, ConfigError> {
    let lock_path = path.join(LOCK);
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(|e| cannot(path, &e))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // Empty for the moment between the lock and the number.
            let holder = match io::read_to_string(&mut lock).unwrap_or_default().trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return refuse(
                path,
                &format!("is in use by {holder}: stop it, or give another directory"),
            );
        }
        Err(TryLockError::Error(error)) => return Err(cannot(path, &error)),
    }
    // For people and for the message above; the lock itself is the kernel's.
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(|e| cannot(path, &e))?;
    Ok(lock)
}

fn read(path: &Path) -> Result<Option<Identity>, ConfigError> {
    let bytes = match fs::read(path.join(IDENTITY)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(path, &error)),
    };
    let damaged = |error: serde_json::Error| {
        let text = format!(
            "data directory {} has a damaged {IDENTITY} ({error}): restore that file, or give \
             another directory",
            path.display()
        );
        ConfigError(text)
    };
    let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if format > FORMAT {
        return refuse(
            path,
            &format!(
                "has format {format}, made by a newer Forebay (this one knows {FORMAT}): use that \
                 version, or give another directory"
            ),
        );
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Replaces the identity so that a crash leaves the old or the new one whole.
fn write(path: &Path, identity: &Identity) -> Result<(), ConfigError> {
    let draft = path.join(IDENTITY_DRAFT);
    let replace = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        serde_json::to_writer(&mut file, identity)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, path.join(IDENTITY))?;
        File::open(path)?.sync_all()
    };
    replace().map_err(|e| cannot(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn error(path: &Path, role: &str) -> String {
        let error = DataDir::open(path, role).unwrap_err().0;
        assert!(!error.contains('\n'), "{error}");
        error.replace(&path.display().to_string(), "D")
    }

    #[test]
    fn makes_the_directory_and_finds_it_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let dir = DataDir::open(&path, "worker").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o700
        );
        assert_eq!(dir.cluster(), None);
        dir.bind("c1").unwrap();
        dir.bind("c1").unwrap();
        drop(dir);
        let dir = DataDir::open(&path, "worker").unwrap();
        assert_eq!(dir.cluster().as_deref(), Some("c1"));
        let other = dir.bind("c2").unwrap_err().0;
        assert!(
            other.contains("belongs to cluster c1 and not to c2: give another"),
            "{other}"
        );
        assert_eq!(dir.cluster().as_deref(), Some("c1"));
    }

    #[test]
    fn one_process_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path(), "master").unwrap();
        let pid = std::process::id();
        assert_eq!(
            error(root.path(), "master"),
            format!(
                "data directory D is in use by process {pid}: stop it, or give another directory"
            )
        );
        drop(dir);
        DataDir::open(root.path(), "master").unwrap();
    }

    #[test]
    fn refuses_what_is_not_its_own() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), "master").unwrap());
        assert_eq!(
            error(root.path(), "worker"),
            "data directory D belongs to a master and not to a worker: give another directory"
        );
        fs::write(
            root.path().join(IDENTITY),
            r#"{"format":2,"shape":"unknown"}"#,
        )
        .unwrap();
        assert_eq!(
            error(root.path(), "master"),
            "data directory D has format 2, made by a newer Forebay (this one knows 1): use that \
             version, or give another directory"
        );
        fs::write(root.path().join(IDENTITY), "{").unwrap();
        let damaged = error(root.path(), "master");
        assert!(
            damaged.starts_with("data directory D has a damaged forebay.json ("),
            "{damaged}"
        );
    }

    #[test]
    fn refuses_and_leaves_alone_a_directory_with_files() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("lost+found")).unwrap();
        fs::write(root.path().join("thesis.tex"), "x").unwrap();
        assert_eq!(
            error(root.path(), "local"),
            "data directory D holds 'thesis.tex' and no forebay.json, so it is not Forebay's: \
             give an empty directory, or a path to make one"
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
        fs::remove_file(root.path().join("thesis.tex")).unwrap();
        DataDir::open(root.path(), "local").unwrap();
    }

    #[test]
    fn refuses_what_cannot_be_a_directory_or_be_written() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(
            error(&file, "local"),
            "data directory D is not a directory: give a directory, or a path to make one"
        );
        let below = error(&file.join("sub"), "local");
        assert!(below.ends_with(": a part of the path is a file"), "{below}");
        // Even root cannot write below /proc.
        let kernel = error(Path::new("/proc/forebay"), "local");
        assert!(
            kernel.starts_with("data directory D cannot be used: "),
            "{kernel}"
        );
    }

    #[test]
    fn a_crash_while_writing_the_identity_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(IDENTITY_DRAFT), "{\"for").unwrap();
        let dir = DataDir::open(root.path(), "local").unwrap();
        assert_eq!(dir.cluster(), None);
        assert!(!root.path().join(IDENTITY_DRAFT).exists());
    }
}
