//! Settings of a master.

use forebay_service::ByteSize;
use forebay_types::{Address, MountSpec};
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// Settings of a master.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterConfig {
    /// Journal and metadata; a local disk.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub listen: Address,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere (the process has others).
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// The mount table: mounts not listed here are unmounted at start.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Memory for inode cache, block cache and write buffers.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
}

fn default_memory() -> ByteSize {
    ByteSize(256 << 20)
}
