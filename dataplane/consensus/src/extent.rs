//! How many bytes the entries of a journal take, and where to cut to keep so many.

use std::collections::VecDeque;

/// Bytes from one mark to the next: what the answers may be wrong by.
const STEP: u64 = 64 << 10;

/// Bytes of entries, counted from some zero; a mark now and then.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    /// An index, and the bytes before it.
    marks: VecDeque<(u64, u64)>,
    end: u64,
}

impl Extent {
    /// The entry `index` follows.
    pub(crate) fn push(&mut self, index: u64, bytes: u64) {
        if self
            .marks
            .back()
            .is_none_or(|(_, before)| self.end - before >= STEP)
        {
            self.marks.push_back((index, self.end));
        }
        self.end += bytes;
    }

    /// The entries from `first` on are gone.
    pub(crate) fn truncate(&mut self, first: u64) {
        while let Some((_, before)) = self.marks.pop_back_if(|(index, _)| *index >= first) {
            self.end = before;
        }
    }

    /// The entries up to `last` are gone.
    pub(crate) fn cut(&mut self, last: u64) {
        while self
            .marks
            .get(1)
            .is_some_and(|(index, _)| *index <= last + 1)
        {
            self.marks.pop_front();
        }
    }

    /// Bytes of all entries, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.marks
            .front()
            .map_or(0, |(_, before)| self.end - before)
    }

    /// The last index that can be cut off so that entries of at least `bytes` stay.
    pub(crate) fn cut_keeping(&self, bytes: u64) -> u64 {
        let enough = |(_, before): &(u64, u64)| self.end - before >= bytes;
        let keep = self.marks.partition_point(enough);
        keep.checked_sub(1).map_or(0, |mark| self.marks[mark].0 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_known_to_within_a_step() {
        let mut extent = Extent::default();
        assert_eq!((extent.bytes(), extent.cut_keeping(1)), (0, 0));
        for index in 1..=1000 {
            extent.push(index, 1 << 10);
        }
        assert_eq!(extent.bytes(), 1000 << 10);
        let cut = extent.cut_keeping(500 << 10);
        assert!((1000 - 500 - 64..=500).contains(&cut), "{cut}");
        assert_eq!(extent.cut_keeping(2000 << 10), 0);
        extent.cut(cut);
        let left = (1000 - cut) << 10;
        assert!(extent.bytes().abs_diff(left) <= STEP);
        extent.truncate(901);
        assert!(extent.bytes().abs_diff(left - (100 << 10)) <= STEP);
        extent.cut(900);
        assert!(extent.bytes() <= STEP);
    }
}
