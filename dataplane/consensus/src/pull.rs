//! Fetches the files of a snapshot from another node, on a thread of its own.
//!
//! Everything lies under one directory: the manifest that is being fetched, and its files. What is
//! there already and whole is not fetched again, and what is there in part is continued; also
//! after a restart, and also for another snapshot that has the very same file.

use crate::{
    Transport,
    checkpoint::{self, checksum},
    shared::Event,
    snapshot::{ChunkError, Manifest, SnapshotFile},
};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

/// Bytes asked for at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Attempts in a row that may fail before a snapshot is given up; the leader will offer one again.
const ATTEMPTS: u32 = 20;

/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// What the thread is to do.
pub(crate) enum Order {
    /// Fetch from that node, instead of whatever is being fetched.
    Pull(u64, Box<Manifest>),
    /// Remove what is there.
    Discard,
}

/// Where things lie.
#[derive(Clone)]
pub(crate) struct Incoming(PathBuf);

impl Incoming {
    /// Everything under `dir`.
    pub(crate) fn under(dir: PathBuf) -> Incoming {
        Incoming(dir)
    }

    /// The files of the snapshot.
    pub(crate) fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    fn manifest(&self) -> PathBuf {
        self.0.join("manifest")
    }

    /// Removes all.
    pub(crate) fn discard(&self) {
        checkpoint::remove(&self.0);
    }

    /// Removes all unless it is part of a snapshot after `applied`.
    pub(crate) fn discard_old(&self, applied: u64) {
        if self.read_manifest().is_none_or(|m| m.index <= applied) {
            self.discard();
        }
    }

    fn read_manifest(&self) -> Option<Manifest> {
        let bytes = fs::read(self.manifest()).ok()?;
        Manifest::from_bytes(&bytes).ok()
    }

    /// Removes everything that is not part of `wanted`, and writes down what is.
    fn prepare(&self, wanted: &Manifest) -> io::Result<()> {
        let before = self.read_manifest();
        let before = before.map_or(Vec::new(), |manifest| manifest.files);
        fs::create_dir_all(self.files())?;
        let keep: BTreeSet<_> = before
            .iter()
            .filter(|file| wanted.files.contains(file))
            .map(|file| file.name.as_str())
            .collect();
        for entry in fs::read_dir(self.files())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if !name.is_some_and(|name| keep.contains(name)) {
                fs::remove_file(&path)?;
            }
        }
        sync_dir(&self.files())?;
        let new = self.0.join("manifest.new");
        let mut file = File::create(&new)?;
        file.write_all(&wanted.to_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.manifest())?;
        sync_dir(&self.0)?;
        // The directory itself may be new.
        self.0.parent().map_or(Ok(()), sync_dir)
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Why a snapshot is not fetched to its end.
enum Stop {
    /// There is something else to do.
    Order(Order),
    /// Nobody gives orders any more.
    End,
    GivenUp(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::GivenUp(error.to_string())
    }
}

/// Follows orders until there are no more.
pub(crate) fn run<O>(
    incoming: &Incoming,
    transport: &dyn Transport,
    orders: &Receiver<Order>,
    events: &Sender<Event<O>>,
) {
    let mut next = orders.recv().ok();
    while let Some(order) = next.take() {
        let (from, manifest) = match order {
            Order::Pull(from, manifest) => (from, manifest),
            Order::Discard => {
                incoming.discard();
                next = orders.recv().ok();
                continue;
            }
        };
        let pull = Pull {
            incoming,
            transport,
            orders,
            from,
            manifest: &manifest,
        };
        let whole = match pull.run() {
            Ok(()) => true,
            Err(Stop::Order(order)) => {
                next = Some(order);
                continue;
            }
            Err(Stop::End) => return,
            Err(Stop::GivenUp(reason)) => {
                tracing::warn!(from, reason, "snapshot given up; another will be offered");
                false
            }
        };
        if events.send(Event::Pulled(manifest.id, whole)).is_err() {
            return;
        }
        next = orders.recv().ok();
    }
}

struct Pull<'a> {
    incoming: &'a Incoming,
    transport: &'a dyn Transport,
    orders: &'a Receiver<Order>,
    from: u64,
    manifest: &'a Manifest,
}

impl Pull<'_> {
    fn run(&self) -> Result<(), Stop> {
        self.incoming.prepare(self.manifest)?;
        for file in &self.manifest.files {
            self.file(file)?;
        }
        Ok(sync_dir(&self.incoming.files())?)
    }

    fn file(&self, wanted: &SnapshotFile) -> Result<(), Stop> {
        let path = self.incoming.files().join(&wanted.name);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        let (mut size, mut crc) = checksum(&mut file)?;
        for _ in 0..ATTEMPTS {
            if size > wanted.size || size == wanted.size && crc != wanted.crc {
                tracing::warn!(file = wanted.name, "damaged on its way: fetched again");
                file.set_len(0)?;
                (size, crc) = (0, 0);
            }
            file.seek(SeekFrom::Start(size))?;
            while size < wanted.size {
                let chunk = self.chunk(&wanted.name, size)?;
                file.write_all(&chunk)?;
                size += chunk.len() as u64;
                crc = crc32c::crc32c_append(crc, &chunk);
            }
            if size == wanted.size && crc == wanted.crc {
                return Ok(file.sync_all()?);
            }
        }
        let name = &wanted.name;
        Err(Stop::GivenUp(format!("{name} arrives damaged every time")))
    }

    /// The next chunk, at least one byte; asked for again and again where that may help.
    fn chunk(&self, file: &str, offset: u64) -> Result<bytes::Bytes, Stop> {
        let mut failed = 0;
        loop {
            let pause = if failed == 0 { Duration::ZERO } else { PAUSE };
            match self.orders.recv_timeout(pause) {
                Ok(order) => return Err(Stop::Order(order)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Stop::End),
            }
            let id = &self.manifest.id;
            let reason = match self
                .transport
                .fetch(self.from, id, file, offset, CHUNK_BYTES)
            {
                Ok(chunk) if !chunk.is_empty() => return Ok(chunk),
                Ok(_) => format!("{file} ends at {offset}"),
                Err(ChunkError::Gone) => return Err(Stop::GivenUp(ChunkError::Gone.to_string())),
                Err(ChunkError::Failed(reason)) => reason,
            };
            failed += 1;
            if failed == ATTEMPTS {
                return Err(Stop::GivenUp(reason));
            }
        }
    }
}
