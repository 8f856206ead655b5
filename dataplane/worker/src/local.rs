//! The door for readers in the same process, and the one that every other door for this node uses.

use crate::engine::Engine;
use async_trait::async_trait;
use bytes::Bytes;
use forebay_client::{Ensured, LeaseId, LocalFile, LocalWorker, Result};
use forebay_types::FileRef;
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc};
use tokio::sync::mpsc;

/// One holder of leases: a FUSE host in this process, or a connection. When it is dropped, all its
/// leases are given back.
#[derive(Debug)]
pub struct Local {
    engine: Arc<Engine>,
    owner: u64,
    recalls: Mutex<Option<mpsc::Receiver<LeaseId>>>,
}

impl Local {
    /// A holder without leases.
    pub fn new(engine: Arc<Engine>) -> Local {
        let (owner, recalls) = engine.leases.add_owner();
        Local {
            engine,
            owner,
            recalls: Mutex::new(Some(recalls)),
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.engine.leases.remove_owner(self.owner);
    }
}

#[async_trait]
impl LocalWorker for Local {
    async fn open(&self, file: &FileRef) -> Result<LocalFile> {
        self.engine.open(self.owner, file).await
    }

    async fn ensure(&self, lease: LeaseId, range: Range<u64>) -> Result<Ensured> {
        self.engine.ensure(self.owner, lease, range).await
    }

    async fn read(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes> {
        self.engine.read(file, range).await
    }

    fn release(&self, lease: LeaseId) {
        drop(self.engine.leases.remove(self.owner, lease));
    }

    fn take_recalls(&self) -> Option<mpsc::Receiver<LeaseId>> {
        self.recalls.lock().take()
    }
}
