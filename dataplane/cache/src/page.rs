//! Which pages of a file are present, and which of those are proven right.

use forebay_types::{PAGE_SIZE, PageBitmap, PageIndex, page};
use std::ops::Range;

/// The present pages of a file, and the verified ones among them. Files of up to 64 pages need no
/// memory beyond the value itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageSet {
    /// Up to 64 pages.
    Small {
        present: u64,
        verified: u64,
        pages: u8,
    },
    /// More.
    Large(Box<LargeSet>),
}

/// Two bitmaps; `verified` is a subset of `present`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LargeSet {
    present: PageBitmap,
    verified: PageBitmap,
}

fn bit(page: PageIndex) -> u64 {
    1 << page
}

/// The bits of a range within a word.
fn bits(range: &Range<PageIndex>) -> u64 {
    let upto = |n: PageIndex| if n >= 64 { u64::MAX } else { bit(n) - 1 };
    upto(range.end) & !upto(range.start)
}

impl PageSet {
    pub(crate) fn new(pages: u32) -> PageSet {
        if pages <= 64 {
            PageSet::Small {
                present: 0,
                verified: 0,
                pages: pages as u8,
            }
        } else {
            PageSet::Large(Box::new(LargeSet {
                present: PageBitmap::new(pages),
                verified: PageBitmap::new(pages),
            }))
        }
    }

    /// Pages of the file.
    pub(crate) fn pages(&self) -> u32 {
        match self {
            PageSet::Small { pages, .. } => u32::from(*pages),
            PageSet::Large(set) => set.present.pages(),
        }
    }

    /// Present pages.
    pub(crate) fn count(&self) -> u32 {
        match self {
            PageSet::Small { present, .. } => present.count_ones(),
            PageSet::Large(set) => set.present.count(),
        }
    }

    /// Whether every page is present.
    pub(crate) fn is_full(&self) -> bool {
        self.count() == self.pages()
    }

    /// Whether every present page is verified.
    pub(crate) fn is_verified(&self) -> bool {
        match self {
            PageSet::Small {
                present, verified, ..
            } => present == verified,
            PageSet::Large(set) => set.present.count() == set.verified.count(),
        }
    }

    /// Bytes of the present pages in a file of `size` bytes.
    pub(crate) fn bytes(&self, size: u64) -> u64 {
        let full = u64::from(self.count()) * PAGE_SIZE;
        match self.pages().checked_sub(1) {
            Some(last) if self.contains(last) => full - (PAGE_SIZE - page::page_len(size, last)),
            _ => full,
        }
    }

    pub(crate) fn contains(&self, page: PageIndex) -> bool {
        match self {
            PageSet::Small { present, .. } => page < 64 && present & bit(page) != 0,
            PageSet::Large(set) => set.present.contains(page),
        }
    }

    /// Whether the page is present but not verified.
    pub(crate) fn is_unverified(&self, page: PageIndex) -> bool {
        match self {
            PageSet::Small {
                present, verified, ..
            } => page < 64 && present & !verified & bit(page) != 0,
            PageSet::Large(set) => set.present.contains(page) && !set.verified.contains(page),
        }
    }

    /// Adds a page; returns whether it was absent.
    pub(crate) fn insert(&mut self, page: PageIndex, verified: bool) -> bool {
        if page >= self.pages() {
            return false;
        }
        let absent = match self {
            PageSet::Small { present, .. } => {
                let absent = *present & bit(page) == 0;
                *present |= bit(page);
                absent
            }
            PageSet::Large(set) => set.present.insert(page),
        };
        if verified {
            self.mark_verified(page);
        }
        absent
    }

    /// Removes a page; returns whether it was present.
    pub(crate) fn remove(&mut self, page: PageIndex) -> bool {
        match self {
            PageSet::Small {
                present, verified, ..
            } => {
                let was = page < 64 && *present & bit(page) != 0;
                if was {
                    *present &= !bit(page);
                    *verified &= !bit(page);
                }
                was
            }
            PageSet::Large(set) => {
                set.verified.remove(page);
                set.present.remove(page)
            }
        }
    }

    /// Notes that a page was proven right; nothing if it is absent.
    pub(crate) fn mark_verified(&mut self, page: PageIndex) {
        if !self.contains(page) {
            return;
        }
        match self {
            PageSet::Small { verified, .. } => *verified |= bit(page),
            PageSet::Large(set) => {
                set.verified.insert(page);
            }
        }
    }

    /// Forgets what was proven.
    pub(crate) fn forget_verified(&mut self) {
        match self {
            PageSet::Small { verified, .. } => *verified = 0,
            PageSet::Large(set) => set.verified = PageBitmap::new(set.present.pages()),
        }
    }

    /// The runs of absent pages within a range, cut at the end of the file.
    pub(crate) fn missing(&self, range: Range<PageIndex>) -> Vec<Range<PageIndex>> {
        let range = range.start..range.end.min(self.pages());
        match self {
            PageSet::Small { present, .. } => {
                let mut left = if range.start < range.end {
                    bits(&range) & !present
                } else {
                    0
                };
                let mut runs = Vec::new();
                while left != 0 {
                    let start = left.trailing_zeros();
                    let end = start + (left >> start).trailing_ones();
                    runs.push(start..end);
                    left &= !bits(&(start..end));
                }
                runs
            }
            PageSet::Large(set) if set.present.is_full() => Vec::new(),
            PageSet::Large(set) => set.present.missing(range),
        }
    }

    /// The present pages of a range that were not verified, in order.
    pub(crate) fn unverified(&self, range: Range<PageIndex>) -> Vec<PageIndex> {
        if self.is_verified() {
            return Vec::new();
        }
        (range.start..range.end.min(self.pages()))
            .filter(|page| self.is_unverified(*page))
            .collect()
    }

    /// The present pages, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = PageIndex> + '_ {
        (0..self.pages()).filter(|page| self.contains(*page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_small_set_needs_no_heap() {
        assert!(size_of::<PageSet>() <= 24);
        assert!(matches!(PageSet::new(64), PageSet::Small { .. }));
        assert!(matches!(PageSet::new(65), PageSet::Large(_)));
    }

    #[test]
    fn the_last_page_counts_with_its_own_length() {
        let mut set = PageSet::new(2);
        set.insert(1, false);
        assert_eq!(set.bytes(PAGE_SIZE + 7), 7);
        set.insert(0, false);
        assert_eq!(set.bytes(PAGE_SIZE + 7), PAGE_SIZE + 7);
        assert_eq!(set.bytes(2 * PAGE_SIZE), 2 * PAGE_SIZE);
        assert_eq!(PageSet::new(0).bytes(0), 0);
        assert!(PageSet::new(0).is_full());
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_set(
            pages in prop_oneof![0u32..8, 60u32..70, 120u32..140],
            ops in prop::collection::vec((0u8..5, 0u32..140), 0..60),
            from in 0u32..140, to in 0u32..140,
        ) {
            let mut set = PageSet::new(pages);
            let mut model: BTreeMap<u32, bool> = BTreeMap::new();
            for (op, page) in ops {
                match op {
                    0 | 1 => {
                        let absent = page < pages && !model.contains_key(&page);
                        prop_assert_eq!(set.insert(page, op == 1), absent);
                        if page < pages {
                            let proven = model.entry(page).or_insert(false);
                            *proven |= op == 1;
                        }
                    }
                    2 => prop_assert_eq!(set.remove(page), model.remove(&page).is_some()),
                    3 => {
                        set.mark_verified(page);
                        if let Some(proven) = model.get_mut(&page) { *proven = true; }
                    }
                    _ => {
                        if page == 0 {
                            set.forget_verified();
                            for proven in model.values_mut() { *proven = false; }
                        }
                    }
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert_eq!(set.is_verified(), model.values().all(|proven| *proven));
            let missing: Vec<u32> = set.missing(from..to).into_iter().flatten().collect();
            let expected: Vec<u32> = (from..to.min(pages)).filter(|p| !model.contains_key(p)).collect();
            prop_assert_eq!(missing, expected);
            let unverified = (from..to).filter(|p| model.get(p) == Some(&false)).collect::<Vec<_>>();
            prop_assert_eq!(set.unverified(from..to), unverified);
        }
    }
}
