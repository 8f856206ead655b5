//! Settings of a FUSE host.

use forebay_service::ByteSize;
use forebay_types::Addresses;
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// Settings of a FUSE host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseConfig {
    /// An empty directory.
    pub mount_point: PathBuf,
    /// The masters: one address, or several in a list.
    pub master: Addresses,
    /// Ask all masters for names and attributes, not only the one that leads: many mounts get more answers
    /// per second, each a little later.
    #[serde(default)]
    pub spread_reads: bool,
    /// Unix socket of the node's worker; absent: pages are streamed from other nodes.
    #[serde(default)]
    pub worker_socket: Option<PathBuf>,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere (the process has others).
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Let other users read.
    #[serde(default)]
    pub allow_other: bool,
    /// FUSE passthrough where the kernel has it; off for comparison.
    #[serde(default = "yes")]
    pub passthrough: bool,
    /// In a virtual machine, keep idle cores from halting while many requests come: they are answered in half the
    /// time, and the idle cores of the node show as busy meanwhile. Needs root.
    #[serde(default = "yes")]
    pub keep_cores_awake: bool,
    /// Memory for metadata cache, listings and read-ahead.
    #[serde(default = "memory")]
    pub memory: ByteSize,
}

fn yes() -> bool {
    true
}

fn memory() -> ByteSize {
    ByteSize(128 << 20)
}

/// Settings of the FUSE host of a node, which serves the volumes that it is asked for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Unix socket on which it is asked.
    pub socket: PathBuf,
    /// Unix socket of the keeper, which makes mounts outlive this process; absent: they end with it.
    #[serde(default)]
    pub keeper: Option<PathBuf>,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// FUSE passthrough where the kernel has it; off for comparison.
    #[serde(default = "yes")]
    pub passthrough: bool,
    /// As [`FuseConfig::keep_cores_awake`].
    #[serde(default = "yes")]
    pub keep_cores_awake: bool,
    /// Memory for metadata caches, listings and read-ahead of all volumes together.
    #[serde(default = "node_memory")]
    pub memory: ByteSize,
}

fn node_memory() -> ByteSize {
    ByteSize(512 << 20)
}
