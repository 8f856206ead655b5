//! Read-ahead: finds the sequential streams in the reads of one file, by offset and not by handle,
//! and says how far ahead of each to fetch. Pure.

use std::ops::Range;

/// Streams followed in one file; several processes may read it at distant offsets.
const STREAMS: usize = 4;
/// A read so close to the end of a stream belongs to it: the kernel sends reads out of order.
const SLACK: u64 = 2 << 20;
/// The first window of a stream that has shown to be sequential.
const FIRST: u64 = 1 << 20;
/// The largest window.
const LARGEST: u64 = 32 << 20;

#[derive(Debug, PartialEq, Eq)]
struct Stream {
    next: u64,
    window: u64,
    used: u64,
}

/// The streams of one file.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

impl Streams {
    /// Notes a read of `range`; returns how many bytes after it should be on their way: 0 while the
    /// read looks random.
    pub(crate) fn observe(&mut self, range: &Range<u64>) -> u64 {
        self.clock += 1;
        let near = |s: &&mut Stream| s.next.abs_diff(range.start) <= SLACK;
        if let Some(stream) = self.streams.iter_mut().find(near) {
            stream.used = self.clock;
            if range.end > stream.next {
                stream.next = range.end;
                stream.window = (stream.window * 2).clamp(FIRST, LARGEST);
            }
            return stream.window;
        }
        let stream = Stream {
            next: range.end,
            window: 0,
            used: self.clock,
        };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
            *oldest = stream;
        }
        0
    }

    /// Whether some stream has still to come by the bytes of `range`, or has only just.
    pub(crate) fn wants(&self, range: &Range<u64>) -> bool {
        self.streams.iter().any(|s| {
            range.end + SLACK > s.next && range.start < s.next.saturating_add(s.window + SLACK)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_stream_is_fetched_ever_further_ahead() {
        let mut streams = Streams::default();
        let ahead: Vec<u64> = (0..8)
            .map(|i| streams.observe(&(i * MIB..(i + 1) * MIB)) / MIB)
            .collect();
        assert_eq!(ahead, [0, 1, 2, 4, 8, 16, 32, 32]);
        assert!(streams.wants(&(20 * MIB..21 * MIB)));
        assert!(!streams.wants(&(0..MIB)));
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut streams = Streams::default();
        for i in 0..100 {
            let at = (i * 7919 % 101) * 64 * MIB;
            assert_eq!(streams.observe(&(at..at + 4096)), 0);
        }
    }

    #[test]
    fn distant_streams_of_one_file_do_not_disturb_each_other() {
        let mut streams = Streams::default();
        let mut last = [0; 3];
        for i in 0..6 {
            for (n, ahead) in last.iter_mut().enumerate() {
                let at = n as u64 * (1 << 30) + i * MIB;
                *ahead = streams.observe(&(at..at + MIB));
            }
        }
        assert_eq!(last, [16 * MIB; 3]);
    }
}
