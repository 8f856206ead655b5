//! Checkpoints of the state machine: taken on a thread of their own, served chunk by chunk.

use crate::{
    Fatal, StateMachine,
    shared::Event,
    snapshot::{ChunkError, SnapshotFile},
};
use bytes::Bytes;
use forebay_types::error::chain;
use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender},
    },
};

/// Most bytes of one chunk.
const CHUNK_BYTES: u64 = 4 << 20;

/// Bytes read at once where a file's checksum is computed.
const BUFFER_BYTES: usize = 256 << 10;

/// A checkpoint on disk; it is removed with this value.
pub(crate) struct Live {
    pub(crate) id: String,
    /// The state machine's index in it.
    pub(crate) index: u64,
    pub(crate) files: Vec<SnapshotFile>,
    dir: PathBuf,
    used: AtomicBool,
}

impl Drop for Live {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

impl Live {
    /// Up to `len` bytes of `file` from `offset` on; fewer at its end.
    pub(crate) fn read(&self, file: &str, offset: u64, len: u64) -> Result<Bytes, ChunkError> {
        self.used.store(true, Ordering::Relaxed);
        let known = self.files.iter().find(|known| known.name == file);
        let size = known.ok_or(ChunkError::Gone)?.size;
        let len = len.min(CHUNK_BYTES).min(size.saturating_sub(offset));
        let mut chunk = vec![0; len as usize];
        let path = self.dir.join(file);
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut chunk, offset))
            .map_err(|e| ChunkError::Failed(format!("cannot read {}: {e}", path.display())))?;
        Ok(chunk.into())
    }

    /// Whether anything was read since the last call.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

/// Takes a checkpoint under `dir` at every order, until there are no more orders.
pub(crate) fn run<S: StateMachine>(
    machine: &S,
    dir: &Path,
    orders: &Receiver<()>,
    events: &Sender<Event<S::Outcome>>,
) {
    // Ids tell the checkpoints of all nodes and all their lives apart.
    let life = RandomState::new().hash_one(dir);
    let mut number = 0;
    while orders.recv().is_ok() {
        number += 1;
        let id = format!("{life:016x}-{number}");
        let taken = take(machine, dir, id).inspect_err(|fatal| {
            let reason = chain(fatal);
            tracing::warn!(reason, "no checkpoint for a follower; it is tried again");
        });
        if events.send(Event::Checkpointed(taken.ok())).is_err() {
            return;
        }
    }
}

fn take<S: StateMachine>(machine: &S, dir: &Path, id: String) -> Result<Live, Fatal> {
    fs::create_dir_all(dir)
        .map_err(|e| Fatal::caused(format!("cannot make {}", dir.display()), e))?;
    let mut live = Live {
        dir: dir.join(&id),
        id,
        index: 0,
        files: Vec::new(),
        used: AtomicBool::new(false),
    };
    live.index = machine.checkpoint(&live.dir)?;
    live.files = list(&live.dir).map_err(|e| {
        let what = format!("cannot read the checkpoint in {}", live.dir.display());
        Fatal::caused(what, e)
    })?;
    tracing::info!(
        id = live.id,
        index = live.index,
        files = live.files.len(),
        "checkpoint"
    );
    Ok(live)
}

fn list(dir: &Path) -> io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other("a file name that is not UTF-8"))?;
        let (size, crc) = checksum(&mut File::open(&path)?)?;
        files.push(SnapshotFile {
            name: name.to_owned(),
            size,
            crc,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Size and CRC32C of what is left of `file`.
pub(crate) fn checksum(file: &mut File) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut size, mut crc) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, crc));
        }
        size += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), error = %e, "cannot remove a directory");
        }
        _ => {}
    }
}
