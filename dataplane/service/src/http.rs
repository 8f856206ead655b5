//! `/metrics`, `/healthz`, `/readyz`.

use crate::{Shutdown, config::ConfigError};
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, sync::Arc};

/// Answers why the process is not ready to serve; `None` when it is.
pub type Readiness = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Serves until shutdown; returns the address bound (port 0 picks one).
pub async fn serve(
    _listen: SocketAddr,
    _registry: Arc<Registry>,
    _readiness: Readiness,
    _shutdown: &Shutdown,
) -> Result<SocketAddr, ConfigError> {
    todo!()
}
