//! The FUSE host: the file system of a node.

use forebay_client::local::LocalWorker;
use forebay_service::Shutdown;
use std::{path::Path, sync::Arc};

pub mod config;

/// A mounted file system.
pub struct FuseHost {}

impl FuseHost {
    /// Connects to the master, mounts, and returns when the mount serves.
    pub async fn start(
        _config: config::FuseConfig,
        _local: Option<Arc<dyn LocalWorker>>,
        _registry: &mut prometheus_client::registry::Registry,
        _shutdown: &Shutdown,
    ) -> anyhow::Result<FuseHost> {
        todo!()
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        todo!()
    }

    /// Resolves when the kernel has ended the session (somebody unmounted it).
    pub async fn ended(&self) {
        todo!()
    }

    /// Unmounts (lazily if files are open) and waits for the session's threads.
    pub async fn unmount(self) -> anyhow::Result<()> {
        todo!()
    }
}
