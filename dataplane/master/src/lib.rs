//! The master: owns the namespace, keeps it in step with the under stores, knows the workers, and
//! plans the jobs.

use forebay_service::Shutdown;
use forebay_types::Address;

pub mod config;

/// A running master.
pub struct Master {}

impl Master {
    /// Opens the data directory, starts the journal, mounts what the configuration says (each under store is
    /// probed first), and serves. Returns when it is ready.
    pub async fn start(
        _config: config::MasterConfig,
        _registry: &mut prometheus_client::registry::Registry,
        _shutdown: &Shutdown,
    ) -> anyhow::Result<Master> {
        todo!()
    }

    /// Where it serves (the port is the real one).
    pub fn address(&self) -> &Address {
        todo!()
    }

    /// Stops the journal after the services have stopped (`Shutdown::finish` first).
    pub async fn close(self) {
        todo!()
    }
}
