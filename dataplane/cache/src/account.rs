//! What the tiers hold of each mount, and which of that has its first home on this worker.
//!
//! The homes of a file follow from the topology, which the store knows nothing of: a [`HomeRule`] tells.
//! What it said is kept with each file, an extent a bit, so that pages are counted out as they were
//! counted in.

use crate::{CachedFile, Store, page::PageSet};
use forebay_types::{
    FileId, MountId, PageIndex,
    page::{EXTENT_SIZE, PAGE_SIZE},
};
use parking_lot::RwLock;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Whether the extent of a file that begins at an offset has its first home here.
pub type HomeRule = Arc<dyn Fn(FileId, u64) -> bool + Send + Sync>;

/// Extents of a file that are told apart; the last one of these stands for all after it.
const EXTENTS: u64 = u32::BITS as u64;
const EXTENT_PAGES: u64 = EXTENT_SIZE / PAGE_SIZE;

/// Bytes of a mount in the tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountBytes {
    /// Of present pages.
    pub cached: u64,
    /// Those of them in extents that have their first home here.
    pub home: u64,
}

/// The extents of a file that have their first home here, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Homes(pub(crate) u32);

impl Homes {
    /// By asking of each extent of a file of `size` bytes.
    pub(crate) fn of(size: u64, mut is_home: impl FnMut(u64) -> bool) -> Homes {
        let extents = size.div_ceil(EXTENT_SIZE).clamp(1, EXTENTS);
        let bits = (0..extents).map(|extent| u32::from(is_home(extent * EXTENT_SIZE)) << extent);
        Homes(bits.sum())
    }

    /// Whether the extent at an offset is one.
    pub(crate) fn has(self, offset: u64) -> bool {
        self.0 >> (offset / EXTENT_SIZE).min(EXTENTS - 1) & 1 == 1
    }

    fn has_page(self, page: PageIndex) -> bool {
        self.has(u64::from(page) * PAGE_SIZE)
    }

    /// Bytes of the present pages that lie in these extents, of a file of `size` bytes.
    fn bytes(self, pages: &PageSet, size: u64) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        if u64::from(pages.pages()) <= EXTENT_PAGES || self == Homes::of(size, |_| true) {
            return pages.bytes(size);
        }
        let ours = pages.iter().filter(|page| self.has_page(*page));
        ours.map(|page| forebay_types::page::page_len(size, page))
            .sum()
    }
}

/// The accounts of all mounts.
#[derive(Default)]
pub(crate) struct Accounts(RwLock<BTreeMap<MountId, Account>>);

#[derive(Default)]
struct Account {
    cached: AtomicU64,
    home: AtomicU64,
}

impl Accounts {
    /// A page of a file arrived.
    pub(crate) fn page_came(&self, file: &CachedFile, page: PageIndex, bytes: u64) {
        let home = if file.homes().has_page(page) {
            bytes
        } else {
            0
        };
        self.with(file.mount(), |account| {
            account.cached.fetch_add(bytes, Relaxed);
            account.home.fetch_add(home, Relaxed);
        });
    }

    /// A page of a file left.
    pub(crate) fn page_left(&self, file: &CachedFile, page: PageIndex, bytes: u64) {
        let home = if file.homes().has_page(page) {
            bytes
        } else {
            0
        };
        self.left(file.mount(), bytes, home);
    }

    /// All pages that a file had left, `bytes` together.
    pub(crate) fn pages_left(&self, file: &CachedFile, pages: &PageSet, bytes: u64) {
        let home = file.homes().bytes(pages, file.size());
        self.left(file.mount(), bytes, home);
    }

    /// A file with these pages has other homes than before.
    fn judged(&self, file: &CachedFile, pages: &PageSet, before: Homes, now: Homes) {
        let [before, now] = [before, now].map(|homes| homes.bytes(pages, file.size()));
        if now != before {
            self.with(file.mount(), |account| {
                account.home.fetch_add(now.wrapping_sub(before), Relaxed);
            });
        }
    }

    fn left(&self, mount: MountId, bytes: u64, home: u64) {
        self.with(mount, |account| {
            account.cached.fetch_sub(bytes, Relaxed);
            account.home.fetch_sub(home, Relaxed);
        });
    }

    fn with(&self, mount: MountId, change: impl Fn(&Account)) {
        if let Some(account) = self.0.read().get(&mount) {
            return change(account);
        }
        change(self.0.write().entry(mount).or_default());
    }

    /// Forgets mounts other than these, unless they still hold something.
    pub(crate) fn retain(&self, mounts: &[MountId]) {
        let empty = |account: &Account| account.cached.load(Relaxed) == 0;
        let mut accounts = self.0.write();
        accounts.retain(|mount, account| mounts.contains(mount) || !empty(account));
    }
}

impl Store {
    /// What the tiers hold of each mount of which they ever held something.
    pub fn mounts(&self) -> BTreeMap<MountId, MountBytes> {
        let accounts = self.accounts.0.read();
        let bytes = |account: &Account| MountBytes {
            cached: account.cached.load(Relaxed),
            home: account.home.load(Relaxed),
        };
        let rows = accounts.iter();
        rows.map(|(mount, account)| (*mount, bytes(account)))
            .collect()
    }

    /// From now on `rule` tells which extents have their first home here. Of those of files that are here
    /// already, `change` tells by what was known before (nothing, at first, has); it must come to the
    /// same as the rule. Looks at every file: to be called in the background, by one at a time.
    pub fn set_homes(&self, rule: HomeRule, change: impl Fn(FileId, u64, bool) -> bool) {
        // Who makes a file holds the lock until it is in its map, so nothing judged by the rule before
        // comes after what follows.
        *self.homes.write() = rule;
        for file in self.files() {
            let mut before = file.homes();
            loop {
                let id = file.id();
                let now = Homes::of(file.size(), |at| change(id, at, before.has(at)));
                if now == before {
                    break;
                }
                let state = file.state.lock();
                if file.homes() == before {
                    file.set_homes(now);
                    self.accounts.judged(&file, &state.pages, before, now);
                    break;
                }
                before = file.homes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_told_apart_and_the_last_one_stands_for_the_rest() {
        let (gib, size) = (EXTENT_SIZE, 3 * EXTENT_SIZE + 5);
        let odd = Homes::of(size, |at| at / gib % 2 == 1);
        assert_eq!(odd, Homes(0b1010));
        assert!(odd.has(gib) && odd.has(2 * gib - 1) && !odd.has(2 * gib) && odd.has(3 * gib));
        assert_eq!(Homes::of(0, |_| true), Homes(1));
        let huge = Homes::of(100 * gib, |at| at == 31 * gib);
        assert!(huge.has(31 * gib) && huge.has(99 * gib) && !huge.has(30 * gib));

        let mut pages = PageSet::new(3 * EXTENT_PAGES as u32 + 1);
        for page in [0, 1023, 1024, 1030, 2048, 3072] {
            pages.insert(page, true);
        }
        assert_eq!(odd.bytes(&pages, size), 2 * PAGE_SIZE + 5);
        assert_eq!(Homes(0b1111).bytes(&pages, size), pages.bytes(size));
        assert_eq!(Homes(0).bytes(&pages, size), 0);
    }
}
