//! Which pages of a file are present.

use crate::page::PageIndex;
use std::ops::Range;

/// A set of pages of one file, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    pages: u32,
    set: u32,
}

impl PageBitmap {
    /// An empty set for a file of `pages` pages.
    pub fn new(pages: u32) -> PageBitmap {
        PageBitmap {
            words: vec![0; (pages as usize).div_ceil(64)],
            pages,
            set: 0,
        }
    }

    /// Pages of the file.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Pages in the set.
    pub fn count(&self) -> u32 {
        self.set
    }

    /// Whether every page of the file is in the set (true of an empty file).
    pub fn is_full(&self) -> bool {
        self.set == self.pages
    }

    /// Whether `page` is in the set; false beyond the end.
    pub fn contains(&self, page: PageIndex) -> bool {
        page < self.pages && self.words[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// Adds `page`; returns whether it was absent. Pages beyond the end are ignored.
    pub fn insert(&mut self, page: PageIndex) -> bool {
        if page >= self.pages || self.contains(page) {
            return false;
        }
        self.words[page as usize / 64] |= 1 << (page % 64);
        self.set += 1;
        true
    }

    /// Removes `page`; returns whether it was present.
    pub fn remove(&mut self, page: PageIndex) -> bool {
        if !self.contains(page) {
            return false;
        }
        self.words[page as usize / 64] &= !(1 << (page % 64));
        self.set -= 1;
        true
    }

    /// The first page of `range` that is absent.
    pub fn first_missing(&self, range: Range<PageIndex>) -> Option<PageIndex> {
        (range.start..range.end.min(self.pages)).find(|p| !self.contains(*p))
    }

    /// The runs of absent pages within `range`, in order.
    pub fn missing(&self, range: Range<PageIndex>) -> Vec<Range<PageIndex>> {
        let mut runs: Vec<Range<PageIndex>> = Vec::new();
        for page in range.start..range.end.min(self.pages) {
            if self.contains(page) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == page => run.end = page + 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    /// The pages of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        (0..self.pages).filter(|p| self.contains(*p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_runs_of_missing_pages() {
        let mut map = PageBitmap::new(130);
        assert!(map.insert(0) && map.insert(64) && map.insert(129));
        assert!(!map.insert(64) && !map.insert(130));
        assert_eq!(map.missing(0..130), vec![1..64, 65..129]);
        assert_eq!(map.missing(60..66), vec![60..64, 65..66]);
        assert_eq!(map.first_missing(64..65), None);
        assert_eq!(map.iter().collect::<Vec<_>>(), vec![0, 64, 129]);
        assert!(map.remove(64) && !map.remove(64));
        assert_eq!(map.count(), 2);
    }

    #[test]
    fn an_empty_file_is_full() {
        assert!(PageBitmap::new(0).is_full());
        assert!(!PageBitmap::new(1).is_full());
    }
}
