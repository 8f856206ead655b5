//! Maps keyed by file, without a random seed: equal histories make equal maps.

use forebay_types::FileId;
use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hasher},
};

/// A hash map keyed by file.
pub(crate) type FileMap<V> = HashMap<FileId, V, BuildHasherDefault<IdHasher>>;

/// The hash of a file's key.
pub(crate) fn hash(id: FileId) -> u64 {
    BuildHasherDefault::<IdHasher>::default().hash_one(id)
}

/// Multiplicative hashing (Knuth, TAOCP 6.4). Keys are given out by the masters' counters, so nobody
/// can choose colliding ones; SipHash would cost more than the rest of a look-up.
#[derive(Clone, Copy, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The product's low bits depend on the word's low bits only; the table uses both ends.
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, Ino};
    use std::collections::HashSet;

    #[test]
    fn neighbours_do_not_collide() {
        let mut seen = HashSet::new();
        let mut low = HashSet::new();
        for ino in 0..1000 {
            for version in 0..10 {
                let id = FileId {
                    ino: Ino(ino),
                    version: ContentVersion(version),
                };
                assert!(seen.insert(hash(id)));
                low.insert(hash(id) & 0x3fff);
            }
        }
        // 10,000 keys over 16,384 buckets: about 7,500 would be hit by chance.
        assert!(low.len() > 6500, "{}", low.len());
    }
}
