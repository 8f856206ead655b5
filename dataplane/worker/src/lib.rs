//! The worker: owns the cache devices of a node, fills them from other workers and under stores,
//! and hands descriptors to the node's FUSE host.

use forebay_client::local::LocalWorker;
use forebay_service::Shutdown;
use forebay_types::Address;
use std::sync::Arc;

pub mod config;

/// A running worker.
pub struct Worker {}

impl Worker {
    /// Opens the store, registers with the master, and serves gRPC and the local socket. Returns
    /// when it is ready.
    pub async fn start(
        _config: config::WorkerConfig,
        _registry: &mut prometheus_client::registry::Registry,
        _shutdown: &Shutdown,
    ) -> anyhow::Result<Worker> {
        todo!()
    }

    /// The worker for a FUSE host in the same process.
    pub fn local(&self) -> Arc<dyn LocalWorker> {
        todo!()
    }

    /// Where it serves (the port is the real one).
    pub fn address(&self) -> &Address {
        todo!()
    }
}
