//! A simulated disk: a [`Kv`] that loses, at a crash, what was not synced.

use forebay_kv::{Batch, Durability, Error, Kv, MemKv, Read, Result, Scan};
use parking_lot::Mutex;
use std::{collections::VecDeque, ops::Range, path::Path};
use xxhash_rust::xxh3::Xxh3Default;

/// Greater than every key.
const END: &[u8] = &[0xff];

#[derive(Default)]
struct State {
    /// Written, not synced.
    unsynced: VecDeque<Batch>,
    full: bool,
}

/// The disk. What is written is seen at once and survives from the next sync on; of what was not
/// synced, a crash keeps the first few batches, in order.
#[derive(Default)]
pub(crate) struct Disk {
    live: MemKv,
    synced: MemKv,
    state: Mutex<State>,
}

impl Disk {
    /// While full, [`Kv::flush`] fails.
    pub(crate) fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// Writes without sync.
    pub(crate) fn put(&self, batch: &Batch) {
        self.write(batch, Durability::Logged)
            .expect("memory takes everything");
    }

    /// Everything written so far survives from here on.
    pub(crate) fn sync(&self) {
        for batch in self.state.lock().unsynced.drain(..) {
            self.synced
                .write(&batch, Durability::Synced)
                .expect("memory takes everything");
        }
    }

    /// The disk after a crash: everything synced, and of the batches after it the first `percent`.
    pub(crate) fn crash(&self, percent: u64) -> Disk {
        let after = Disk::default();
        let mut kept = Batch::default();
        for (key, value) in pairs(&self.synced) {
            kept.put(key, value);
        }
        let state = self.state.lock();
        let lucky = (state.unsynced.len() as u64 * percent).div_ceil(100);
        for batch in std::iter::once(&kept).chain(state.unsynced.iter().take(lucky as usize)) {
            after.put(batch);
        }
        after.sync();
        after
    }

    /// All pairs, as a batch that puts them.
    pub(crate) fn copy(&self) -> Batch {
        let mut copy = Batch::default();
        for (key, value) in pairs(&self.live) {
            copy.put(key, value);
        }
        copy
    }

    /// Holds exactly what `copy` puts, from here on and for good.
    pub(crate) fn replace(&self, copy: &Batch) {
        let mut batch = Batch::default();
        batch.delete_range(Vec::new()..END.to_vec());
        batch.ops.extend(copy.ops.iter().cloned());
        self.put(&batch);
        self.sync();
    }

    /// Hash of all pairs.
    pub(crate) fn checksum(&self) -> u64 {
        let mut hasher = Xxh3Default::new();
        for (key, value) in pairs(&self.live) {
            hash_bytes(&mut hasher, &key);
            hash_bytes(&mut hasher, &value);
        }
        hasher.digest()
    }
}

fn pairs(kv: &MemKv) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    kv.scan(b"".as_slice()..END)
        .map(|pair| pair.expect("memory is never damaged"))
}

fn hash_bytes(hasher: &mut Xxh3Default, bytes: &[u8]) {
    hasher.update(&bytes.len().to_le_bytes());
    hasher.update(bytes);
}

impl Read for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.live.get(key)
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        self.live.scan(range)
    }
}

impl Kv for Disk {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        self.live.write(batch, durability)?;
        self.state.lock().unsynced.push_back(batch.clone());
        if durability == Durability::Synced {
            self.sync();
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        self.live.snapshot()
    }

    fn flush(&self) -> Result<()> {
        if self.state.lock().full {
            return Err(Error::NoSpace("the schedule says so".into()));
        }
        self.sync();
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        self.live.checkpoint(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &Disk, key: &[u8]) {
        let mut batch = Batch::default();
        batch.put(key, b"x".as_slice());
        disk.put(&batch);
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let disk = Disk::default();
        put(&disk, b"1");
        disk.sync();
        put(&disk, b"2");
        put(&disk, b"3");
        for (percent, left) in [(0, 1), (50, 2), (100, 3)] {
            let after = disk.crash(percent);
            assert_eq!(pairs(&after.live).count(), left);
            assert_eq!(pairs(&after.crash(0).live).count(), left);
        }
        assert_eq!(disk.checksum(), disk.crash(100).checksum());
        assert_ne!(disk.checksum(), disk.crash(50).checksum());
    }
}
