//! Warm-ups, with scripted workers.

use crate::{
    fixture::{Cluster, PATIENCE, cluster, eventually, store},
    worker::{Running, Script, Worker},
};
use forebay_proto::{convert::code_of, v1};
use forebay_types::Code;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

type Warmup = v1::warmups_response::Warmup;

async fn workers(cluster: &Cluster, ids: std::ops::RangeInclusive<u64>) -> Vec<Running> {
    let mut workers = Vec::new();
    for id in ids {
        workers.push(Worker::start(cluster, id, Script::default()).await);
    }
    workers
}

fn spec(path: &str, copies: u32, pin: bool) -> v1::WarmupSpec {
    v1::WarmupSpec {
        path: path.as_bytes().to_vec().into(),
        copies,
        pin,
        ..v1::WarmupSpec::default()
    }
}

async fn start(cluster: &Cluster, name: &str, run: &str, spec: v1::WarmupSpec) {
    let request = v1::StartWarmupRequest {
        name: name.to_owned(),
        run: run.to_owned(),
        spec: Some(spec),
    };
    cluster.admin().start_warmup(request).await.unwrap();
}

async fn remove(cluster: &Cluster, name: &str) {
    let name = name.to_owned();
    let request = v1::RemoveWarmupRequest { name };
    cluster.admin().remove_warmup(request).await.unwrap();
}

async fn list(cluster: &Cluster) -> Vec<Warmup> {
    let answer = cluster.admin().warmups(v1::WarmupsRequest {}).await;
    answer.unwrap().into_inner().warmups
}

/// The warm-up of that name as soon as `met` holds.
async fn when(cluster: &Cluster, name: &str, met: impl Fn(&Warmup) -> bool) -> Warmup {
    let mut last = None;
    let waiting = async {
        loop {
            last = list(cluster).await.into_iter().find(|w| w.name == name);
            if let Some(warmup) = last.as_ref().filter(|w| met(w)) {
                return warmup.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(warmup) => warmup,
        Err(late) => panic!("{late}: {last:?}"),
    }
}

async fn ended(cluster: &Cluster, name: &str) -> (Warmup, v1::JobProgress) {
    let warmup = when(cluster, name, |warmup| warmup.ended_ns != 0).await;
    let progress = warmup.progress.clone().unwrap();
    assert!(progress.finished && progress.listed);
    (warmup, progress)
}

fn files(progress: &v1::JobProgress) -> [u64; 3] {
    [
        progress.files_total,
        progress.files_done,
        progress.files_failed,
    ]
}

fn pinned(worker: &Running) -> usize {
    worker.script.lock().unwrap().pinned.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_where_they_are_wanted_and_the_end_is_remembered() {
    let store = store(300);
    let cluster = cluster(&store).await;
    let three = workers(&cluster, 1..=3).await;
    start(&cluster, "two", "1", spec("/", 2, false)).await;
    let (two, progress) = ended(&cluster, "two").await;
    assert_eq!(files(&progress), [300, 300, 0]);
    let loaded = |workers: &[Running]| workers.iter().map(|w| w.loaded().len()).sum::<usize>();
    assert_eq!(loaded(&three), 600);
    start(&cluster, "all", "1", spec("/d0", 0, false)).await;
    assert_eq!(files(&ended(&cluster, "all").await.1), [100, 100, 0]);
    let everywhere = |w: &Running| w.loaded().iter().any(|key| key == "d0/f7");
    assert!(three.iter().all(everywhere));
    // The same run again is none; another one is.
    start(&cluster, "two", "1", spec("/", 2, false)).await;
    assert_eq!(ended(&cluster, "two").await.0, two);
    drop(three);
    let dir = cluster.stop().await;
    let cluster = Cluster::start_in(dir, vec![("/", "never", Arc::new(store))]).await;
    assert_eq!(ended(&cluster, "two").await.0, two);
    remove(&cluster, "two").await;
    remove(&cluster, "two").await;
    assert_eq!(list(&cluster).await.len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_under_the_next_leader() {
    let store = store(300);
    let cluster = cluster(&store).await;
    let silent = Script {
        silent: true,
        ..Script::default()
    };
    let silent = Worker::start(&cluster, 1, silent).await;
    start(&cluster, "w", "1", spec("/", 1, false)).await;
    let going = when(&cluster, "w", |w| {
        w.progress
            .as_ref()
            .is_some_and(|p| p.listed && p.files_total == 300)
    });
    assert_eq!(going.await.ended_ns, 0);
    drop(silent);
    let dir = cluster.stop().await;
    let cluster = Cluster::start_in(dir, vec![("/", "never", Arc::new(store))]).await;
    // It waits until there is a worker.
    assert_eq!(list(&cluster).await[0].ended_ns, 0);
    let _worker = Worker::start(&cluster, 2, Script::default()).await;
    assert_eq!(files(&ended(&cluster, "w").await.1), [300, 300, 0]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_before_a_worker_came_is_brought_where_it_is_read() {
    let store = store(300);
    let cluster = cluster(&store).await;
    let gate = Arc::new(Semaphore::new(0));
    let script = Script {
        gate: Some(Arc::clone(&gate)),
        ..Script::default()
    };
    let first = Worker::start(&cluster, 1, script).await;
    start(&cluster, "w", "1", spec("/", 1, false)).await;
    when(&cluster, "w", |w| {
        w.progress.as_ref().is_some_and(|p| p.listed)
    })
    .await;
    let late = Worker::start(&cluster, 2, Script::default()).await;
    gate.close();
    let (warmup, progress) = ended(&cluster, "w").await;
    assert_eq!(files(&progress), [300, 300, 0]);
    assert_eq!(warmup.workers, 2);
    // A run with both from the beginning asks no worker for anything that it has not.
    let had = [&first, &late].map(|worker| worker.loaded().len());
    assert!(had[1] > 0, "{had:?}");
    start(&cluster, "w", "2", spec("/", 1, false)).await;
    when(&cluster, "w", |w| w.run == "2" && w.ended_ns != 0).await;
    let keys = late.loaded();
    let (before, again) = keys.split_at(had[1]);
    assert!(again.iter().all(|key| before.contains(key)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_stay_or_cannot_be_loaded_is_told() {
    let cluster = cluster(&store(30)).await;
    let script = Script {
        forgets: Some("d0/f7"),
        ..Script::default()
    };
    let worker = Worker::start(&cluster, 1, script).await;
    start(&cluster, "w", "1", spec("/", 1, false)).await;
    let (_, progress) = ended(&cluster, "w").await;
    assert_eq!(files(&progress), [30, 29, 1]);
    assert_eq!(progress.bytes_done, 290);
    let [failure] = &progress.failures[..] else {
        panic!("{progress:?}");
    };
    assert_eq!(failure.path, &b"/d0/f7"[..]);
    assert!(failure.reason.contains("larger tiers"), "{failure:?}");
    assert_eq!(
        worker.loaded().len(),
        90,
        "so few may be new: they are tried again"
    );

    worker.script.lock().unwrap().failing = vec![("d0/f8", Code::PermissionDenied)];
    start(&cluster, "x", "1", spec("/", 1, false)).await;
    let (_, progress) = ended(&cluster, "x").await;
    assert_eq!(progress.files_failed, 1);
    assert!(progress.failures[0].reason.contains("PermissionDenied"));
    worker.script.lock().unwrap().forgets = None;
    start(&cluster, "gone", "1", spec("/nowhere", 1, false)).await;
    let (_, progress) = ended(&cluster, "gone").await;
    assert_eq!(files(&progress), [0, 0, 1]);
    assert_eq!(progress.failures[0].path, &b"/nowhere"[..]);
    start(&cluster, "many", "1", spec("/", 2, false)).await;
    let (_, progress) = ended(&cluster, "many").await;
    assert!(progress.failures[0].reason.contains("fewer workers"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_globs_are_refused() {
    let cluster = cluster(&store(1)).await;
    let spec = v1::WarmupSpec {
        include: vec!["a[".to_owned()],
        ..spec("/", 1, false)
    };
    let request = v1::StartWarmupRequest {
        name: "w".to_owned(),
        run: "1".to_owned(),
        spec: Some(spec),
    };
    let refused = cluster.admin().start_warmup(request).await.unwrap_err();
    assert_eq!(code_of(&refused), Code::InvalidArgument);
    assert_eq!(list(&cluster).await, []);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_last_as_long_as_somebody_wants_them() {
    let cluster = cluster(&store(300)).await;
    let worker = Worker::start(&cluster, 1, Script::default()).await;
    start(&cluster, "a", "1", spec("/", 1, true)).await;
    ended(&cluster, "a").await;
    start(&cluster, "b", "1", spec("/d1", 1, true)).await;
    ended(&cluster, "b").await;
    assert_eq!(pinned(&worker), 300);
    // Another wish lets go of what it no longer wants, and of nothing that others do.
    start(&cluster, "a", "2", spec("/d0", 1, true)).await;
    ended(&cluster, "a").await;
    assert_eq!(pinned(&worker), 200);
    remove(&cluster, "a").await;
    let only_b = eventually("pins are let go", || async { pinned(&worker) == 100 });
    only_b.await;
    let names = list(&cluster).await.into_iter().map(|w| w.name);
    assert_eq!(names.collect::<Vec<_>>(), ["b"]);
    cluster.stop().await;
}
