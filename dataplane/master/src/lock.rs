//! A lock for each directory, made when needed.

use forebay_types::Ino;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::sync::RwLock;

/// Locks by inode. A listing writes a directory, a comparison of one name reads it: what is older
/// than a listing must not overwrite what the listing found.
#[derive(Default)]
pub(crate) struct Locks {
    held: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    locks: HashMap<Ino, Weak<RwLock<()>>>,
    /// Size after which abandoned locks are swept out.
    sweep_at: usize,
}

impl Locks {
    /// The lock of `ino`; hold the `Arc` for as long as the guard.
    pub(crate) fn of(&self, ino: Ino) -> Arc<RwLock<()>> {
        let mut table = self.held.lock();
        if let Some(lock) = table.locks.get(&ino).and_then(Weak::upgrade) {
            return lock;
        }
        if table.locks.len() > table.sweep_at {
            table.locks.retain(|_, lock| lock.strong_count() > 0);
            table.sweep_at = (table.locks.len() * 2).max(64);
        }
        let lock = Arc::new(RwLock::new(()));
        table.locks.insert(ino, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lock_an_inode_and_abandoned_ones_go() {
        let locks = Locks::default();
        let first = locks.of(Ino(1));
        assert!(Arc::ptr_eq(&first, &locks.of(Ino(1))));
        for ino in 2..10_000 {
            locks.of(Ino(ino));
        }
        assert!(Arc::ptr_eq(&first, &locks.of(Ino(1))));
        assert!(locks.held.lock().locks.len() < 200);
    }
}
