//! Where names led when they were last asked for: a memory of edges that is never told of changes.
//! Whoever is told an inode looks whether its own row still says so; each inode has one place.

use forebay_types::{Ino, Name};
use quick_cache::{Equivalent, Weighter, sync::Cache};

/// Counted per name beside its bytes: key, value, the allocation, and the cache's own tables.
const OVERHEAD: usize = 128;

/// A borrowed key; hashes like `(Ino, Name)`.
#[derive(Hash)]
struct Key<'a>(Ino, &'a Name);

impl Equivalent<(Ino, Name)> for Key<'_> {
    fn equivalent(&self, key: &(Ino, Name)) -> bool {
        self.0 == key.0 && *self.1 == key.1
    }
}

#[derive(Clone)]
struct Bytewise;

impl Weighter<(Ino, Name), Ino> for Bytewise {
    fn weight(&self, key: &(Ino, Name), _: &Ino) -> u64 {
        (OVERHEAD + key.1.as_bytes().len()) as u64
    }
}

/// Names in memory, bounded in bytes.
pub(crate) struct Hints {
    inos: Cache<(Ino, Name), Ino, Bytewise>,
}

impl Hints {
    pub(crate) fn new(bytes: u64) -> Hints {
        let items = (bytes / (OVERHEAD as u64 + 16)) as usize;
        Hints {
            inos: Cache::with_weighter(items, bytes, Bytewise),
        }
    }

    /// Where a name led, perhaps long ago.
    pub(crate) fn get(&self, dir: Ino, name: &Name) -> Option<Ino> {
        self.inos.get(&Key(dir, name))
    }

    /// `name` should share its bytes with the inode's row rather than with a request.
    pub(crate) fn put(&self, dir: Ino, name: Name, ino: Ino) {
        self.inos.insert((dir, name), ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes() {
        let hints = Hints::new(100_000);
        for ino in 0..5000 {
            hints.put(Ino(1), Name::new(ino.to_string()).unwrap(), Ino(ino));
        }
        assert!(hints.inos.weight() <= 100_000);
        assert!(hints.inos.len() > 100);
        let last = Name::new("4999").unwrap();
        assert_eq!(hints.get(Ino(1), &last), Some(Ino(4999)));
        assert_eq!(hints.get(Ino(2), &last), None);
    }
}
