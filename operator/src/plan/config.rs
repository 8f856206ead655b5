//! The configuration files of masters and workers.

use crate::plan::{
    name::{MASTER_PORTS, Names, WORKER_PORTS},
    worker,
};
use forebay_crds::{Eviction, PodSettings, WorkerGroup};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

/// The file with the key of credentials, from Secret `NAME-seal`.
pub const SEAL_KEY: &str = "/etc/forebay/seal/key";
/// Where a master's volume is mounted.
pub const MASTER_DATA: &str = "/var/lib/forebay";
/// The worker's socket for the FUSE host of its node, in a directory of the host.
pub const WORKER_SOCKET: &str = "/run/forebay/worker.sock";
/// Memory limit of masters and workers unless the user gives one.
pub const MEMORY_LIMIT: u64 = 1 << 30;
/// The least budget that a process starts with.
const BUDGET_LEAST: u64 = 32 << 20;

#[derive(Serialize)]
struct Master {
    data_dir: String,
    listen: String,
    http: String,
    seal_key: &'static str,
    memory: u64,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    id: u64,
    address: String,
}

#[derive(Serialize)]
struct Worker {
    data_dir: String,
    master: Vec<String>,
    listen: String,
    socket: &'static str,
    http: String,
    eviction: &'static str,
    high_watermark: f64,
    low_watermark: f64,
    seal_key: &'static str,
    memory: u64,
    tiers: Vec<Tier>,
}

#[derive(Serialize)]
struct Tier {
    medium: forebay_crds::Medium,
    dir: String,
    size: u64,
}

/// A file, and what changes when pods must be replaced to follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// TOML.
    pub text: String,
    /// Hash of what a running process goes by.
    pub hash: String,
}

/// `master.toml` of a cluster with so many masters.
pub fn master(names: &Names, replicas: u32, pods: &PodSettings) -> Config {
    let peer = |id| Peer {
        id,
        address: names.address(id),
    };
    let [grpc, http] = MASTER_PORTS;
    let mut file = Master {
        data_dir: format!("{MASTER_DATA}/master"),
        listen: format!("0.0.0.0:{grpc}"),
        http: format!("0.0.0.0:{http}"),
        seal_key: SEAL_KEY,
        memory: budget(pods),
        peers: Vec::new(),
    };
    // Who the others are is asked by a master that starts; one that runs has it in its journal.
    let hash = hash(&text(&file));
    file.peers = (1..=u64::from(replicas)).map(peer).collect();
    Config {
        text: text(&file),
        hash,
    }
}

/// `worker.toml` of a group.
pub fn worker(names: &Names, group: &WorkerGroup) -> Config {
    let [grpc, http] = WORKER_PORTS;
    let tiers = group.tiers.iter().enumerate();
    let tiers = tiers.map(|(n, tier)| Tier {
        medium: tier.medium,
        dir: format!("{}/cache", worker::tier_dir(n)),
        size: tier.quota.bytes(),
    });
    let file = Worker {
        data_dir: format!("{}/worker", worker::data_dir(group)),
        master: names.addresses(),
        listen: format!("0.0.0.0:{grpc}"),
        socket: WORKER_SOCKET,
        http: format!("0.0.0.0:{http}"),
        eviction: match group.eviction {
            Eviction::Lru => "lru",
            Eviction::Lfu => "lfu",
            Eviction::S3Fifo => "s3-fifo",
        },
        high_watermark: f64::from(group.watermarks.high) / 100.0,
        low_watermark: f64::from(group.watermarks.low) / 100.0,
        seal_key: SEAL_KEY,
        memory: budget(&group.pods),
        tiers: tiers.collect(),
    };
    let text = text(&file);
    let hash = hash(&text);
    Config { text, hash }
}

/// Half of the memory limit: the rest is for threads, connections, and what the kernel counts.
fn budget(pods: &PodSettings) -> u64 {
    let resources = pods.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let limit = limits.and_then(|l| l.memory.as_ref());
    let limit = limit.map_or(MEMORY_LIMIT, forebay_crds::Quantity::bytes);
    (limit / 2).max(BUDGET_LEAST)
}

fn text(file: &impl Serialize) -> String {
    toml::to_string(file).expect("texts, numbers, and tables after them")
}

/// A short name of a text.
pub fn hash(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}
