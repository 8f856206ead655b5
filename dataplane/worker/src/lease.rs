//! The leases that readers on this node hold, by number.

use crate::fill::{Filler, Part};
use forebay_cache::Lease;
use forebay_client::LeaseId;
use forebay_types::{FileId, FileRef};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    fmt,
    num::NonZeroU16,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::mpsc;

/// A lease's number: generation (16 bits), slot (28 bits), shard (4 bits). The socket's clients keep
/// 48 bits.
const SHARD_BITS: u32 = 4;
const SLOT_BITS: u32 = 28;
/// Recalls that wait for one holder; more are dropped and asked for again later.
const MOST_RECALLS: usize = 1024;

/// A file that a reader has open.
pub(crate) struct Held {
    lease: Lease,
    file_ref: Arc<FileRef>,
    owner: u64,
    part: OnceLock<Part>,
}

impl Held {
    pub(crate) fn new(lease: Lease, file_ref: FileRef, owner: u64) -> Held {
        Held {
            lease,
            file_ref: Arc::new(file_ref),
            owner,
            part: OnceLock::new(),
        }
    }

    /// The part in the file's filling; taken at the first need, which a whole file never has.
    pub(crate) fn part(&self, filler: &Arc<Filler>) -> &Part {
        self.part
            .get_or_init(|| filler.join(self.lease.file(), &self.file_ref))
    }
}

/// All leases of this worker.
pub(crate) struct Leases {
    shards: Box<[Mutex<Shard>]>,
    next_shard: AtomicUsize,
    next_owner: AtomicU64,
    owners: Mutex<Vec<(u64, mpsc::Sender<LeaseId>)>>,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("held", &self.count())
            .finish()
    }
}

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    /// Never 0, so that no lease has the number 0, which the socket's messages cannot tell from none.
    generation: NonZeroU16,
    held: Option<Arc<Held>>,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot {
            generation: NonZeroU16::MIN,
            held: None,
        }
    }
}

impl Leases {
    pub(crate) fn new() -> Leases {
        Leases {
            shards: (0..1 << SHARD_BITS).map(|_| Mutex::default()).collect(),
            next_shard: AtomicUsize::new(0),
            next_owner: AtomicU64::new(1),
            owners: Mutex::default(),
        }
    }

    /// A new holder of leases, and what will be recalled from it.
    pub(crate) fn add_owner(&self) -> (u64, mpsc::Receiver<LeaseId>) {
        let owner = self.next_owner.fetch_add(1, Ordering::Relaxed);
        let (recall, recalls) = mpsc::channel(MOST_RECALLS);
        self.owners.lock().push((owner, recall));
        (owner, recalls)
    }

    /// The holder is gone, and all its leases with it.
    pub(crate) fn remove_owner(&self, owner: u64) {
        self.owners.lock().retain(|(o, _)| *o != owner);
        for index in 0..self.shards.len() {
            let mut gone = Vec::new();
            let mut shard = self.shards[index].lock();
            for slot in 0..shard.slots.len() {
                if shard.slots[slot]
                    .held
                    .as_ref()
                    .is_some_and(|h| h.owner == owner)
                {
                    gone.extend(shard.vacate(slot as u32));
                }
            }
            // Dropped after the lock: the store takes its own.
            drop(shard);
        }
    }

    pub(crate) fn insert(&self, held: Held) -> LeaseId {
        let index = self.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let mut shard = self.shards[index].lock();
        let slot = shard.free.pop().unwrap_or_else(|| {
            shard.slots.push(Slot::default());
            shard.slots.len() as u32 - 1
        });
        let entry = &mut shard.slots[slot as usize];
        entry.held = Some(Arc::new(held));
        pack(entry.generation.get(), slot, index)
    }

    /// The lease, if `owner` holds it.
    pub(crate) fn get(&self, owner: u64, lease: LeaseId) -> Option<Arc<Held>> {
        let (generation, slot, index) = unpack(lease);
        let shard = self.shards.get(index)?.lock();
        let entry = shard
            .slots
            .get(slot as usize)
            .filter(|s| s.generation.get() == generation)?;
        entry.held.clone().filter(|h| h.owner == owner)
    }

    /// Takes the lease back, if `owner` holds it.
    pub(crate) fn remove(&self, owner: u64, lease: LeaseId) -> Option<Arc<Held>> {
        let (generation, slot, index) = unpack(lease);
        let mut shard = self.shards.get(index)?.lock();
        let entry = shard
            .slots
            .get(slot as usize)
            .filter(|s| s.generation.get() == generation)?;
        entry.held.as_ref().filter(|h| h.owner == owner)?;
        shard.vacate(slot)
    }

    /// Asks the holders of `files` to let go of them.
    pub(crate) fn recall(&self, files: &[FileId]) {
        if files.is_empty() {
            return;
        }
        let files: HashSet<FileId> = files.iter().copied().collect();
        let owners = self.owners.lock().clone();
        for (index, shard) in self.shards.iter().enumerate() {
            let shard = shard.lock();
            for (slot, entry) in shard.slots.iter().enumerate() {
                let Some(held) = entry
                    .held
                    .as_ref()
                    .filter(|h| files.contains(&h.file_ref.id))
                else {
                    continue;
                };
                if let Some((_, recall)) = owners.iter().find(|(o, _)| *o == held.owner) {
                    // A holder that does not keep up is asked again at the next round.
                    let _ = recall.try_send(pack(entry.generation.get(), slot as u32, index));
                }
            }
        }
    }

    /// Leases held.
    pub(crate) fn count(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.lock())
            .map(|s| s.slots.len() - s.free.len())
            .sum()
    }
}

impl Shard {
    fn vacate(&mut self, slot: u32) -> Option<Arc<Held>> {
        let entry = &mut self.slots[slot as usize];
        let held = entry.held.take()?;
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU16::MIN);
        self.free.push(slot);
        Some(held)
    }
}

fn pack(generation: u16, slot: u32, shard: usize) -> LeaseId {
    LeaseId(
        u64::from(generation) << (SHARD_BITS + SLOT_BITS)
            | u64::from(slot) << SHARD_BITS
            | shard as u64,
    )
}

fn unpack(lease: LeaseId) -> (u16, u32, usize) {
    let generation = lease.0 >> (SHARD_BITS + SLOT_BITS);
    let slot = lease.0 >> SHARD_BITS & ((1 << SLOT_BITS) - 1);
    // A generation of more than 16 bits was never given out.
    let shard = if generation > u64::from(u16::MAX) {
        usize::MAX
    } else {
        (lease.0 & 15) as usize
    };
    (generation as u16, slot as u32, shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_fit_48_bits() {
        for (generation, slot, shard) in
            [(0, 0, 0), (u16::MAX, (1 << SLOT_BITS) - 1, 15), (7, 9, 3)]
        {
            let lease = pack(generation, slot, shard);
            assert_eq!(unpack(lease), (generation, slot, shard));
            assert!(lease.0 < 1 << 48);
        }
        assert_eq!(unpack(LeaseId(u64::MAX)).2, usize::MAX);
    }
}
