//! Figures for people; run with `--ignored figures --nocapture` on a quiet machine.

use crate::support::{MIB, Rig, content, put};
use forebay_client::{Ensured, LocalWorker};
use forebay_ufs::memory::MemStore;
use forebay_worker::pace::Pace;
use futures::FutureExt;
use std::{os::unix::fs::FileExt, sync::Arc, time::Instant};

const GIB: u64 = 1 << 30;

#[test]
#[ignore = "needs a quiet machine: prints figures, asserts none"]
fn figures() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let data = content(1, GIB);
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        plain(dir.path(), &data);
        runtime.block_on(fill(&data));
        runtime.block_on(small_files());
        if round == 0 {
            runtime.block_on(opens());
        }
    }
}

fn plain(dir: &std::path::Path, data: &bytes::Bytes) {
    let file = std::fs::File::create(dir.join("plain")).unwrap();
    let begun = Instant::now();
    for at in (0..GIB).step_by(64 << 10) {
        let piece = &data[at as usize..at as usize + (64 << 10)];
        file.write_all_at(piece, at).unwrap();
    }
    rate("plain pwrite of 64 KiB pieces, one thread", begun);
    std::fs::remove_file(dir.join("plain")).unwrap();
}

fn rate(what: &str, begun: Instant) {
    println!(
        "{what}: {:.0} MiB/s",
        1024.0 / begun.elapsed().as_secs_f64()
    );
}

async fn fill(data: &bytes::Bytes) {
    let store = MemStore::new();
    let file = put(&store, "a", data.clone()).await;
    let rig = Rig::new(Arc::new(store.clone()), 4 * GIB);
    let open = rig.local.open(&file).await.unwrap();
    let begun = Instant::now();
    for at in (0..GIB).step_by(MIB as usize) {
        let ensured = rig.local.ensure(open.lease, at..at + MIB).await.unwrap();
        assert_eq!(ensured, Ensured::Present);
    }
    rate("ensure 1 MiB at a time, in order", begun);
    println!("  {} requests", store.reads().len());
}

async fn small_files() {
    let store = MemStore::new();
    let one = content(2, 110_000);
    let mut files = Vec::new();
    for n in 0..10_000 {
        files.push(put(&store, &format!("{n}"), one.clone()).await);
    }
    let rig = Rig::new(Arc::new(store), 4 * GIB);
    let begun = Instant::now();
    let pace = Pace::default();
    let loads = files
        .iter()
        .map(|file| rig.engine.load(file.clone(), &pace, 0));
    let done = futures::stream::StreamExt::buffer_unordered(futures::stream::iter(loads), 64);
    let done: Vec<_> = futures::StreamExt::collect(done).await;
    assert!(done.iter().all(Result::is_ok));
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "load of 10,000 files of 110,000 bytes: {:.0} files/s",
        10_000.0 / seconds
    );
}

async fn opens() {
    let store = MemStore::new();
    let file = put(&store, "a", content(1, MIB)).await;
    let rig = Rig::new(Arc::new(store), 100 * MIB);
    let filled = rig.local.open(&file).await.unwrap();
    rig.read(&file, &filled, 0..MIB).await;
    rig.local.release(filled.lease);
    drop(filled);
    for (what, held) in [("descriptor held", true), ("descriptor not held", false)] {
        let keep = held.then(|| rig.local.open(&file).now_or_never().unwrap().unwrap());
        let (rounds, begun) = (100_000, Instant::now());
        for _ in 0..rounds {
            let open = rig.local.open(&file).now_or_never().unwrap().unwrap();
            rig.local.release(open.lease);
        }
        println!(
            "open + release of a whole file, {what}: {} ns",
            begun.elapsed().as_nanos() / rounds
        );
        drop(keep);
    }
    let open = rig.local.open(&file).await.unwrap();
    let (rounds, begun) = (1_000_000, Instant::now());
    for _ in 0..rounds {
        rig.local
            .ensure(open.lease, 0..4096)
            .now_or_never()
            .unwrap()
            .unwrap();
    }
    println!(
        "ensure of present bytes: {} ns",
        begun.elapsed().as_nanos() / rounds
    );
}
