//! Loading, comparing and answering.

use crate::{
    fixture::{Cluster, PATIENCE, eventually},
    stores::Backwards,
};
use forebay_proto::{convert::code_of, v1};
use forebay_types::Code;
use forebay_ufs::{
    UnderStore,
    memory::{MemStore, Operation},
};
use std::sync::{Arc, atomic::Ordering};
use tonic::Status;

fn store(keys: &[&str]) -> MemStore {
    let store = MemStore::new();
    for key in keys {
        store.put(key, key.as_bytes().to_vec());
    }
    store
}

async fn cluster(policy: &'static str, store: &MemStore) -> Cluster {
    Cluster::start(vec![("/", policy, Arc::new(store.clone()))]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_loaded_once_for_all_who_ask() {
    let store = store(&["a", "b", "d/x"]);
    let cluster = cluster("never", &store).await;
    store.stall(Operation::List);
    let asks: Vec<_> = (0..50)
        .map(|i| {
            let client = cluster.calls().clone();
            let name = if i % 2 == 0 { "a" } else { "absent" };
            let request = v1::LookupRequest {
                parent: 1,
                name: name.into(),
            };
            tokio::spawn(async move { client.lookup(request).await.unwrap() })
        })
        .collect();
    eventually("the listing", || async { store.requests().list > 0 }).await;
    store.resume();
    for (i, ask) in asks.into_iter().enumerate() {
        let answer = ask.await.unwrap();
        assert_eq!(answer.attr.is_some(), i % 2 == 0);
        assert_eq!(answer.lease_ms, 3_600_000);
    }
    assert_eq!(store.requests().list, 1);
    assert_eq!(cluster.names("/").await, ["a", "b", "d"]);
    assert_eq!(store.requests().list, 1);
    assert_eq!(cluster.names("/d").await, ["x"]);
    assert_eq!(store.requests().list, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_shown_are_listed_as_problems() {
    let long = "l".repeat(256);
    let keys = [
        "ok",
        "a",
        "a/b",
        "//x",
        "x//y",
        "dots/../z",
        "dots/fine",
        &long,
        "marker/",
        "full/",
    ];
    let store = store(&keys);
    store.put("marker/", "");
    let odd = Arc::new(Backwards::new(store));
    let cluster = Cluster::start(vec![("/", "never", odd)]).await;
    assert_eq!(
        cluster.names("/").await,
        ["a", "dots", "full", "marker", "ok", "x"]
    );
    assert!(
        cluster.resolve("/a").await.unwrap().directory,
        "the directory hides the object"
    );
    assert_eq!(cluster.names("/a").await, ["b"]);
    assert_eq!(cluster.names("/dots").await, ["fine"]);
    assert_eq!(cluster.names("/marker").await, [""; 0]);
    assert_eq!(cluster.names("/full").await, [""; 0]);
    assert_eq!(cluster.names("/x").await, [""; 0]);
    let mut problems: Vec<String> = cluster.problems().await.into_iter().map(|p| p.0).collect();
    problems.sort();
    let mut want = vec!["a", "/", "x//", "dots/../", &long, "full/"];
    want.sort_unstable();
    assert_eq!(problems, want);
    // Comparing again neither forgets nor doubles them, and keeps the directory's inode.
    let before = cluster.resolve("/a").await.unwrap().ino;
    let done = cluster.sync("/").await.unwrap();
    assert_eq!((done.added, done.changed, done.removed), (0, 0, 0));
    assert_eq!(cluster.resolve("/a").await.unwrap().ino, before);
    assert_eq!(cluster.problems().await.len(), want.len());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_object_is_a_new_inode_and_watchers_are_told() {
    let store = store(&["d/a", "d/b"]);
    let cluster = cluster("never", &store).await;
    let old = cluster.resolve("/d/a").await.unwrap();
    let dir = cluster.resolve("/d").await.unwrap().ino;
    let mut watch = cluster.watch().await;
    store.put("d/a", "other");
    assert_eq!(
        cluster.resolve("/d/a").await.unwrap().ino,
        old.ino,
        "policy is never"
    );

    let file = open(&cluster, old.ino).await.unwrap();
    cluster.metadata().report_stale(file).await.unwrap();
    let new = cluster.resolve("/d/a").await.unwrap();
    assert_ne!(new.ino, old.ino);
    assert_eq!(new.size, 5);
    told(&mut watch, dir, "a").await;
    assert_eq!(
        open(&cluster, old.ino).await.unwrap().ino,
        old.ino,
        "open handles keep theirs"
    );

    store.delete("d/a");
    let file = open(&cluster, new.ino).await.unwrap();
    cluster.metadata().report_stale(file).await.unwrap();
    assert!(cluster.resolve("/d/a").await.is_none());
    told(&mut watch, dir, "a").await;
    assert_eq!(cluster.names("/d").await, ["b"]);
    cluster.stop().await;
}

async fn open(cluster: &Cluster, ino: u64) -> Option<v1::FileRef> {
    let answer = cluster.calls().open_file(v1::OpenFileRequest { ino });
    answer.await.ok()
}

/// Waits until the stream tells of a name.
async fn told(watch: &mut tonic::Streaming<v1::Invalidation>, parent: u64, name: &str) {
    let wait = async {
        loop {
            let message = watch.message().await.unwrap().expect("the stream lives");
            if message
                .entries
                .iter()
                .any(|e| e.parent == parent && e.name == name)
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the change is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_breaks_off_removes_nothing_and_is_reported() {
    let keys: Vec<String> = (0..100).map(|i| format!("f{i:03}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let store = store(&keys);
    let backwards = Backwards::new(store.clone());
    let cluster = Cluster::start(vec![(
        "/",
        "never",
        Arc::new(backwards.clone()) as Arc<dyn UnderStore>,
    )])
    .await;
    backwards.fail_after.store(3, Ordering::SeqCst);
    let error = cluster.try_names("/").await.unwrap_err();
    assert_eq!(code_of(&error), Code::Unavailable);
    assert!(error.message().contains("listing broke off"), "{error}");
    assert_eq!(
        cluster.names("/").await.len(),
        100,
        "the next one asks again"
    );

    store.delete("f000");
    store.put("f099", "new content");
    let before = cluster.resolve("/f099").await.unwrap().ino;
    backwards.fail_after.store(5, Ordering::SeqCst);
    assert_eq!(
        code_of(&cluster.sync("/").await.unwrap_err()),
        Code::Unavailable
    );
    assert_eq!(cluster.names("/").await.len(), 100);
    let done = cluster.sync("/").await.unwrap();
    assert_eq!((done.added, done.removed), (0, 1));
    assert_ne!(cluster.resolve("/f099").await.unwrap().ino, before);
    assert_eq!(cluster.names("/").await.len(), 99);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_always_shows_every_change_at_once() {
    let store = store(&["d/a"]);
    let cluster = cluster("always", &store).await;
    let first = cluster.resolve("/d/a").await.unwrap();
    store.put("d/a", "changed");
    let second = cluster.resolve("/d/a").await.unwrap();
    assert_ne!(first.ino, second.ino);
    let dir = cluster.resolve("/d").await.unwrap().ino;
    assert_eq!(cluster.lookup(dir, "a").await.unwrap().lease_ms, 0);
    store.put("d/new", "x");
    assert!(cluster.resolve("/d/new").await.is_some());
    store.delete("d/a");
    assert!(cluster.resolve("/d/a").await.is_none());
    assert_eq!(cluster.names("/d").await, ["new"]);
    store.fail(Operation::List, Code::Unavailable, 1);
    let error = cluster.lookup(1, "absent").await.unwrap_err();
    assert_eq!(code_of(&error), Code::Unavailable);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_interval_serves_what_it_has_and_compares_behind_once() {
    let store = store(&["a"]);
    let cluster = cluster("1ms", &store).await;
    assert_eq!(cluster.lookup(1, "a").await.unwrap().lease_ms, 1);
    store.put("b", "x");
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    store.stall(Operation::List);
    let before = store.requests().list;
    for _ in 0..20 {
        let answer = cluster.lookup(1, "b").await.unwrap();
        assert!(answer.attr.is_none(), "served at once, as it was");
    }
    eventually("the comparison", || async {
        store.requests().list > before
    })
    .await;
    assert_eq!(store.requests().list, before + 1);
    store.resume();
    eventually("b", || async {
        cluster.lookup(1, "b").await.unwrap().attr.is_some()
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_is_named_with_its_code() {
    let store = store(&["d/a"]);
    let cluster = cluster("never", &store).await;
    store.fail(Operation::List, Code::PermissionDenied, 1);
    let error = cluster.lookup(1, "d").await.unwrap_err();
    assert_eq!(code_of(&error), Code::PermissionDenied);
    assert!(cluster.lookup(1, "d").await.unwrap().attr.is_some());
    let error = cluster.lookup(77_777, "d").await.unwrap_err();
    assert_eq!(code_of(&error), Code::NotFound);
    let file = cluster.resolve("/d/a").await.unwrap().ino;
    let error = cluster.lookup(file, "d").await.unwrap_err();
    assert_eq!(code_of(&error), Code::NotDirectory);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_read_in_parts() {
    let keys: Vec<String> = (0..30).map(|i| format!("f{i:02}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let cluster = cluster("never", &store(&keys)).await;
    let request = v1::ReadDirRequest {
        ino: 1,
        after: "f09".into(),
        limit: 5,
    };
    let mut parts = cluster
        .metadata()
        .read_dir(request)
        .await
        .unwrap()
        .into_inner();
    let first = parts.message().await.unwrap().unwrap();
    let names: Vec<&[u8]> = first.entries.iter().map(|e| e.name.as_ref()).collect();
    assert_eq!(names, [b"f10", b"f11", b"f12", b"f13", b"f14"]);
    assert_eq!((first.parent, first.directory.unwrap().ino), (1, 1));
    assert_eq!(parts.message().await.unwrap(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_whether_a_store_still_answers() {
    let store = store(&["a"]);
    let cluster = cluster("never", &store).await;
    let probe = async |path: &str| {
        let path = path.to_owned();
        let request = v1::ProbeMountRequest { path };
        let answer = cluster.admin().probe_mount(request).await?;
        let refusal = answer.into_inner().refusal;
        Ok::<_, Status>(refusal.map(|r| Code::from_number(r.code as u8)))
    };
    assert_eq!(probe("/").await.unwrap(), None);
    assert_eq!(code_of(&probe("/other").await.unwrap_err()), Code::NotFound);
    store.fail(Operation::Probe, Code::Unavailable, 1);
    assert_eq!(probe("/").await.unwrap(), None, "what may pass has time to");
    store.fail(Operation::Probe, Code::PermissionDenied, 1);
    assert_eq!(probe("/").await.unwrap(), Some(Code::PermissionDenied));
    store.stall(Operation::Probe);
    assert_eq!(probe("/").await.unwrap(), Some(Code::Timeout));
    store.resume();
    assert_eq!(probe("/").await.unwrap(), None);
    cluster.stop().await;
}
