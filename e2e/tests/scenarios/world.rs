//! What a scenario runs in: a store, its server, a directory on disk, mounts.

use bytes::Bytes;
use forebay_e2e::{
    process::{Forebay, Local},
    s3::{Backend, Content, Credentials, Memory, S3Server, synthetic},
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The bucket of every scenario.
pub(crate) const BUCKET: &str = "data";

/// A bucket behind a server, and a directory for mounts and caches.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) store: Arc<Memory>,
    pub(crate) server: S3Server,
    pub(crate) credentials: Credentials,
}

impl World {
    pub(crate) fn new() -> World {
        let store = Arc::new(Memory::new(&[BUCKET]));
        let credentials = Credentials {
            access_key: "scenario".to_owned(),
            secret_key: "not-a-secret-at-all".to_owned(),
        };
        let backend: Arc<dyn Backend> = store.clone();
        let server = S3Server::start(backend, Some(credentials.clone())).unwrap();
        // Not in memory: a cache on tmpfs cannot be told from a disk by what it does.
        let dir = tempfile::Builder::new()
            .prefix("forebay-e2e-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        World {
            dir,
            store,
            server,
            credentials,
        }
    }

    /// Puts noise of `size` bytes under `key`; returns it for comparison.
    pub(crate) fn put(&self, key: &str, seed: u64, size: u64) -> Content {
        let content = synthetic(seed, size);
        self.store.put(BUCKET, key, content.clone()).unwrap();
        content
    }

    /// Puts these bytes under `key`.
    pub(crate) fn put_bytes(&self, key: &str, bytes: &'static [u8]) {
        self.store
            .put(BUCKET, key, Bytes::from_static(bytes).into())
            .unwrap();
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.mount_point().join(path)
    }

    /// `forebay SUBCOMMAND` with the store's endpoint and credentials.
    pub(crate) fn with_store(&self, subcommand: &str) -> Forebay {
        Forebay::new(subcommand)
            .unwrap()
            .s3(&self.server.endpoint, Some(&self.credentials))
    }

    /// `forebay local` on the one data directory of this world, with a tier of `tier` bytes.
    pub(crate) fn local(&self, tier: &str, more: &[&str]) -> Local {
        self.local_of(tier, more, &[&format!("s3://{BUCKET}")])
    }

    /// The same with other URIs.
    pub(crate) fn local_of(&self, tier: &str, more: &[&str], uris: &[&str]) -> Local {
        let data = self.dir.path().join("state");
        let tier = format!("SSD={}:{tier}", self.dir.path().join("cache").display());
        let command = self
            .with_store("local")
            .arg("--data-dir")
            .arg(data)
            .args(["--memory", "128MiB", "--tier", &tier])
            .args(more);
        Local::start(command, &self.mount_point(), uris).unwrap()
    }

    /// `forebay fs …` on a path of the mount.
    pub(crate) fn fs(&self, args: &[&str], path: &str) -> String {
        let command = Forebay::new("fs").unwrap().args(args).arg(self.at(path));
        command.output().unwrap()
    }
}

/// The bytes of a range of `path`; a short read is an error.
pub(crate) fn read_range(path: &Path, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    File::open(path)?.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}

/// Compares the whole of `path` with `content`, piece by piece.
#[track_caller]
pub(crate) fn assert_same(path: &Path, content: &Content) {
    let file = File::open(path).unwrap();
    assert_eq!(
        file.metadata().unwrap().len(),
        content.size(),
        "size of {}",
        path.display()
    );
    let mut offset = 0;
    let mut buffer = vec![0; 1 << 20];
    while offset < content.size() {
        let len = (content.size() - offset).min(1 << 20);
        let got = &mut buffer[..len as usize];
        file.read_exact_at(got, offset)
            .unwrap_or_else(|error| panic!("{} at {offset}: {error}", path.display()));
        let want = content.bytes(offset..offset + len).unwrap();
        if let Some(at) = got.iter().zip(&want).position(|(a, b)| a != b) {
            panic!("{} differs at byte {}", path.display(), offset + at as u64);
        }
        offset += len;
    }
}

/// Asks again until `done` holds; fails after `limit`.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
