//! Pages: the unit of I/O, presence and eviction.

use std::ops::Range;

/// Bytes of a page; the last page of a file may be shorter.
pub const PAGE_SIZE: u64 = 1 << 20;

/// Bytes of an extent: the unit of striping of very large files (pages of one extent share their
/// homes).
pub const EXTENT_SIZE: u64 = 1 << 30;

/// The number of a page within its file.
pub type PageIndex = u32;

/// Pages that a file of `size` bytes has. An empty file has none.
pub fn page_count(size: u64) -> u32 {
    size.div_ceil(PAGE_SIZE) as u32
}

/// Bytes that `page` holds in a file of `size` bytes.
pub fn page_len(size: u64, page: PageIndex) -> u64 {
    let start = u64::from(page) * PAGE_SIZE;
    size.saturating_sub(start).min(PAGE_SIZE)
}

/// The pages that the bytes `range` touch, cut at the end of a file of `size` bytes.
pub fn pages_of(range: Range<u64>, size: u64) -> Range<PageIndex> {
    let end = range.end.min(size);
    if range.start >= end {
        return 0..0;
    }
    (range.start / PAGE_SIZE) as u32..end.div_ceil(PAGE_SIZE) as u32
}

/// The bytes that `pages` hold in a file of `size` bytes.
pub fn bytes_of(pages: Range<PageIndex>, size: u64) -> Range<u64> {
    (u64::from(pages.start) * PAGE_SIZE).min(size)..(u64::from(pages.end) * PAGE_SIZE).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_bytes_agree() {
        assert_eq!(page_count(0), 0);
        assert_eq!(page_count(1), 1);
        assert_eq!(page_count(PAGE_SIZE), 1);
        assert_eq!(page_count(PAGE_SIZE + 1), 2);
        assert_eq!(page_len(PAGE_SIZE + 7, 1), 7);
        assert_eq!(page_len(PAGE_SIZE + 7, 2), 0);
        assert_eq!(pages_of(0..1, 10), 0..1);
        assert_eq!(pages_of(10..20, 10), 0..0);
        assert_eq!(pages_of(PAGE_SIZE - 1..PAGE_SIZE + 1, 3 * PAGE_SIZE), 0..2);
        assert_eq!(bytes_of(1..2, PAGE_SIZE + 7), PAGE_SIZE..PAGE_SIZE + 7);
    }
}
