//! The metadata cache: entries, attributes, listings and file references under leases, bounded in
//! bytes. No I/O; the caller says what time it is.
//!
//! Every answer is put in with the mark of the moment at which it was asked for, and is kept only if
//! no change since then concerns it: insertion and invalidation exclude each other.

use crate::{
    changes::{Change, Changes},
    namespace::{Leased, Listing},
};
use forebay_types::{Attr, FileRef, Ino, Name};
use parking_lot::Mutex;
use quick_cache::{DefaultHashBuilder, Equivalent, OptionsBuilder, Weighter, sync::Cache};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// Lookups that miss in one directory before the whole directory is fetched.
const MISSES: u32 = 4;
/// Misses further apart than this do not add up.
const MISS_WINDOW: Duration = Duration::from_secs(30);

/// A value and the end of its lease.
#[derive(Clone)]
struct Kept<T> {
    value: T,
    until: Instant,
}

impl<T> Kept<T> {
    fn leased(self, now: Instant) -> Option<Leased<T>> {
        let valid = self
            .until
            .checked_duration_since(now)
            .filter(|d| !d.is_zero())?;
        Some(Leased {
            value: self.value,
            valid,
        })
    }
}

/// A borrowed key of an entry; hashes like `(Ino, Name)`.
#[derive(Hash)]
struct EntryKey<'a>(Ino, &'a Name);

impl Equivalent<(Ino, Name)> for EntryKey<'_> {
    fn equivalent(&self, key: &(Ino, Name)) -> bool {
        self.0 == key.0 && *self.1 == key.1
    }
}

/// Bytes that a cached item takes, with its share of the table.
#[derive(Clone)]
struct Weigh;

const TABLE_ROW: u64 = 64;

impl Weighter<(Ino, Name), Kept<Option<Ino>>> for Weigh {
    fn weight(&self, key: &(Ino, Name), _: &Kept<Option<Ino>>) -> u64 {
        TABLE_ROW + 128 + key.1.as_bytes().len() as u64
    }
}

impl Weighter<Ino, Kept<Attr>> for Weigh {
    fn weight(&self, _: &Ino, _: &Kept<Attr>) -> u64 {
        TABLE_ROW + 96
    }
}

impl Weighter<Ino, Kept<Arc<Listing>>> for Weigh {
    fn weight(&self, _: &Ino, listing: &Kept<Arc<Listing>>) -> u64 {
        TABLE_ROW + listing.value.bytes()
    }
}

impl Weighter<Ino, FileRef> for Weigh {
    fn weight(&self, _: &Ino, file: &FileRef) -> u64 {
        TABLE_ROW + 160 + (file.key.len() + file.fingerprint.etag.len()) as u64
    }
}

fn bounded<K: Eq + std::hash::Hash, V: Clone>(bytes: u64, shards: usize) -> Cache<K, V, Weigh>
where
    Weigh: Weighter<K, V>,
{
    let options = OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity((bytes / 256).clamp(1_024, 131_072) as usize)
        .weight_capacity(bytes)
        .build()
        .expect("both capacities are set");
    Cache::with_options(
        options,
        Weigh,
        DefaultHashBuilder::default(),
        quick_cache::sync::DefaultLifecycle::default(),
    )
}

/// What of so many bytes is for entries, attributes, listings, and file references.
fn parts(bytes: u64) -> [u64; 4] {
    let eighth = bytes / 8;
    [2 * eighth, eighth, 3 * eighth, 2 * eighth]
}

struct Order {
    changes: Changes,
    /// Whether the master tells us of changes: nothing is kept while it does not.
    watched: bool,
}

/// The cache.
pub(crate) struct MetaCache {
    entries: Cache<(Ino, Name), Kept<Option<Ino>>, Weigh>,
    attrs: Cache<Ino, Kept<Attr>, Weigh>,
    listings: Cache<Ino, Kept<Arc<Listing>>, Weigh>,
    files: Cache<Ino, FileRef, Weigh>,
    misses: Cache<Ino, (u32, Instant)>,
    order: Mutex<Order>,
}

impl MetaCache {
    /// An empty cache of at most `bytes`, not yet watched.
    pub(crate) fn new(bytes: u64) -> MetaCache {
        let [entries, attrs, listings, files] = parts(bytes);
        MetaCache {
            entries: bounded(entries, 8),
            attrs: bounded(attrs, 8),
            // One shard: a shard cannot hold an item heavier than itself, and listings are heavy.
            listings: bounded(listings, 1),
            files: bounded(files, 8),
            misses: Cache::new(4_096),
            order: Mutex::new(Order {
                changes: Changes::default(),
                watched: false,
            }),
        }
    }

    /// From now on at most `bytes`: what is too much goes at once.
    pub(crate) fn limit(&self, bytes: u64) {
        let [entries, attrs, listings, files] = parts(bytes);
        self.entries.set_capacity(entries);
        self.attrs.set_capacity(attrs);
        self.listings.set_capacity(listings);
        self.files.set_capacity(files);
    }

    /// The moment at which a question is asked.
    pub(crate) fn mark(&self) -> u64 {
        self.order.lock().changes.mark()
    }

    pub(crate) fn lookup(
        &self,
        parent: Ino,
        name: &Name,
        now: Instant,
    ) -> Option<Leased<Option<Attr>>> {
        if let Some(listing) = self.listing(parent, now) {
            return Some(Leased {
                value: listing.value.find(name),
                valid: listing.valid,
            });
        }
        let entry = self.entries.get(&EntryKey(parent, name))?.leased(now)?;
        let Some(child) = entry.value else {
            return Some(Leased {
                value: None,
                valid: entry.valid,
            });
        };
        let attr = self.attr(child, now)?;
        Some(Leased {
            value: Some(attr.value),
            valid: entry.valid.min(attr.valid),
        })
    }

    pub(crate) fn attr(&self, ino: Ino, now: Instant) -> Option<Leased<Attr>> {
        self.attrs.get(&ino)?.leased(now)
    }

    pub(crate) fn listing(&self, dir: Ino, now: Instant) -> Option<Leased<Arc<Listing>>> {
        self.listings.get(&dir)?.leased(now)
    }

    pub(crate) fn file(&self, ino: Ino) -> Option<FileRef> {
        self.files.get(&ino)
    }

    /// Counts a lookup that missed; true once in a while when the directory should be fetched whole.
    pub(crate) fn missed(&self, parent: Ino, now: Instant) -> bool {
        let (count, until) = match self.misses.get(&parent) {
            Some((count, until)) if now < until => (count + 1, until),
            _ => (1, now + MISS_WINDOW),
        };
        self.misses.insert(parent, (count, until));
        count == MISSES
    }

    /// Keeps the answer to a lookup; returns how long the caller may keep it.
    pub(crate) fn put_lookup(
        &self,
        mark: u64,
        (parent, name): (Ino, &Name),
        attr: Option<Attr>,
        lease: Duration,
        now: Instant,
    ) -> Duration {
        let affects = |change: &Change| match change {
            Change::Entry(p, n) => *p == parent && n == name,
            Change::Inode(ino) => attr.is_some_and(|a| a.ino == *ino),
        };
        self.put(mark, lease, affects, || {
            let until = now + lease;
            if let Some(attr) = attr {
                self.attrs.insert(attr.ino, Kept { value: attr, until });
            }
            let child = attr.map(|a| a.ino);
            self.entries.insert(
                (parent, name.clone()),
                Kept {
                    value: child,
                    until,
                },
            );
        })
    }

    /// Keeps attributes.
    pub(crate) fn put_attr(
        &self,
        mark: u64,
        attr: Attr,
        lease: Duration,
        now: Instant,
    ) -> Duration {
        let affects = |change: &Change| *change == Change::Inode(attr.ino);
        self.put(mark, lease, affects, || {
            self.attrs.insert(
                attr.ino,
                Kept {
                    value: attr,
                    until: now + lease,
                },
            );
        })
    }

    /// Keeps a listing. The one kept before serves on if it says the same, so that those who compare
    /// by identity see no change.
    pub(crate) fn put_listing(
        &self,
        mark: u64,
        listing: Listing,
        lease: Duration,
        now: Instant,
    ) -> Leased<Arc<Listing>> {
        let dir = listing.directory.ino;
        let value = match self.listings.peek(&dir) {
            Some(kept) if *kept.value == listing => kept.value,
            _ => Arc::new(listing),
        };
        let affects = |change: &Change| match change {
            Change::Entry(parent, _) => *parent == dir,
            Change::Inode(ino) => value.holds(*ino),
        };
        let valid = self.put(mark, lease, affects, || {
            self.listings.insert(
                dir,
                Kept {
                    value: value.clone(),
                    until: now + lease,
                },
            );
        });
        Leased { value, valid }
    }

    /// How long a listing that was handed out may still be kept; zero once anything in it changed.
    pub(crate) fn lease_of(&self, listing: &Arc<Listing>, now: Instant) -> Duration {
        let kept = self.listing(listing.directory.ino, now);
        kept.filter(|k| Arc::ptr_eq(&k.value, listing))
            .map_or(Duration::ZERO, |k| k.valid)
    }

    /// Keeps a file reference: no lease, since an inode's content never changes.
    pub(crate) fn put_file(&self, mark: u64, file: &FileRef) {
        let affects = |change: &Change| *change == Change::Inode(file.id.ino);
        self.put(mark, Duration::MAX, affects, || {
            self.files.insert(file.id.ino, file.clone());
        });
    }

    fn put(
        &self,
        mark: u64,
        lease: Duration,
        affects: impl Fn(&Change) -> bool,
        insert: impl FnOnce(),
    ) -> Duration {
        let order = self.order.lock();
        if !order.watched || lease.is_zero() || order.changes.any_since(mark, affects) {
            return Duration::ZERO;
        }
        insert();
        lease
    }

    /// Forgets what changes concern.
    pub(crate) fn invalidate(&self, changes: &[Change]) {
        let mut order = self.order.lock();
        let mut inodes = HashSet::new();
        for change in changes {
            match change {
                Change::Entry(parent, name) => {
                    self.entries.remove(&EntryKey(*parent, name));
                    self.listings.remove(parent);
                }
                Change::Inode(ino) => {
                    self.attrs.remove(ino);
                    self.files.remove(ino);
                    inodes.insert(*ino);
                }
            }
            order.changes.push(change.clone());
        }
        if !inodes.is_empty() {
            self.listings
                .retain(|_, listing| !listing.value.holds_any(&inodes));
        }
    }

    /// Forgets everything, and keeps nothing until [`MetaCache::watched`].
    pub(crate) fn unwatched(&self) {
        let mut order = self.order.lock();
        order.watched = false;
        self.forget(&mut order);
    }

    /// The master tells us of changes from now on.
    pub(crate) fn watched(&self) {
        let mut order = self.order.lock();
        order.watched = true;
        self.forget(&mut order);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self) {
        self.forget(&mut self.order.lock());
    }

    fn forget(&self, order: &mut Order) {
        order.changes.push_all();
        self.entries.clear();
        self.attrs.clear();
        self.listings.clear();
        self.files.clear();
        self.misses.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, FileKind};

    const LEASE: Duration = Duration::from_secs(10);

    fn attr(ino: u64) -> Attr {
        Attr {
            ino: Ino(ino),
            kind: FileKind::File,
            size: 1,
            mtime_ns: 0,
            mode: 0o444,
            uid: 0,
            gid: 0,
            version: ContentVersion(1),
        }
    }

    fn name(text: &'static str) -> Name {
        Name::new(text).unwrap()
    }

    fn cache() -> MetaCache {
        let cache = MetaCache::new(1 << 20);
        cache.watched();
        cache
    }

    fn listing() -> Listing {
        let entries = vec![(name("a"), attr(2)), (name("c"), attr(3))];
        Listing {
            directory: attr(1),
            parent: Ino(1),
            entries,
        }
    }

    #[test]
    fn a_smaller_limit_counts_at_once() {
        let (cache, now) = (cache(), Instant::now());
        let fill = || {
            for ino in 1..20_000 {
                let mark = cache.mark();
                cache.put_attr(mark, attr(ino), LEASE, now);
            }
            cache.attrs.weight()
        };
        let full = fill();
        assert!(full > 100 << 10, "{full}");
        cache.limit(128 << 10);
        assert!(cache.attrs.weight() <= 16 << 10);
        assert!(fill() <= 16 << 10);
        cache.limit(1 << 20);
        assert!(fill() > full / 2);
    }

    #[test]
    fn answers_end_with_their_lease() {
        let (cache, now) = (cache(), Instant::now());
        let kept = cache.put_lookup(
            cache.mark(),
            (Ino(1), &name("a")),
            Some(attr(2)),
            LEASE,
            now,
        );
        assert_eq!(kept, LEASE);
        let hit = cache.lookup(Ino(1), &name("a"), now + LEASE / 2).unwrap();
        assert_eq!((hit.value, hit.valid), (Some(attr(2)), LEASE / 2));
        assert!(cache.lookup(Ino(1), &name("a"), now + LEASE).is_none());
        cache.put_lookup(cache.mark(), (Ino(1), &name("b")), None, LEASE, now);
        assert_eq!(cache.lookup(Ino(1), &name("b"), now).unwrap().value, None);
    }

    #[test]
    fn an_answer_older_than_a_change_is_not_kept() {
        let (cache, now) = (cache(), Instant::now());
        let mark = cache.mark();
        cache.invalidate(&[Change::Entry(Ino(1), name("a")), Change::Inode(Ino(3))]);
        let a = (Ino(1), &name("a"));
        assert_eq!(
            cache.put_lookup(mark, a, Some(attr(2)), LEASE, now),
            Duration::ZERO
        );
        assert!(cache.lookup(Ino(1), &name("a"), now).is_none());
        assert_eq!(
            cache.put_listing(mark, listing(), LEASE, now).valid,
            Duration::ZERO
        );
        assert_eq!(cache.put_attr(mark, attr(3), LEASE, now), Duration::ZERO);
        assert_eq!(cache.put_attr(mark, attr(4), LEASE, now), LEASE);
    }

    #[test]
    fn a_listing_answers_lookups_also_negative_until_one_of_its_names_or_inodes_changes() {
        let (cache, now) = (cache(), Instant::now());
        cache.put_listing(cache.mark(), listing(), LEASE, now);
        let found = |n| {
            cache
                .lookup(Ino(1), &name(n), now)
                .map(|l| l.value.map(|a| a.ino.0))
        };
        assert_eq!(
            (found("a"), found("b"), found("c")),
            (Some(Some(2)), Some(None), Some(Some(3)))
        );
        cache.invalidate(&[Change::Inode(Ino(9))]);
        assert!(cache.listing(Ino(1), now).is_some());
        cache.invalidate(&[Change::Inode(Ino(3))]);
        assert!(cache.listing(Ino(1), now).is_none());
        cache.put_listing(cache.mark(), listing(), LEASE, now);
        cache.invalidate(&[Change::Entry(Ino(1), name("b"))]);
        assert!(cache.listing(Ino(1), now).is_none());
    }

    #[test]
    fn an_unchanged_listing_keeps_its_identity_and_a_changed_one_loses_its_lease() {
        let (cache, now) = (cache(), Instant::now());
        let first = cache.put_listing(cache.mark(), listing(), LEASE, now).value;
        let again = cache
            .put_listing(cache.mark(), listing(), LEASE, now + LEASE)
            .value;
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(cache.lease_of(&first, now + LEASE), LEASE);
        cache.invalidate(&[Change::Entry(Ino(1), name("b"))]);
        assert_eq!(cache.lease_of(&first, now + LEASE), Duration::ZERO);
    }

    #[test]
    fn nothing_is_kept_while_nobody_watches() {
        let (cache, now) = (cache(), Instant::now());
        cache.put_attr(cache.mark(), attr(2), LEASE, now);
        let mark = cache.mark();
        cache.unwatched();
        assert!(cache.attr(Ino(2), now).is_none());
        assert_eq!(
            cache.put_attr(cache.mark(), attr(2), LEASE, now),
            Duration::ZERO
        );
        cache.watched();
        assert_eq!(cache.put_attr(mark, attr(2), LEASE, now), Duration::ZERO);
        assert_eq!(cache.put_attr(cache.mark(), attr(2), LEASE, now), LEASE);
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let (cache, now) = (cache(), Instant::now());
        for ino in 0..100_000 {
            cache.put_attr(cache.mark(), attr(ino), LEASE, now);
            cache.put_lookup(cache.mark(), (Ino(ino), &name("x")), None, LEASE, now);
        }
        assert!(cache.attrs.weight() + cache.entries.weight() <= 1 << 20);
        assert!(cache.attrs.len() > 500);
    }

    #[test]
    fn the_fourth_miss_asks_for_the_whole_directory_once() {
        let (cache, now) = (cache(), Instant::now());
        let asks: Vec<bool> = (0..8).map(|_| cache.missed(Ino(1), now)).collect();
        assert_eq!(
            asks,
            [false, false, false, true, false, false, false, false]
        );
        assert!(!cache.missed(Ino(1), now + MISS_WINDOW));
    }
}
