//! Which bytes to fetch before they are asked for. Pure.
//!
//! Streams are found by offset, not by handle: a model loader maps one file from several processes
//! and reads it at several distant places at once. A stream begins with nothing ahead, so that a
//! random read costs its own pages and no more; its window opens once it has gone on for a while,
//! doubles as it is read, and is bounded. A jump begins a new stream. (The doubling window follows
//! the kernel's own read-ahead: Fengguang Wu et al., "On the design of a new Linux readahead
//! framework", ACM SIGOPS Operating Systems Review 42(5), 2008.)

use forebay_types::PAGE_SIZE;
use std::ops::Range;

/// Most bytes ahead of a stream.
pub const MAX_WINDOW: u64 = 64 << 20;
/// Most bytes of one request to a source.
pub const MAX_PIECE: u64 = 8 << 20;
/// Files up to this size are fetched whole, in one request, when they are read from their beginning.
pub const SMALL_FILE: u64 = MAX_PIECE;

/// Streams remembered per file; the least recently used gives way.
const STREAMS: usize = 16;
/// How far an access may lie from where a stream is, and still be of it: the kernel hands out the
/// pieces of its own read-ahead to several threads, which arrive in any order.
const SLACK: u64 = 2 << 20;
/// Bytes to be read in order before anything is fetched ahead.
const PROOF: u64 = 128 << 10;

/// What to fetch besides the bytes of the access itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Bytes to fetch ahead now; empty: none.
    pub ahead: Range<u64>,
    /// Requests are cut at multiples of this many bytes.
    pub piece: u64,
}

/// The streams of one file.
#[derive(Debug, Default)]
pub struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

#[derive(Debug)]
struct Stream {
    /// Where the next access is expected.
    next: u64,
    /// Bytes before this have been advised.
    advised: u64,
    /// Bytes to be kept ahead of `next`.
    window: u64,
    /// Bytes read in order since the window grew.
    credit: u64,
    used: u64,
}

impl Streams {
    /// Takes note of a read of the bytes `range` (not empty) of a file of `size` bytes.
    pub fn access(&mut self, range: Range<u64>, size: u64) -> Advice {
        if range.start == 0 && size <= SMALL_FILE {
            return Advice {
                ahead: range.end..size,
                piece: MAX_PIECE,
            };
        }
        self.clock += 1;
        let index = self.find(range.start).unwrap_or_else(|| self.begin(&range));
        let stream = &mut self.streams[index];
        stream.used = self.clock;
        stream.follow(&range);
        stream.advise(size)
    }

    /// The stream whose expected offset is nearest, if near enough.
    fn find(&self, offset: u64) -> Option<usize> {
        let distances = self
            .streams
            .iter()
            .map(|s| s.next.abs_diff(offset))
            .enumerate();
        distances
            .min_by_key(|(_, d)| *d)
            .filter(|(_, d)| *d <= SLACK)
            .map(|(i, _)| i)
    }

    fn begin(&mut self, range: &Range<u64>) -> usize {
        let stream = Stream {
            next: range.start,
            advised: 0,
            window: 0,
            credit: 0,
            used: 0,
        };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
            return self.streams.len() - 1;
        }
        let oldest = self.streams.iter().enumerate().min_by_key(|(_, s)| s.used);
        let index = oldest.map_or(0, |(i, _)| i);
        self.streams[index] = stream;
        index
    }
}

impl Stream {
    fn follow(&mut self, range: &Range<u64>) {
        // The first access of a stream proves nothing, unless it is the beginning of the file.
        let first = self.advised == 0;
        if range.end > self.next {
            if !first || range.start == 0 {
                self.credit += range.end - range.start.max(self.next);
            }
            self.next = range.end;
        }
        self.advised = self.advised.max(self.next.next_multiple_of(PAGE_SIZE));
        while self.window < MAX_WINDOW {
            let price = if self.window == 0 {
                PROOF
            } else {
                (self.window / 4).max(PAGE_SIZE)
            };
            if self.credit < price {
                break;
            }
            self.credit -= price;
            self.window = (self.window * 2).max(PAGE_SIZE);
        }
    }

    fn advise(&mut self, size: u64) -> Advice {
        let piece = (self.window / 4).clamp(PAGE_SIZE, MAX_PIECE);
        let mut target = self.next + self.window;
        // Whole pieces only, so that a request goes out once a piece and not once a read.
        target = if target >= size {
            size
        } else {
            target - target % piece
        };
        let ahead = self.advised.min(target)..target;
        self.advised = self.advised.max(target);
        Advice { ahead, piece }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn random_small_reads_fetch_nothing_ahead() {
        let mut streams = Streams::default();
        let mut offset = 12345u64;
        let mut ahead = 0;
        for _ in 0..10_000 {
            offset = offset
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (offset >> 20) % (GIB / 4096) * 4096;
            let advice = streams.access(at..at + 4096, GIB);
            ahead += advice.ahead.end - advice.ahead.start;
        }
        assert!(ahead < 10_000 * 4096 / 8, "{ahead} bytes ahead");
        assert!(streams.streams.len() <= STREAMS);
    }

    #[test]
    fn a_sequential_reader_has_its_window_ahead_and_every_byte_is_advised_once() {
        let mut streams = Streams::default();
        let mut advised = Vec::new();
        for at in (0..GIB).step_by(MIB as usize) {
            let advice = streams.access(at..at + MIB, GIB);
            if !advice.ahead.is_empty() {
                advised.push(advice.ahead.clone());
            }
            if at > 32 * MIB && at < GIB - 2 * MAX_WINDOW {
                let end = advised.last().unwrap().end;
                assert!(
                    end >= at + MAX_WINDOW - MAX_PIECE,
                    "at {at}: only up to {end}"
                );
                assert!(end <= at + MIB + MAX_WINDOW, "at {at}: up to {end}");
                assert_eq!(advice.piece, MAX_PIECE);
            }
        }
        for pair in advised.windows(2) {
            assert!(pair[0].end <= pair[1].start);
        }
        assert_eq!(advised.last().unwrap().end, GIB);
    }

    #[test]
    fn a_jump_begins_small_again_and_the_old_stream_goes_on() {
        let mut streams = Streams::default();
        for at in (0..64 * MIB).step_by(MIB as usize) {
            streams.access(at..at + MIB, GIB);
        }
        let jump = streams.access(700 * MIB..700 * MIB + 4096, GIB);
        assert!(jump.ahead.is_empty());
        assert_eq!(streams.streams[0].window, MAX_WINDOW);
        streams.access(64 * MIB..72 * MIB, GIB);
        assert_eq!(streams.streams.len(), 2);
        assert_eq!(streams.streams[0].next, 72 * MIB);
    }

    #[test]
    fn two_interleaved_streams_of_one_file_both_grow() {
        let mut streams = Streams::default();
        for step in 0..64 {
            for base in [0, 512 * MIB] {
                let at = base + step * MIB;
                streams.access(at..at + MIB, GIB);
            }
        }
        assert_eq!(streams.streams.len(), 2);
        assert!(streams.streams.iter().all(|s| s.window == MAX_WINDOW));
    }

    #[test]
    fn pieces_of_kernel_read_ahead_out_of_order_are_one_stream() {
        let mut streams = Streams::default();
        for base in (0..128 * MIB).step_by(MIB as usize) {
            for part in [1, 0, 3, 2] {
                let at = base + part * MIB / 4;
                streams.access(at..at + MIB / 4, GIB);
            }
        }
        assert_eq!(streams.streams.len(), 1);
        assert_eq!(streams.streams[0].window, MAX_WINDOW);
    }

    #[test]
    fn a_small_file_is_fetched_whole_only_from_its_beginning() {
        let mut streams = Streams::default();
        let advice = streams.access(0..4096, 5 * MIB);
        assert_eq!(
            advice,
            Advice {
                ahead: 4096..5 * MIB,
                piece: MAX_PIECE
            }
        );
        let mut streams = Streams::default();
        assert!(
            streams
                .access(3 * MIB..3 * MIB + 4096, 5 * MIB)
                .ahead
                .is_empty()
        );
    }
}
