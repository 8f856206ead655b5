//! How many commands per second one voter commits on a real disk.

#![expect(clippy::disallowed_methods, reason = "measures")]

use crate::{durability::options, machine::Recorder, network::NoNetwork};
use bytes::Bytes;
use forebay_consensus::Raft;
use forebay_kv::{Batch, Durability, Kv};
use forebay_kv_rocksdb::{Options, RocksKv};
use std::{path::Path, sync::Arc, time::Instant};
use tokio::task::JoinSet;

/// Synced writes of one small row, one after the other: what the disk allows without raft.
fn bare(dir: &Path) -> f64 {
    let kv = RocksKv::open(dir, &Options::default()).unwrap();
    let (writes, begun) = (300, Instant::now());
    for number in 0..writes {
        let mut batch = Batch::default();
        batch.put(format!("{number:08}"), vec![1; 200]);
        kv.write(&batch, Durability::Synced).unwrap();
    }
    f64::from(writes) / begun.elapsed().as_secs_f64()
}

/// Commands per second with so many proposers at once, each proposing `each` times.
async fn proposed(dir: &Path, waiting: u32, each: u32) -> f64 {
    let kv: Arc<dyn Kv> = RocksKv::open(dir, &Options::default()).unwrap();
    let raft = Raft::start(options(64 << 20), kv, Recorder::new(), Arc::new(NoNetwork)).unwrap();
    raft.read_barrier().await.unwrap();
    let begun = Instant::now();
    let mut proposers = JoinSet::new();
    for _ in 0..waiting {
        let raft = raft.clone();
        proposers.spawn(async move {
            for _ in 0..each {
                raft.propose(Bytes::from(vec![1; 200])).await.unwrap();
            }
        });
    }
    proposers.join_all().await;
    let rate = f64::from(waiting * each) / begun.elapsed().as_secs_f64();
    raft.shutdown().await;
    rate
}

/// Interleaved with the bare disk, whose speed on a shared machine changes from second to second:
/// only ratios within a round mean anything.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run with --nocapture on an idle machine"]
async fn proposals_per_second() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("per second: bare synced writes before, commands with 1, 32, 128 waiting, bare after");
    for round in 0..5 {
        let at = |name: &str| dir.path().join(format!("{round}-{name}"));
        let before = bare(&at("before"));
        let one = proposed(&at("1"), 1, 300).await;
        let some = proposed(&at("32"), 32, 100).await;
        let many = proposed(&at("128"), 128, 100).await;
        let after = bare(&at("after"));
        println!("{before:8.0} {one:8.0} {some:8.0} {many:8.0} {after:8.0}");
    }
}
