//! A tier as the store runs it: its directory, its accounts, its eviction order, its health.

use crate::{
    Error, TierConfig, TierStatus,
    account::Accounts,
    admission::Room,
    device::{self, Blame, Device},
    policy::Policy,
    signal::Signal,
    tier::{Load, Watermarks},
};
use forebay_types::{FileId, Medium};
use parking_lot::{Mutex, RwLock};
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

/// Part of the disk's free space that is left alone: file systems need some for themselves.
const SPARE: u64 = 64;

/// A tier.
pub(crate) struct Volume {
    pub(crate) medium: Medium,
    pub(crate) dir: PathBuf,
    quota: u64,
    marks: Watermarks,
    /// Replaced when the tier comes back after a fault.
    device: RwLock<Arc<Device>>,
    /// Bytes of present pages.
    used: AtomicU64,
    /// Bytes promised to writers.
    reserved: AtomicU64,
    /// Files with pages.
    files: AtomicU64,
    /// Quota, or less while the disk has less.
    limit: AtomicU64,
    /// The largest request that found no room since the last maintenance.
    wanted: AtomicU64,
    faulty: AtomicBool,
    fault: Mutex<Option<String>>,
    /// Files that were found missing; maintenance clears up.
    lost: Mutex<Vec<FileId>>,
    pub(crate) policy: Mutex<Box<dyn Policy>>,
    /// Of all tiers together.
    pub(crate) accounts: Arc<Accounts>,
    signal: Arc<Signal>,
}

impl Volume {
    pub(crate) fn open(
        config: &TierConfig,
        policy: Box<dyn Policy>,
        marks: Watermarks,
        accounts: Arc<Accounts>,
        signal: Arc<Signal>,
    ) -> Result<Volume, Error> {
        let fail = |source: io::Error| Error::Device {
            dir: config.dir.clone(),
            source,
        };
        let device = match Device::open(&config.dir) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Config(format!(
                    "tier {} is in use by another process: give each worker its own directory",
                    config.dir.display()
                )));
            }
            other => other.map_err(fail)?,
        };
        let (total, _) = device.space().map_err(fail)?;
        if config.quota > total {
            return Err(Error::Config(format!(
                "tier {} is to hold {} bytes, but its file system has only {total}: give it a smaller size",
                config.dir.display(),
                config.quota
            )));
        }
        Ok(Volume {
            medium: config.medium,
            dir: config.dir.clone(),
            quota: config.quota,
            marks,
            device: RwLock::new(Arc::new(device)),
            used: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            files: AtomicU64::new(0),
            limit: AtomicU64::new(config.quota),
            wanted: AtomicU64::new(0),
            faulty: AtomicBool::new(false),
            fault: Mutex::new(None),
            lost: Mutex::new(Vec::new()),
            policy: Mutex::new(policy),
            accounts,
            signal,
        })
    }

    pub(crate) fn device(&self) -> Arc<Device> {
        Arc::clone(&self.device.read())
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.faulty.load(Acquire)
    }

    /// Takes the tier out of service until maintenance finds that it works.
    pub(crate) fn mark_faulty(&self, error: &io::Error) {
        let mut fault = self.fault.lock();
        if fault.is_none() {
            tracing::error!(tier = %self.dir.display(), %error, "cache tier failed, taken out of service");
        }
        *fault = Some(error.to_string());
        self.faulty.store(true, Release);
        self.signal.raise();
    }

    /// Puts the tier back into service with a new device.
    pub(crate) fn mark_sound(&self) {
        *self.fault.lock() = None;
        self.faulty.store(false, Release);
        tracing::info!(tier = %self.dir.display(), "cache tier works again");
    }

    pub(crate) fn replace_device(&self, device: Device) {
        *self.device.write() = Arc::new(device);
    }

    /// The error as callers see it, with its consequences: a full disk lowers what is admitted, a
    /// broken tier goes out of service.
    pub(crate) fn fail(&self, source: io::Error, bytes: u64) -> Error {
        match device::blame(&source) {
            Blame::Full => {
                let taken = self.taken();
                self.limit.fetch_min(taken.saturating_sub(bytes), AcqRel);
                self.want(bytes);
                return Error::NoSpace(bytes);
            }
            Blame::Process => {}
            Blame::Missing | Blame::Tier => self.mark_faulty(&source),
        }
        Error::Device {
            dir: self.dir.clone(),
            source,
        }
    }

    /// The error of a file that could not be opened: if only the file is gone, it is noted as
    /// lost, and the tier stays in service.
    pub(crate) fn fail_open(&self, id: FileId, source: io::Error) -> Error {
        if device::blame(&source) == Blame::Missing && self.device().is_in_place() {
            tracing::warn!(tier = %self.dir.display(), file = %id, "cached file vanished");
            self.lost.lock().push(id);
            self.signal.raise();
            return Error::Device {
                dir: self.dir.clone(),
                source,
            };
        }
        self.fail(source, 0)
    }

    pub(crate) fn take_lost(&self) -> Vec<FileId> {
        std::mem::take(&mut self.lost.lock())
    }

    /// Bytes held and promised.
    fn taken(&self) -> u64 {
        self.used.load(Relaxed) + self.reserved.load(Relaxed)
    }

    /// Promises bytes to a writer; false if there is no room now.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Relaxed);
        let granted = self
            .reserved
            .fetch_update(AcqRel, Acquire, |reserved| {
                // A page counts as used before its promise is taken back: reading in the other
                // order could miss it.
                let after = reserved.checked_add(bytes)?;
                let used = self.used.load(Acquire);
                (used.checked_add(after)? <= limit).then_some(after)
            })
            .is_ok();
        if granted && self.marks.is_high(self.load()) {
            self.signal.raise();
        }
        granted
    }

    /// Asks maintenance to make room for a request that found none.
    pub(crate) fn want(&self, bytes: u64) {
        self.wanted.fetch_max(bytes, AcqRel);
        self.signal.raise();
    }

    pub(crate) fn take_wanted(&self) -> u64 {
        self.wanted.swap(0, AcqRel)
    }

    /// Takes back a promise.
    pub(crate) fn unreserve(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, AcqRel);
    }

    /// A page arrived; `first` of its file.
    pub(crate) fn page_came(&self, bytes: u64, first: bool) {
        self.used.fetch_add(bytes, AcqRel);
        if first {
            self.files.fetch_add(1, AcqRel);
        }
    }

    /// Pages left; `last` of their file.
    pub(crate) fn pages_left(&self, bytes: u64, last: bool) {
        self.used.fetch_sub(bytes, AcqRel);
        if last {
            self.files.fetch_sub(1, AcqRel);
        }
    }

    /// Compares what may be held with what the disk can take.
    pub(crate) fn refresh_limit(&self) {
        match self.device().space() {
            Ok((_, available)) => {
                let can = self.used.load(Relaxed) + (available - available / SPARE);
                self.limit.store(self.quota.min(can), Release);
            }
            Err(error) => self.mark_faulty(&error),
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            medium: self.medium,
            limit: self.limit.load(Relaxed),
            taken: self.taken(),
            healthy: !self.is_faulty(),
        }
    }

    pub(crate) fn room(&self) -> Room {
        let load = self.load();
        Room {
            medium: load.medium,
            limit: load.limit,
            free: load.limit.saturating_sub(load.taken),
            healthy: load.healthy,
        }
    }

    pub(crate) fn status(&self) -> TierStatus {
        TierStatus {
            medium: self.medium,
            dir: self.dir.clone(),
            quota: self.quota,
            used: self.used.load(Relaxed),
            files: self.files.load(Relaxed),
            fault: self.fault.lock().clone(),
        }
    }
}
