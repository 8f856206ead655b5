//! Load, free, pin, location and report, with scripted workers.

use crate::{
    fixture::{Cluster, PATIENCE, cluster, eventually, store},
    worker::{Script, Worker},
};
use forebay_proto::{convert::code_of, v1};
use forebay_types::Code;
use forebay_ufs::memory::Operation;
use std::{collections::BTreeSet, sync::Arc};

fn request(path: &str, include: &[&str]) -> v1::LoadRequest {
    v1::LoadRequest {
        path: path.as_bytes().to_vec().into(),
        include: include.iter().map(ToString::to_string).collect(),
        metadata_only: false,
    }
}

/// Runs a load job to its end: the last message, with the failures of all of them.
async fn load(cluster: &Cluster, request: v1::LoadRequest) -> v1::JobProgress {
    let run = async {
        let mut progress = cluster.admin().load(request).await.unwrap().into_inner();
        let mut failures = Vec::new();
        loop {
            let mut message = progress.message().await.unwrap().expect("a last message");
            failures.append(&mut message.failures);
            if message.finished {
                message.failures = failures;
                return message;
            }
        }
    };
    tokio::time::timeout(PATIENCE, run)
        .await
        .expect("the job ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_loaded_once_by_one_worker() {
    let cluster = cluster(&store(1000)).await;
    let a = Worker::start(&cluster, 1, Script::default()).await;
    let b = Worker::start(&cluster, 2, Script::default()).await;
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!(
        (done.files_total, done.files_done, done.files_failed),
        (1000, 1000, 0)
    );
    assert_eq!((done.bytes_total, done.bytes_done), (10_000, 10_000));
    assert!(done.listed && done.failures.is_empty());
    let (a, b) = (a.loaded(), b.loaded());
    assert_eq!(a.len() + b.len(), 1000);
    let keys: BTreeSet<&String> = a.iter().chain(&b).collect();
    assert_eq!(keys.len(), 1000);
    assert!(a.len() > 350 && b.len() > 350, "the work is shared");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_again_counts_what_was_cached_and_globs_choose() {
    let cluster = cluster(&store(300)).await;
    let _worker = Worker::start(&cluster, 1, Script::default()).await;
    let done = load(&cluster, request("/", &["d1/*"])).await;
    assert_eq!(
        (done.files_total, done.files_done, done.files_cached_before),
        (100, 100, 0)
    );
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!((done.files_done, done.files_cached_before), (300, 100));
    let done = load(&cluster, request("/d2/f250", &[])).await;
    assert_eq!((done.files_done, done.bytes_done), (1, 10));
    let metadata = v1::LoadRequest {
        metadata_only: true,
        ..request("/d0", &["f1?"])
    };
    let done = load(&cluster, metadata).await;
    assert_eq!((done.files_total, done.finished), (10, true));
    let error = cluster
        .admin()
        .load(request("/nowhere", &[]))
        .await
        .unwrap_err();
    assert_eq!(code_of(&error), Code::NotFound);
    let error = cluster
        .admin()
        .load(request("/", &["a["]))
        .await
        .unwrap_err();
    assert_eq!(code_of(&error), Code::InvalidArgument);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_with_path_and_reason_and_the_rest_is_loaded() {
    let store = store(300);
    let cluster = cluster(&store).await;
    let failing = vec![
        ("d0/f7", Code::PermissionDenied),
        ("d1/f107", Code::Unavailable),
    ];
    let script = Script {
        failing,
        ..Script::default()
    };
    let _worker = Worker::start(&cluster, 1, script).await;
    cluster.names("/").await;
    store.fail(Operation::List, Code::PermissionDenied, 1);
    let done = load(&cluster, request("/", &[])).await;
    let failed: Vec<String> = done
        .failures
        .iter()
        .map(|f| String::from_utf8_lossy(&f.path).into_owned())
        .collect();
    assert_eq!(done.files_failed, failed.len() as u64);
    let directory = done
        .failures
        .iter()
        .find(|f| f.reason.contains("injected"))
        .unwrap();
    assert!(
        directory.path.starts_with(b"/d"),
        "the directory that could not be listed"
    );
    assert_eq!(done.files_total, 200);
    for failure in &done.failures {
        let path = String::from_utf8_lossy(&failure.path);
        let want = match path.as_ref() {
            "/d0/f7" => "PermissionDenied: scripted: PermissionDenied",
            "/d1/f107" => "Unavailable: scripted: Unavailable",
            _ => continue,
        };
        assert_eq!(failure.reason, want);
    }
    assert_eq!(done.files_done + done.files_failed, 201);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_workers_files_are_loaded_by_the_next() {
    let cluster = cluster(&store(2000)).await;
    let dying = Script {
        dies_after: Some(100),
        ..Script::default()
    };
    let a = Worker::start(&cluster, 1, dying).await;
    let b = Worker::start(&cluster, 2, Script::default()).await;
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!((done.files_done, done.files_failed), (2000, 0));
    let (a, b) = (a.loaded(), b.loaded());
    let keys: BTreeSet<&String> = a.iter().chain(&b).collect();
    assert_eq!(keys.len(), 2000);
    assert!(a.len() <= 100);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_is_given_up_when_it_stops_to_report() {
    let cluster = cluster(&store(200)).await;
    let silent = Script {
        silent: true,
        ..Script::default()
    };
    let a = Worker::start(&cluster, 1, silent).await;
    let _b = Worker::start(&cluster, 2, Script::default()).await;
    a.stop_reporting();
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!((done.files_done, done.files_failed), (200, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_job_fails_and_says_what_to_do() {
    let cluster = cluster(&store(10)).await;
    let mut progress = cluster
        .admin()
        .load(request("/", &[]))
        .await
        .unwrap()
        .into_inner();
    let error = progress.message().await.unwrap_err();
    assert_eq!(code_of(&error), Code::Unavailable);
    assert!(error.message().contains("start one"), "{error}");
    let dying = Script {
        dies_after: Some(3),
        ..Script::default()
    };
    let _only = Worker::start(&cluster, 1, dying).await;
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!(done.files_done + done.files_failed, 10);
    assert!(done.files_failed >= 7);
    assert!(
        done.failures[0].reason.contains("no other is left"),
        "{:?}",
        done.failures[0]
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_when_its_caller_hangs_up() {
    let cluster = cluster(&store(500)).await;
    let silent = Script {
        silent: true,
        ..Script::default()
    };
    let worker = Worker::start(&cluster, 1, silent).await;
    let mut progress = cluster
        .admin()
        .load(request("/", &[]))
        .await
        .unwrap()
        .into_inner();
    assert!(!progress.message().await.unwrap().unwrap().finished);
    eventually("some work", || async {
        worker.script.lock().unwrap().taken > 0
    })
    .await;
    assert!(!worker.script.lock().unwrap().abandoned);
    drop(progress);
    eventually("the end", || async {
        worker.script.lock().unwrap().abandoned
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_reach_cached_files_and_those_loaded_later() {
    let store = store(150);
    let cluster = cluster(&store).await;
    let worker = Worker::start(&cluster, 1, Script::default()).await;
    let path = |path: &str| v1::PathRequest {
        path: path.as_bytes().to_vec().into(),
        recursive: true,
    };
    cluster.names("/d0").await;
    let pinned = cluster.admin().pin(path("/d0")).await.unwrap().into_inner();
    assert_eq!(pinned.inodes, 101, "a directory and its files");
    assert_eq!(worker.script.lock().unwrap().pinned.len(), 100);
    store.put("d0/late", "x");
    cluster.sync("/d0").await.unwrap();
    load(&cluster, request("/", &[])).await;
    let late = cluster.resolve("/d0/late").await.unwrap().ino;
    let other = cluster.resolve("/d1/f120").await.unwrap().ino;
    assert!(worker.script.lock().unwrap().pinned.contains(&late));
    assert!(!worker.script.lock().unwrap().pinned.contains(&other));
    cluster.admin().unpin(path("/d0")).await.unwrap();
    assert!(worker.script.lock().unwrap().pinned.is_empty());

    let freed = cluster
        .admin()
        .free(path("/d0"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((freed.files, freed.bytes), (101, 1010));
    assert!(worker.script.lock().unwrap().freed.contains(&late));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn location_and_report_show_the_workers() {
    let cluster = cluster(&store(10)).await;
    let _a = Worker::start(&cluster, 1, Script::default()).await;
    let _b = Worker::start(&cluster, 2, Script::default()).await;
    let path = v1::PathRequest {
        path: "/d0/f3".into(),
        recursive: false,
    };
    let location = cluster.admin().location(path).await.unwrap().into_inner();
    assert_eq!(location.file.unwrap().key, "d0/f3");
    assert_eq!(location.replicas.len(), 2);
    assert_eq!(location.replicas.iter().filter(|r| r.home).count(), 1);
    assert!(
        location
            .replicas
            .iter()
            .all(|r| r.cached_bytes == 7 && r.medium == "SSD")
    );
    let report = cluster
        .admin()
        .report(v1::ReportRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(report.workers.len(), 2);
    // The root, a directory, ten files; those out of the tree count until they are reaped.
    assert!(report.inodes >= 12);
    assert!(report.journal_index > 0 && report.cluster.len() == 36);
    let path = v1::PathRequest {
        path: "/d0".into(),
        recursive: false,
    };
    let error = cluster.admin().location(path).await.unwrap_err();
    assert_eq!(code_of(&error), Code::IsDirectory);
    let stranger = v1::RegisterRequest {
        worker: Some(v1::Worker {
            id: 9,
            address: "127.0.0.1:1".into(),
            capacity: 1,
        }),
        cluster: "another".into(),
        ..v1::RegisterRequest::default()
    };
    let error = cluster.registry().register(stranger).await.unwrap_err();
    assert!(
        error.message().contains("belongs to cluster another"),
        "{error}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_counts_what_is_new_in_the_store() {
    let store = store(10);
    let cluster = Cluster::start(vec![("/", "1ms", Arc::new(store.clone()))]).await;
    let _worker = Worker::start(&cluster, 1, Script::default()).await;
    assert_eq!(load(&cluster, request("/", &[])).await.files_done, 10);
    store.put("d0/new", "x");
    store.put("empty", "");
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!(
        (done.files_total, done.files_done, done.files_cached_before),
        (12, 12, 10)
    );
    store.fail(Operation::List, Code::Unavailable, 2);
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let done = load(&cluster, request("/", &[])).await;
    assert_eq!(
        (done.files_done, done.files_failed),
        (12, 0),
        "taken as they are known"
    );
    cluster.stop().await;
}
