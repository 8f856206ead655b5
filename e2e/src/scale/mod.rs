//! The metadata of very many files on this machine: what they cost and how fast they are.
//!
//! The rows are made by the state machine itself ([`Meta::apply`], the same batches that a listing of
//! an under store proposes), without raft's journal. Each phase runs in a process of its own, so that
//! memory and start are those of a master that has just that to do.

mod phase;
mod tree;

pub use phase::{Built, Served, build, serve};
pub use tree::Tree;

use anyhow::Context;
use forebay_kv_rocksdb::{Options, RocksKv};
use forebay_meta::Meta;
use std::{fs, path::Path, sync::Arc};

/// Opens the metadata in `dir` with the shares of `budget` that a master gives: five sixteenths for
/// inodes and names, nine for RocksDB, the rest is the journal's.
fn open(dir: &Path, budget: u64) -> anyhow::Result<(Arc<RocksKv>, Meta)> {
    let options = Options {
        memory_bytes: budget / 16 * 9,
    };
    let kv = RocksKv::open(dir, &options)?;
    let meta = Meta::open(kv.clone(), budget / 16 * 5)?;
    Ok((kv, meta))
}

/// Resident memory of this process, in bytes.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let row = status
        .lines()
        .find_map(|row| row.strip_prefix("VmRSS:"))
        .and_then(|row| row.trim().strip_suffix(" kB"))
        .context("/proc/self/status has no VmRSS")?;
    Ok(row.parse::<u64>()? << 10)
}

/// Bytes of the files in `dir`.
fn bytes_on_disk(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(dir)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}
