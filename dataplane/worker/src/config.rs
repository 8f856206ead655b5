//! Settings of a worker.

use forebay_service::ByteSize;
use forebay_types::{Address, Medium};
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// Settings of a worker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Identity and page index; a local disk.
    pub data_dir: PathBuf,
    /// The master.
    pub master: Address,
    /// Where gRPC is served to other nodes.
    pub listen: Address,
    /// Unix socket for the FUSE host of this node; absent: none.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere (the process has others).
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Cache tiers; at least one.
    pub tiers: Vec<TierSpec>,
    /// Eviction policy.
    #[serde(default)]
    pub eviction: Eviction,
    /// Eviction begins above this fraction of a tier's quota …
    #[serde(default = "high")]
    pub high_watermark: f64,
    /// … and ends below this one.
    #[serde(default = "low")]
    pub low_watermark: f64,
    /// Memory for fills in flight and the index.
    #[serde(default = "memory")]
    pub memory: ByteSize,
}

/// One tier.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierSpec {
    /// MEM, SSD or HDD.
    pub medium: Medium,
    /// A directory on that medium; never on overlayfs.
    pub dir: PathBuf,
    /// Most bytes to hold.
    pub size: ByteSize,
}

/// The eviction policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO.
    #[default]
    S3Fifo,
}

fn high() -> f64 {
    0.95
}

fn low() -> f64 {
    0.90
}

fn memory() -> ByteSize {
    ByteSize(256 << 20)
}
