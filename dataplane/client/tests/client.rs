//! The client against a master and workers in memory, over real gRPC.
#![allow(clippy::unwrap_used, reason = "tests and what supports them")]

#[path = "support/master.rs"]
#[expect(dead_code, reason = "shared with the tests of the FUSE host")]
mod master;
#[path = "support/worker.rs"]
mod worker;

use forebay_client::{
    Invalidation, LocalWorker, Master, Namespace, ReadAhead, RemoteReader, SocketWorker,
    seqpacket::{Listener, MAX_PACKET, Socket},
};
use forebay_proto::v1;
use forebay_types::{Code, ContentVersion, FileId, FileRef, Fingerprint, Ino, MountId, Name};
use futures::FutureExt;
use master::{FakeMaster, ROOT};
use prost::Message;
use std::{
    os::{fd::AsFd, unix::fs::FileExt},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use worker::{FakeWorker, bytes};

const MIB: u64 = 1 << 20;
const LEASE: Duration = Duration::from_mins(1);

fn name(text: &str) -> Name {
    Name::new(text.to_owned()).unwrap()
}

struct Fixture {
    dir: tempfile::TempDir,
    master: FakeMaster,
    namespace: Namespace,
    _stop: tokio_util::sync::DropGuard,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let master = FakeMaster::start(&dir.path().join("master"), LEASE);
    let stop = CancellationToken::new();
    let namespace = Namespace::connect(Master::new(master.address()), 8 << 20, stop.clone())
        .await
        .unwrap();
    Fixture {
        dir,
        master,
        namespace,
        _stop: stop.drop_guard(),
    }
}

/// Waits until `holds`; the test's own time limit ends it otherwise.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it comes to hold");
}

#[tokio::test]
async fn a_cached_answer_asks_nobody_and_is_ready_at_once() {
    let f = fixture().await;
    let ino = f.master.add_file(ROOT, "a", 5);
    let found = f.namespace.lookup(Ino(ROOT), &name("a")).await.unwrap();
    assert_eq!(found.value.unwrap().ino, Ino(ino));
    assert!(found.valid > LEASE / 2);
    f.namespace.file_ref(Ino(ino)).await.unwrap();
    for _ in 0..10 {
        f.namespace
            .lookup(Ino(ROOT), &name("a"))
            .now_or_never()
            .unwrap()
            .unwrap();
        f.namespace.attr(Ino(ino)).now_or_never().unwrap().unwrap();
        f.namespace
            .file_ref(Ino(ino))
            .now_or_never()
            .unwrap()
            .unwrap();
    }
    assert_eq!((f.master.calls("lookup"), f.master.calls("open")), (1, 1));
    let absent = f.namespace.lookup(Ino(ROOT), &name("b")).await.unwrap();
    assert!(absent.value.is_none() && absent.valid > LEASE / 2);
}

#[tokio::test]
async fn lookups_in_one_directory_become_one_listing() {
    let f = fixture().await;
    for i in 0..3000 {
        f.master.add_file(ROOT, &format!("f{i:04}"), 1);
    }
    for i in 0..3000 {
        let found = f
            .namespace
            .lookup(Ino(ROOT), &name(&format!("f{i:04}")))
            .await
            .unwrap();
        assert!(found.value.is_some());
    }
    let absent = f
        .namespace
        .lookup(Ino(ROOT), &name("nope"))
        .now_or_never()
        .unwrap();
    assert!(absent.unwrap().value.is_none());
    assert_eq!(
        (f.master.calls("lookup"), f.master.calls("readdir")),
        (3, 1)
    );
}

#[tokio::test]
async fn identical_questions_share_one_call() {
    let f = fixture().await;
    f.master.add_file(ROOT, "a", 1);
    f.master.hold();
    let asks: Vec<_> = (0..16)
        .map(|_| {
            let namespace = f.namespace.clone();
            tokio::spawn(async move { namespace.lookup(Ino(ROOT), &name("a")).await.unwrap() })
        })
        .collect();
    until(async || f.master.calls("lookup") + f.master.calls("readdir") >= 2).await;
    f.master.release();
    for ask in asks {
        assert!(ask.await.unwrap().value.is_some());
    }
    assert!(
        f.master.calls("lookup") <= 2,
        "{}",
        f.master.calls("lookup")
    );
}

#[tokio::test]
async fn a_change_reaches_the_cache_and_the_listener() {
    let f = fixture().await;
    let old = f.master.add_file(ROOT, "a", 5);
    let mut changes = f.namespace.invalidations();
    f.namespace.read_dir(Ino(ROOT)).await.unwrap();
    let new = f.master.put(ROOT, "a", 9);
    assert_eq!(
        changes.recv().await.unwrap(),
        Invalidation::Entry(Ino(ROOT), name("a"))
    );
    let found = f
        .namespace
        .lookup(Ino(ROOT), &name("a"))
        .await
        .unwrap()
        .value
        .unwrap();
    assert!(new != old && found.ino == Ino(new) && found.size == 9);
    let listing = f.namespace.read_dir(Ino(ROOT)).await.unwrap().value;
    assert_eq!(listing.entries[0].1.ino, Ino(new));
}

#[tokio::test]
async fn an_answer_overtaken_by_a_change_is_given_but_not_kept() {
    let f = fixture().await;
    let old = f.master.add_file(ROOT, "a", 5);
    let mut changes = f.namespace.invalidations();
    f.master.hold();
    let namespace = f.namespace.clone();
    let asked = tokio::spawn(async move { namespace.lookup(Ino(ROOT), &name("a")).await.unwrap() });
    until(async || f.master.calls("lookup") == 1).await;
    let new = f.master.put(ROOT, "a", 9);
    changes.recv().await.unwrap();
    f.master.release();
    let answer = asked.await.unwrap();
    assert_eq!(
        (answer.value.unwrap().ino, answer.valid),
        (Ino(old), Duration::ZERO)
    );
    let again = f.namespace.lookup(Ino(ROOT), &name("a")).await.unwrap();
    assert_eq!(again.value.unwrap().ino, Ino(new));
}

#[tokio::test]
async fn a_lost_stream_voids_everything_and_caching_resumes_with_the_next() {
    let f = fixture().await;
    f.master.add_file(ROOT, "a", 5);
    f.namespace.lookup(Ino(ROOT), &name("a")).await.unwrap();
    let mut changes = f.namespace.invalidations();
    let new = f.master.add_file(ROOT, "a", 6);
    f.master.cut_watches();
    assert_eq!(changes.recv().await.unwrap(), Invalidation::All);
    let found = f.namespace.lookup(Ino(ROOT), &name("a")).await.unwrap();
    assert_eq!(found.value.unwrap().ino, Ino(new));
    until(async || {
        let found = f.namespace.lookup(Ino(ROOT), &name("a")).await.unwrap();
        found.valid > Duration::ZERO
    })
    .await;
    assert_eq!(f.master.watchers(), 1);
}

fn file(ino: u64, size: u64) -> FileRef {
    FileRef {
        id: FileId {
            ino: Ino(ino),
            version: ContentVersion(1),
        },
        mount: MountId(1),
        key: "k".into(),
        fingerprint: Fingerprint {
            size,
            ..Fingerprint::default()
        },
    }
}

fn readers(f: &Fixture, workers: usize) -> (RemoteReader, Vec<FakeWorker>) {
    let workers: Vec<FakeWorker> = (0..workers)
        .map(|i| FakeWorker::start(&f.dir.path().join(format!("w{i}"))))
        .collect();
    f.master
        .set_workers(workers.iter().zip(1..).map(|(w, id)| w.row(id)).collect());
    (
        RemoteReader::new(f.master.address(), &ReadAhead::new(16 << 20)),
        workers,
    )
}

#[tokio::test]
async fn a_sequential_reader_gets_the_right_bytes_with_few_requests() {
    let f = fixture().await;
    let (reader, workers) = readers(&f, 2);
    let file = file(3, 20 * MIB + 77);
    let mut at = 0;
    while at < file.size() {
        let got = reader.read(&file, at..at + 300_000).await.unwrap();
        let end = (at + 300_000).min(file.size());
        assert!(got == bytes(3, at..end), "at {at}");
        at = end;
    }
    let reads: u64 = workers
        .iter()
        .map(|w| w.conduct.reads.load(Ordering::Relaxed))
        .sum();
    let sent: u64 = workers
        .iter()
        .map(|w| w.conduct.sent.load(Ordering::Relaxed))
        .sum();
    assert!(reads < 25, "{reads}");
    assert!(sent < file.size() + 3 * MIB, "{sent}");
}

#[tokio::test]
async fn a_random_reader_fetches_what_it_asks_for() {
    let f = fixture().await;
    let (reader, workers) = readers(&f, 1);
    let file = file(4, 1 << 30);
    for i in 1..50u64 {
        let at = i * 7919 % 101 * 8 * MIB + 13;
        assert!(reader.read(&file, at..at + 4096).await.unwrap() == bytes(4, at..at + 4096));
    }
    assert_eq!(workers[0].conduct.sent.load(Ordering::Relaxed), 49 * 4096);
}

#[tokio::test]
async fn another_home_goes_on_where_one_breaks_off() {
    let f = fixture().await;
    let (reader, workers) = readers(&f, 3);
    for ino in 1..=6 {
        let file = file(ino, 5 * MIB);
        let failing = &workers[ino as usize % 3].conduct;
        failing.breaks_after.store(2 * MIB, Ordering::Relaxed);
        let dead = &workers[(ino as usize + 1) % 3].conduct;
        dead.refuses
            .store(Code::Unavailable as u64, Ordering::Relaxed);
        assert!(reader.read(&file, 0..5 * MIB).await.unwrap() == bytes(ino, 0..5 * MIB));
        failing.breaks_after.store(0, Ordering::Relaxed);
        dead.refuses.store(0, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn stale_content_is_told_at_once_and_no_worker_is_said() {
    let f = fixture().await;
    let (reader, workers) = readers(&f, 2);
    for worker in &workers {
        worker
            .conduct
            .refuses
            .store(Code::Stale as u64, Ordering::Relaxed);
    }
    let error = reader.read(&file(1, 10), 0..10).await.unwrap_err();
    assert_eq!(error.code, Code::Stale);
    let reads: u64 = workers
        .iter()
        .map(|w| w.conduct.reads.load(Ordering::Relaxed))
        .sum();
    assert_eq!(reads, 1);
    f.master.set_workers(Vec::new());
    let reader = RemoteReader::new(f.master.address(), &ReadAhead::new(MIB));
    let error = reader.read(&file(1, 10), 0..10).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("no live worker"), "{error}");
}

/// A local worker's end of the socket that answers opens with a file and counts releases.
async fn serve_one(socket: Socket, leases: u64) -> Vec<u64> {
    let mut buffer = vec![0; MAX_PACKET];
    let mut released = Vec::new();
    let mut lease = leases;
    while let Ok(Some(packet)) = socket.recv(&mut buffer).await {
        let request = v1::LocalRequest::decode(&buffer[..packet.len]).unwrap();
        let mut answer = v1::LocalResponse {
            id: request.id,
            ..Default::default()
        };
        match request.call.unwrap() {
            v1::local_request::Call::Open(open) => {
                lease += 1;
                let content = tempfile::tempfile().unwrap();
                let ino = open.file.unwrap().ino;
                content
                    .write_all_at(format!("file {ino}").as_bytes(), 0)
                    .unwrap();
                (answer.lease, answer.whole) = (lease, ino % 2 == 0);
                socket
                    .send(&answer.encode_to_vec(), Some(content.as_fd()))
                    .await
                    .unwrap();
            }
            v1::local_request::Call::Ensure(ensure) if ensure.offset == 666 => return released,
            v1::local_request::Call::Ensure(ensure) => {
                answer.code = if ensure.offset == 13 {
                    Code::Stale as u32
                } else {
                    0
                };
                socket.send(&answer.encode_to_vec(), None).await.unwrap();
            }
            v1::local_request::Call::Release(lease) => released.push(lease),
        }
    }
    released
}

#[tokio::test]
async fn descriptors_come_over_the_socket_and_a_restart_of_the_worker_voids_leases() {
    let f = fixture().await;
    let path = f.dir.path().join("local");
    let listener = Listener::bind(&path).unwrap();
    let remote = Arc::new(RemoteReader::new(f.master.address(), &ReadAhead::new(MIB)));
    let stop = CancellationToken::new();
    let worker = SocketWorker::connect(&path, remote, stop.clone())
        .await
        .unwrap();
    let mut recalls = worker.take_recalls().unwrap();
    let server = tokio::spawn(serve_one(listener.accept().await.unwrap(), 100));

    let (two, three) = tokio::join!(async { worker.open(&file(2, 6)).await.unwrap() }, async {
        worker.open(&file(3, 6)).await.unwrap()
    },);
    assert!(two.whole && !three.whole);
    let mut text = [0; 6];
    two.file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"file 2");
    worker.ensure(two.lease, 0..6).await.unwrap();
    assert_eq!(
        worker.ensure(two.lease, 13..14).await.unwrap_err().code,
        Code::Stale
    );
    worker.release(three.lease);

    // The worker dies in the middle of a call.
    let error = worker.ensure(two.lease, 666..667).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(server.await.unwrap().len(), 1);
    assert_eq!(recalls.recv().await, Some(two.lease));

    let server = tokio::spawn(serve_one(listener.accept().await.unwrap(), 100));
    let mut again = None;
    until(async || {
        again = worker.open(&file(4, 6)).await.ok();
        again.is_some()
    })
    .await;
    assert_ne!(
        again.unwrap().lease,
        two.lease,
        "the number is the same, the connection is not"
    );
    assert_eq!(
        worker.ensure(two.lease, 0..6).await.unwrap_err().code,
        Code::Unavailable
    );
    worker.release(two.lease);
    stop.cancel();
    drop(worker);
    assert!(server.await.unwrap().is_empty());
}
