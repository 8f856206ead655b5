//! Scratch mounts, mounts at run time, and the stream of calls.

use crate::fixture::{Cluster, Stores, eventually};
use forebay_client::{Access, Master, Session};
use forebay_proto::{
    convert::code_of,
    v1::{self, call},
};
use forebay_types::{Code, Ino, MountSpec, Name};
use forebay_ufs::memory::{MemStore, Operation};
use futures::future::join_all;
use std::sync::Arc;

const ACCESS: Access = Access {
    mode: 0o640,
    uid: 3,
    gid: 4,
};

fn name(text: impl Into<String>) -> Name {
    Name::new(text.into()).unwrap()
}

fn store() -> Arc<MemStore> {
    let store = MemStore::new();
    store.put("d/f", "x");
    Arc::new(store)
}

async fn mount(cluster: &Cluster, path: &str, uri: &str) -> Result<u32, Code> {
    let mount = v1::Mount {
        path: path.to_owned(),
        uri: uri.to_owned(),
        sync: "never".to_owned(),
        ..v1::Mount::default()
    };
    let request = v1::MountRequest { mount: Some(mount) };
    let answer = cluster.admin().mount(request).await;
    answer
        .map(|answer| answer.into_inner().id)
        .map_err(|status| code_of(&status))
}

async fn unmount(cluster: &Cluster, path: &str) -> Result<(), Code> {
    let path = path.to_owned();
    let answer = cluster.admin().unmount(v1::UnmountRequest { path }).await;
    answer.map(drop).map_err(|status| code_of(&status))
}

/// A session of its own, and the inode of the scratch mount.
async fn session(cluster: &Cluster) -> (Session, Ino) {
    let master = Master::new(cluster.address());
    let session = Session::open(&master, "test").await.unwrap();
    let top = cluster.resolve("/s").await.unwrap().ino;
    (session, Ino(top))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_change_a_scratch_mount_and_nothing_else() {
    let cluster = Cluster::start(vec![("/ufs", "never", store())]).await;
    mount(&cluster, "/s", MountSpec::SCRATCH).await.unwrap();
    let (session, s) = session(&cluster).await;
    let d = session.mkdir(s, &name("d"), ACCESS).await.unwrap().ino;
    let creates = (0..300).map(|n| {
        let session = session.clone();
        async move { session.create(d, &name(format!("{n:03}")), ACCESS).await }
    });
    let made = join_all(creates).await;
    assert_eq!(cluster.names("/s/d").await.len(), 300);
    for (n, attr) in made.into_iter().enumerate() {
        let found = cluster.lookup(d.0, &format!("{n:03}")).await.unwrap();
        assert_eq!(found.attr.unwrap(), attr.unwrap().into());
        assert_eq!(found.lease_ms, 3_600_000);
    }
    let zero = name("000");
    session.rename((d, &zero), (s, &zero), true).await.unwrap();
    session.remove(d, &name("001")).await.unwrap();
    let refused = |result: Result<(), forebay_client::Error>| result.unwrap_err().code;
    assert_eq!(
        refused(session.remove_dir(s, &name("d")).await),
        Code::NotEmpty
    );
    assert_eq!(cluster.names("/s").await, ["000", "d"]);
    let ufs = cluster.resolve("/ufs/d").await.unwrap().ino;
    let read_only = session.create(Ino(ufs), &name("x"), ACCESS).await;
    assert_eq!(refused(read_only.map(drop)), Code::ReadOnly);
    let read_only = session.mkdir(Ino::ROOT, &name("x"), ACCESS).await;
    assert_eq!(refused(read_only.map(drop)), Code::ReadOnly);
    // There are no bytes to open, and nothing to compare with.
    let ino = cluster.resolve("/s/000").await.unwrap().ino;
    let open = cluster.calls().open_file(v1::OpenFileRequest { ino }).await;
    assert_eq!(code_of(&open.unwrap_err()), Code::Unsupported);
    assert_eq!(cluster.sync("/s").await.unwrap().removed, 0);
    assert_eq!(cluster.names("/s").await, ["000", "d"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_sent_again_has_its_effect_once() {
    let cluster = Cluster::start(vec![]).await;
    mount(&cluster, "/s", MountSpec::SCRATCH).await.unwrap();
    let s = cluster.resolve("/s").await.unwrap().ino;
    let request = v1::OpenSessionRequest::default();
    let opened = cluster.metadata().open_session(request).await.unwrap();
    let id = |sequence| v1::RequestId {
        session: opened.get_ref().session,
        sequence,
        acknowledged: 0,
    };
    let create = |text: &str| {
        call::What::Create(v1::MakeRequest {
            parent: s,
            name: text.to_owned().into(),
            ..v1::MakeRequest::default()
        })
    };
    let calls = cluster.calls();
    // In one message, and later.
    let twice = tokio::join!(
        calls.change(id(1), create("a")),
        calls.change(id(1), create("a"))
    );
    let first = twice.0.unwrap().unwrap();
    assert_eq!(twice.1.unwrap(), Some(first));
    assert_eq!(calls.change(id(1), create("a")).await.unwrap(), Some(first));
    let other = calls.change(id(2), create("a")).await.unwrap_err();
    assert_eq!(code_of(&other), Code::AlreadyExists);
    let nobody = v1::RequestId {
        session: 999,
        ..id(3)
    };
    let lost = calls.change(nobody, create("b")).await.unwrap_err();
    assert_eq!(code_of(&lost), Code::Stale);
    assert_eq!(cluster.names("/s").await, ["a"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_with_the_next_master() {
    let stores = || -> Stores { vec![("/ufs", "never", store())] };
    let cluster = Cluster::start(stores()).await;
    mount(&cluster, "/s", MountSpec::SCRATCH).await.unwrap();
    let (session, s) = session(&cluster).await;
    session.create(s, &name("before"), ACCESS).await.unwrap();
    let cluster = Cluster::start_in(cluster.stop().await, stores()).await;
    session.create(s, &name("after"), ACCESS).await.unwrap();
    assert_eq!(cluster.names("/s").await, ["after", "before"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_made_by_a_call_outlive_restarts_and_configured_ones_follow_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let uri = format!("file://{}", dir.path().display());
    let stores = || -> Stores { vec![("/ufs", "never", store())] };
    let cluster = Cluster::start(stores()).await;
    let id = mount(&cluster, "/asked", &uri).await.unwrap();
    assert_eq!(mount(&cluster, "/asked", &uri).await, Ok(id));
    assert_eq!(cluster.names("/asked").await, ["f"]);
    assert_eq!(
        mount(&cluster, "/asked", MountSpec::SCRATCH).await,
        Err(Code::AlreadyExists)
    );
    assert_eq!(
        mount(&cluster, "a//b", MountSpec::SCRATCH).await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(
        mount(&cluster, "/ufs", MountSpec::SCRATCH).await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(
        unmount(&cluster, "/ufs").await,
        Err(Code::InvalidArgument),
        "it is configured"
    );
    let cluster = Cluster::start_in(cluster.stop().await, vec![]).await;
    assert_eq!(cluster.names("/").await, ["asked"]);
    assert_eq!(cluster.sync("/asked").await.unwrap().directories, 1);
    unmount(&cluster, "/asked").await.unwrap();
    assert_eq!(unmount(&cluster, "/asked").await, Err(Code::NotFound));
    assert!(cluster.names("/").await.is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_under_store_holds_up_only_those_who_ask_for_it() {
    let store = store();
    let cluster = Cluster::start(vec![("/ufs", "never", store.clone())]).await;
    let ufs = cluster.resolve("/ufs").await.unwrap().ino;
    store.stall(Operation::List);
    let calls = cluster.calls().clone();
    let request = v1::LookupRequest {
        parent: ufs,
        name: "d".into(),
    };
    let slow = tokio::spawn(async move { calls.lookup(request).await });
    eventually("the listing", || async { store.requests().list > 0 }).await;
    let root = cluster
        .calls()
        .get_attr(v1::GetAttrRequest { ino: 1 })
        .await;
    assert_eq!(root.unwrap().attr.unwrap().ino, 1);
    assert!(!slow.is_finished());
    store.resume();
    assert!(slow.await.unwrap().unwrap().attr.is_some());
    cluster.stop().await;
}
