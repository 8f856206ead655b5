//! How often files of each mount were opened.

use forebay_types::MountId;
use parking_lot::RwLock;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Opens by mount since the worker started; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Opens(Arc<RwLock<BTreeMap<MountId, Counts>>>);

#[derive(Debug, Default)]
struct Counts {
    all: AtomicU64,
    whole: AtomicU64,
}

impl Opens {
    /// A file was opened; `whole` if nothing had to be fetched.
    pub(crate) fn count(&self, mount: MountId, whole: bool) {
        let add = |counts: &Counts| {
            counts.all.fetch_add(1, Relaxed);
            counts.whole.fetch_add(u64::from(whole), Relaxed);
        };
        if let Some(counts) = self.0.read().get(&mount) {
            return add(counts);
        }
        add(self.0.write().entry(mount).or_default());
    }

    /// All opens, and those of whole files, of each mount.
    pub(crate) fn read(&self) -> BTreeMap<MountId, (u64, u64)> {
        let counts = self.0.read();
        let pair = |counts: &Counts| {
            let whole = counts.whole.load(Relaxed);
            (counts.all.load(Relaxed).max(whole), whole)
        };
        let rows = counts.iter();
        rows.map(|(mount, counts)| (*mount, pair(counts))).collect()
    }

    /// Forgets mounts other than these.
    pub(crate) fn retain(&self, mounts: &[MountId]) {
        self.0.write().retain(|mount, _| mounts.contains(mount));
    }
}
