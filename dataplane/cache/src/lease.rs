//! Leases on cached files.

use crate::{CachedFile, Store};
use std::sync::Arc;

/// Keeps a file from being moved, evicted or freed (free waits for the last lease). Dropping it
/// gives the lease back; that never waits for a disk.
///
/// A lease on a file that was dropped before keeps nothing: all its pages count as missing, and
/// it takes no writer.
pub struct Lease {
    store: Arc<Store>,
    file: Arc<CachedFile>,
}

impl Lease {
    pub(crate) fn new(store: Arc<Store>, file: Arc<CachedFile>) -> Lease {
        file.state.lock().leases += 1;
        Lease { store, file }
    }

    /// A lease that was counted already.
    pub(crate) fn adopt(store: Arc<Store>, file: Arc<CachedFile>) -> Lease {
        Lease { store, file }
    }

    /// The file.
    pub fn file(&self) -> &Arc<CachedFile> {
        &self.file
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.release(&self.file);
    }
}
