//! The bytes of an object.

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use std::{
    fs::File,
    io,
    sync::{Arc, LazyLock},
};

/// Length of the block that synthetic objects repeat. Odd on purpose: a page that lands at
/// the wrong offset of a file has the wrong bytes.
const BLOCK: usize = (8 << 20) + 4_099;

static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
    // xorshift64*, by Vigna: incompressible and the same on every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK + 8);
    while block.len() < BLOCK {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        block.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    block.truncate(BLOCK);
    block.into()
});

/// The bytes of an object; cheap to clone, and never changed by later writes to its key.
#[derive(Clone, Debug)]
pub enum Content {
    /// `size` bytes of an endless repetition of `block`, beginning at `start` within it.
    Memory {
        /// What is repeated; the object itself if it is as long.
        block: Bytes,
        /// Where in the block the object begins.
        start: usize,
        /// Bytes of content.
        size: u64,
    },
    /// An open file.
    File {
        /// It.
        file: Arc<File>,
        /// Bytes of content when it was opened.
        size: u64,
    },
}

/// An object of any size that takes no memory: `size` bytes of noise that `seed` chooses.
pub fn synthetic(seed: u64, size: u64) -> Content {
    let start = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) as usize % BLOCK;
    Content::Memory {
        block: NOISE.clone(),
        start,
        size,
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        let size = bytes.len() as u64;
        Content::Memory {
            block: bytes,
            start: 0,
            size,
        }
    }
}

impl Content {
    /// Bytes of content.
    pub fn size(&self) -> u64 {
        match self {
            Content::Memory { size, .. } | Content::File { size, .. } => *size,
        }
    }

    /// Some bytes at `offset`, at most `most` and at least one unless `offset` is the end.
    /// Without a copy from memory; blocks on the disk for a file.
    pub fn piece(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let most = most.min(usize::try_from(self.size().saturating_sub(offset)).unwrap_or(most));
        match self {
            _ if most == 0 => Ok(Bytes::new()),
            Content::Memory { block, start, .. } => {
                let from = ((*start as u64 + offset) % block.len() as u64) as usize;
                Ok(block.slice(from..block.len().min(from + most)))
            }
            Content::File { file, .. } => {
                let mut buffer = Vec::with_capacity(most);
                match rustix::io::pread(file, spare_capacity(&mut buffer), offset)? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(buffer.into()),
                }
            }
        }
    }

    /// The bytes of `range` in one piece, for comparison in tests.
    pub fn bytes(&self, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        let mut offset = range.start;
        while offset < range.end {
            let piece = self.piece(offset, (range.end - offset) as usize)?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            out.extend_from_slice(&piece);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_a_synthetic_object_is_a_slice_of_the_whole() {
        let content = synthetic(7, 3 * BLOCK as u64 + 5);
        let whole = content.bytes(0..content.size()).unwrap();
        assert_eq!(whole.len() as u64, content.size());
        for range in [
            0..1,
            BLOCK as u64 - 9..BLOCK as u64 + 9,
            12_345..9_000_000,
            content.size() - 3..content.size(),
        ] {
            let expected = &whole[range.start as usize..range.end as usize];
            assert_eq!(content.bytes(range).unwrap(), expected);
        }
        assert_ne!(whole[..64], whole[1 << 20..][..64]);
        assert_ne!(
            synthetic(8, 64).bytes(0..64).unwrap(),
            whole[..64],
            "another seed, other bytes"
        );
    }
}
