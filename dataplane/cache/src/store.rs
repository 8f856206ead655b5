//! The store: executes what the policies decide, on the devices and the index.
//!
//! Locks, outermost first: maintenance; the rule of homes; the policy of a tier; a shard of the map; the state of a
//! file. None is held while another thread is waited for, and only a file's own is held over disk calls.

use crate::{
    CachedFile, Counters, Error, Lease, PageWriter, StoreConfig, TierStatus,
    account::{Accounts, HomeRule, Homes},
    admission::{self, Room},
    file::Remains,
    index::Index,
    map::{self, FileMap},
    policy,
    signal::Signal,
    status::Tally,
    tier::{PROMOTE_USES, Watermarks},
    volume::Volume,
};
use forebay_kv::{Batch, Kv};
use forebay_types::{FileId, MountId, PAGE_SIZE, PageIndex};
use parking_lot::{Mutex, RwLock};
use std::{collections::VecDeque, sync::Arc};

const SHARDS: usize = 16;

/// Most candidates for promotion that wait for maintenance.
const HOT_MOST: usize = 1024;

/// Files without pages that are kept before maintenance drops the oldest.
pub(crate) const HOLLOW_KEPT: usize = 4096;

/// Files whose rows are deleted with one write.
const BURIAL: usize = 64;

/// The page store of a worker.
pub struct Store {
    index: Index,
    /// Fastest first.
    pub(crate) volumes: Vec<Arc<Volume>>,
    pub(crate) marks: Watermarks,
    shards: Vec<Mutex<FileMap<Arc<CachedFile>>>>,
    /// One round of maintenance at a time.
    pub(crate) maintenance: Mutex<()>,
    /// Files that had no pages when they came.
    pub(crate) hollow: Mutex<VecDeque<FileId>>,
    /// Files on slower tiers that were used often.
    pub(crate) hot: Mutex<VecDeque<FileId>>,
    /// Freed files whose last lease has ended.
    pub(crate) graveyard: Mutex<Vec<Arc<CachedFile>>>,
    /// What the tiers hold of each mount.
    pub(crate) accounts: Arc<Accounts>,
    /// Tells which extents have their first home here.
    pub(crate) homes: RwLock<HomeRule>,
    pub(crate) signal: Arc<Signal>,
    pub(crate) tally: Tally,
}

impl Store {
    /// Opens the tiers and loads the index. What lies on a tier without a row, or has a row without
    /// a file, is dropped. Pages found count as unverified until their checksum was compared.
    pub fn open(config: StoreConfig, index: Arc<dyn Kv>) -> Result<Arc<Store>, Error> {
        config.check()?;
        let marks = Watermarks {
            high: config.high_watermark,
            low: config.low_watermark,
        };
        let signal = Arc::new(Signal::default());
        let accounts = Arc::new(Accounts::default());
        let mut tiers = config.tiers;
        tiers.sort_by_key(|tier| tier.medium);
        let volumes = tiers
            .iter()
            .map(|tier| {
                let order = policy::new(config.policy);
                let (accounts, signal) = (Arc::clone(&accounts), Arc::clone(&signal));
                Volume::open(tier, order, marks, accounts, signal).map(Arc::new)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let store = Store {
            index: Index::new(index),
            volumes,
            marks,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            maintenance: Mutex::new(()),
            hollow: Mutex::default(),
            hot: Mutex::default(),
            graveyard: Mutex::default(),
            accounts,
            homes: RwLock::new(Arc::new(|_, _| false)),
            signal,
            tally: Tally::default(),
        };
        store.load()?;
        Ok(Arc::new(store))
    }

    /// The file, if any page of it is or was here and its tier serves. Counts as a use for the policy.
    pub fn get(&self, id: FileId) -> Option<Arc<CachedFile>> {
        let file = self.find(id)?;
        let volume = {
            let mut state = file.state.lock();
            if !state.serves() {
                return None;
            }
            state.uses = state.uses.wrapping_add(1);
            let is_hot = state.uses % PROMOTE_USES == 0;
            if is_hot && state.volume.medium != self.volumes[0].medium {
                let mut hot = self.hot.lock();
                if hot.len() < HOT_MOST {
                    hot.push_back(id);
                    self.signal.raise();
                }
            }
            Arc::clone(&state.volume)
        };
        volume.policy.lock().touch(id);
        Some(file)
    }

    /// The file, made empty on the tier that admission chooses if it is not here.
    pub fn get_or_create(
        &self,
        id: FileId,
        mount: MountId,
        size: u64,
    ) -> Result<Arc<CachedFile>, Error> {
        if let Some(file) = self.get(id) {
            if file.size() == size {
                return Ok(file);
            }
            tracing::error!(file = %id, cached = file.size(), size, "cached file has another size, dropped");
            self.free(id);
            return Err(Error::Busy(id));
        }
        if let Some(old) = self.find(id) {
            // Being dropped, or on a tier that is out of service. There it is given up: the tier's
            // directory is compared with the index when it comes back.
            let remains = {
                let mut state = old.state.lock();
                if state.dead || state.busy {
                    return Err(Error::Busy(id));
                }
                state.die(&old)
            };
            self.bury(remains.as_slice());
        }
        let chosen = admission::choose(&self.rooms(), size).ok_or(Error::NoSpace(size))?;
        let file = Arc::new(CachedFile::new(
            id,
            mount,
            size,
            Arc::clone(&self.volumes[chosen]),
        ));
        let rule = self.homes.read();
        file.set_homes(Homes::of(size, |offset| rule(id, offset)));
        let stored = Arc::clone(
            self.shard(id)
                .lock()
                .entry(id)
                .or_insert_with(|| Arc::clone(&file)),
        );
        drop(rule);
        if Arc::ptr_eq(&stored, &file) {
            self.note_hollow(id);
        }
        Ok(stored)
    }

    /// A lease on a file that is here.
    pub fn lease(self: &Arc<Self>, file: &Arc<CachedFile>) -> Lease {
        Lease::new(Arc::clone(self), Arc::clone(file))
    }

    /// A writer for the missing pages from `first` on. Fails with `NoSpace` when the tier cannot
    /// take `bytes` more now (maintenance is then asked to make room), and with `Busy` while the file
    /// is being dropped or moved.
    pub fn writer(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        first: PageIndex,
        bytes: u64,
    ) -> Result<PageWriter, Error> {
        let (id, size) = (file.id(), file.size());
        let bytes = bytes.min(size.saturating_sub(u64::from(first) * PAGE_SIZE));
        let (volume, disk) = {
            let mut state = file.state.lock();
            state.check(id)?;
            if state.busy {
                return Err(Error::Busy(id));
            }
            if !state.volume.reserve(bytes) {
                state.volume.want(bytes);
                if state.created {
                    return Err(Error::NoSpace(bytes));
                }
                let elsewhere = self.elsewhere(&state.volume, bytes);
                state.volume = elsewhere.ok_or(Error::NoSpace(bytes))?;
            }
            let volume = Arc::clone(&state.volume);
            let disk = if state.created {
                let opened = volume.device().open_write(id);
                opened.map_err(|error| volume.fail_open(id, error))
            } else {
                state.create(id, size)
            };
            let disk = disk.inspect_err(|_| volume.unreserve(bytes))?;
            // The writer's own lease; taken under this lock so that no eviction comes between.
            state.leases += 1;
            state.writers += 1;
            (volume, disk)
        };
        let lease = Lease::adopt(Arc::clone(self), Arc::clone(file));
        Ok(PageWriter::new(
            Arc::clone(self),
            volume,
            lease,
            disk,
            first,
            bytes,
        ))
    }

    /// Drops a file (after its last lease, if leased). Returns the bytes it held.
    pub fn free(&self, id: FileId) -> u64 {
        let Some(file) = self.find(id) else { return 0 };
        let remains = {
            let mut state = file.state.lock();
            if state.leases > 0 || state.busy {
                state.doomed = true;
                return state.pages.bytes(file.size());
            }
            state.die(&file)
        };
        let bytes = remains.as_ref().map_or(0, |remains| remains.bytes);
        self.bury(remains.as_slice());
        bytes
    }

    /// Drops all files of mounts other than these.
    pub fn retain_mounts(&self, mounts: &[MountId]) {
        for file in self.files() {
            if !mounts.contains(&file.mount()) {
                self.free(file.id());
            }
        }
        self.accounts.retain(mounts);
    }

    /// Pinned files are never evicted. Survives a restart.
    pub fn set_pinned(&self, id: FileId, pinned: bool) -> Result<(), Error> {
        let file = self.find(id).ok_or(Error::Unknown(id))?;
        let (volume, weight) = {
            let mut state = file.state.lock();
            state.check(id)?;
            let mut batch = Batch::default();
            if pinned {
                // A file without pages keeps its pin too: its place is fixed and recorded now.
                if !state.created {
                    state.create(id, file.size())?;
                }
                if !state.recorded {
                    Index::put_file(&mut batch, id, file.row(&state.volume));
                }
                Index::put_pin(&mut batch, id);
            } else {
                Index::delete_pin(&mut batch, id);
            }
            self.index.write(&batch)?;
            state.recorded |= pinned;
            state.pinned = pinned;
            (Arc::clone(&state.volume), state.pages.bytes(file.size()))
        };
        let mut order = volume.policy.lock();
        if pinned {
            order.remove(id);
        } else if weight > 0 {
            order.weigh(id, weight);
        } else {
            drop(order);
            self.note_hollow(id);
        }
        Ok(())
    }

    /// Whether [`Store::maintain`] has work. A flag: costs nothing to ask.
    pub fn needs_maintenance(&self) -> bool {
        self.signal.is_raised()
    }

    /// Calls `wake` whenever [`Store::needs_maintenance`] becomes true. The call may come from any thread, under
    /// locks of the store: it must do no more than wake somebody. Only the first connection counts.
    pub fn on_pressure(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.signal.connect(Box::new(wake));
    }

    /// The tiers, fastest first.
    pub fn tiers(&self) -> Vec<TierStatus> {
        self.volumes.iter().map(|volume| volume.status()).collect()
    }

    /// Every file of the store, in no order: for reports.
    pub fn files(&self) -> Vec<Arc<CachedFile>> {
        let mut files = Vec::new();
        for shard in &self.shards {
            files.extend(shard.lock().values().map(Arc::clone));
        }
        files
    }

    /// Counters.
    pub fn counters(&self) -> Counters {
        self.tally.read()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    fn shard(&self, id: FileId) -> &Mutex<FileMap<Arc<CachedFile>>> {
        // Bits that the tables inside do not use.
        &self.shards[(map::hash(id) >> 40) as usize % SHARDS]
    }

    pub(crate) fn find(&self, id: FileId) -> Option<Arc<CachedFile>> {
        self.shard(id).lock().get(&id).map(Arc::clone)
    }

    pub(crate) fn insert(&self, file: Arc<CachedFile>) {
        self.shard(file.id()).lock().insert(file.id(), file);
    }

    /// Notes a file without pages: such files are not in the policies.
    pub(crate) fn note_hollow(&self, id: FileId) {
        let mut hollow = self.hollow.lock();
        hollow.push_back(id);
        if hollow.len() > HOLLOW_KEPT {
            self.signal.raise();
        }
    }

    fn rooms(&self) -> Vec<Room> {
        self.volumes.iter().map(|volume| volume.room()).collect()
    }

    /// Another tier for a new file, with `bytes` reserved.
    fn elsewhere(&self, from: &Arc<Volume>, bytes: u64) -> Option<Arc<Volume>> {
        let from = self
            .volumes
            .iter()
            .position(|volume| Arc::ptr_eq(volume, from))
            .expect("every file lies on a tier of the store");
        let to = &self.volumes[admission::elsewhere(&self.rooms(), from, bytes)?];
        to.reserve(bytes).then(|| Arc::clone(to))
    }

    /// Gives a lease back.
    pub(crate) fn release(&self, file: &Arc<CachedFile>) {
        let mut state = file.state.lock();
        state.leases -= 1;
        if state.leases > 0 {
            return;
        }
        if state.disk.strong_count() == 0 {
            // A weak reference keeps the allocation.
            state.disk = std::sync::Weak::new();
        }
        if state.doomed && !state.dead {
            drop(state);
            self.graveyard.lock().push(Arc::clone(file));
            self.signal.raise();
        }
    }

    /// Clears away what dead files left: rows, then bytes, then the names in the maps. In this order, so
    /// that a file made anew under the same key finds nothing of the old one.
    pub(crate) fn bury(&self, dead: &[Remains]) {
        for group in dead.chunks(BURIAL) {
            let mut batch = Batch::default();
            for remains in group.iter().filter(|remains| remains.recorded) {
                let id = remains.file.id();
                Index::delete_file(&mut batch, id, &remains.pages, remains.pinned);
            }
            if let Err(error) = self.index.write(&batch) {
                // The rows outlive their files: the next open drops them.
                tracing::warn!(%error, "rows of dropped files remain in the page index");
            }
            for remains in group {
                let id = remains.file.id();
                if remains.created
                    && !remains.volume.is_faulty()
                    && let Err(error) = remains.volume.device().unlink(id)
                {
                    remains.volume.fail(error, 0);
                }
                remains.volume.policy.lock().remove(id);
                let mut shard = self.shard(id).lock();
                if shard
                    .get(&id)
                    .is_some_and(|file| Arc::ptr_eq(file, &remains.file))
                {
                    shard.remove(&id);
                }
            }
        }
    }
}
