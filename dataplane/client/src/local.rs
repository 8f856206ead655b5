//! The worker of the same node: control here, data through file descriptors.

use crate::Result;
use async_trait::async_trait;
use bytes::Bytes;
use forebay_types::FileRef;
use std::{fs::File, ops::Range, sync::Arc};
use tokio::sync::mpsc;

/// A lease on a cached file, given by the node's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// A cached file of this node.
#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Keeps the file from eviction until given back with [`LocalWorker::release`].
    pub lease: LeaseId,
    /// The sparse file, for reading at the file's own offsets.
    pub file: Arc<File>,
    /// Every page is present and verified: the descriptor may be passed through to the kernel.
    pub whole: bool,
}

/// Where the bytes of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// In the descriptor.
    Present,
    /// The cache cannot take them now: use [`LocalWorker::read`].
    NotCached,
}

/// The worker of this node: in the same process, or behind its Unix socket.
///
/// Futures are ready at the first poll whenever nothing has to be waited for, so that a caller may
/// poll once on its own thread before it hands them to a runtime.
#[async_trait]
pub trait LocalWorker: Send + Sync + 'static {
    /// A lease and a descriptor for the file, made (empty) if the worker has nothing of it.
    /// `NoSpace` or `Unavailable`: the cache cannot take the file; use [`LocalWorker::read`].
    async fn open(&self, file: &FileRef) -> Result<LocalFile>;

    /// Waits until the bytes of `range` are in the descriptor. `Stale`: the under store has another
    /// content now (the master has been told).
    async fn ensure(&self, lease: LeaseId, range: Range<u64>) -> Result<Ensured>;

    /// Reads bytes without the cache: from another worker or the under store.
    async fn read(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes>;

    /// Gives a lease back. Never blocks.
    fn release(&self, lease: LeaseId);

    /// Leases that the worker would like back if their file is not open. Can be taken once.
    fn take_recalls(&self) -> Option<mpsc::Receiver<LeaseId>>;
}
