//! The S3 under store against a real server: signatures, failures, changes, a million keys.

use bytes::Bytes;
use forebay_e2e::s3::{
    Backend, Content, Credentials, Effect, Fault, Memory, Op, S3Server, synthetic,
};
use forebay_types::Code;
use forebay_ufs::{
    Depth, Object, UnderStore,
    conformance::{self, Keys, Put},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::Arc,
    time::Instant,
};

const BUCKET: &str = "bucket";

fn options(server: &S3Server, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let base = [("endpoint", server.endpoint.as_str())];
    let all = base.iter().chain(more);
    all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A server without keys, and the store over it.
fn open(more: &[(&str, &str)]) -> (Arc<Memory>, S3Server, Arc<dyn UnderStore>) {
    let memory = Arc::new(Memory::new(&[BUCKET]));
    let server = S3Server::start(memory.clone(), None).expect("loopback has a port");
    let mut options = options(&server, more);
    options.insert("anonymous".to_owned(), "true".to_owned());
    let store = forebay_ufs::open("s3://bucket", &options).expect("the options are good");
    (memory, server, store)
}

fn put(memory: &Memory, key: &str, content: Content) {
    memory
        .put(BUCKET, key, content)
        .expect("the bucket is there");
}

async fn read(store: &dyn UnderStore, object: &Object) -> forebay_ufs::Result<Vec<u8>> {
    let range = 0..object.fingerprint.size;
    let body = store.read(&object.key, range, &object.fingerprint).await?;
    Ok(body.bytes.try_collect::<Vec<Bytes>>().await?.concat())
}

/// Runs one test of this file again with credentials in its environment, which a process should
/// not change for itself. Returns whether this already is that process.
fn with_environment(test: &str, variables: &[(&str, &str)]) -> bool {
    const MARK: &str = "FOREBAY_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1")
        .envs(variables.iter().copied())
        .output()
        .expect("it runs once more");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("hunter2"), "a secret is printed: {text}");
    false
}

#[test]
fn signed_requests_pass_the_suite() {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIATEST"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2/+="),
    ];
    if !with_environment("signed_requests_pass_the_suite", &variables) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let memory = Arc::new(Memory::new(&[BUCKET]));
        let keys = Credentials {
            access_key: "AKIATEST".to_owned(),
            secret_key: "hunter2/+=".to_owned(),
        };
        let server = S3Server::start(memory.clone(), Some(keys)).unwrap();
        let store = forebay_ufs::open("s3://bucket/été //..", &options(&server, &[])).unwrap();
        let put: Put = Arc::new(move |key, bytes| {
            put(&memory, &format!("été //../{key}"), bytes.into());
            Box::pin(async {})
        });
        conformance::run(store, put, Keys::Any).await;
    });
}

#[test]
fn wrong_keys_and_a_missing_bucket_are_said_at_probe() {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIATEST"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    if !with_environment(
        "wrong_keys_and_a_missing_bucket_are_said_at_probe",
        &variables,
    ) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for (id, secret, bucket, code, says) in [
            (
                "AKIATEST",
                "other",
                "bucket",
                Code::PermissionDenied,
                "AWS_SECRET_ACCESS_KEY",
            ),
            (
                "AKIAOTHER",
                "hunter2",
                "bucket",
                Code::PermissionDenied,
                "AWS_ACCESS_KEY_ID",
            ),
            (
                "AKIATEST",
                "hunter2",
                "nobucket",
                Code::NotFound,
                "no such bucket",
            ),
        ] {
            let keys = Credentials {
                access_key: id.to_owned(),
                secret_key: secret.to_owned(),
            };
            let memory = Arc::new(Memory::new(&[BUCKET]));
            let server = S3Server::start(memory, Some(keys)).unwrap();
            let uri = format!("s3://{bucket}/x");
            let store = forebay_ufs::open(&uri, &options(&server, &[])).unwrap();
            let error = store.probe().await.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message.contains(says), "{error}");
            assert!(error.message.contains(&uri), "{error}");
        }
    });
}

#[tokio::test]
async fn an_unreachable_store_is_said_at_probe() {
    let (_, server, _) = open(&[]);
    let options = options(&server, &[("anonymous", "true"), ("retries", "1")]);
    let endpoint = server.endpoint.clone();
    drop(server);
    let store = forebay_ufs::open("s3://bucket", &options).unwrap();
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message.contains(&endpoint), "{error}");
}

#[tokio::test]
async fn transient_failures_are_tried_again_and_lasting_ones_end() {
    let (memory, server, store) = open(&[("retries", "3")]);
    put(&memory, "x", synthetic(1, 100_000));
    for effect in [Effect::SlowDown, Effect::InternalError] {
        let before = store.requests();
        let fault = server.inject(Fault::new(effect).on(Op::Get).times(2));
        let object = store.stat(b"x").await.unwrap();
        assert_eq!(read(&*store, &object).await.unwrap().len(), 100_000);
        assert_eq!(fault.hits(), 2);
        let after = store.requests();
        assert_eq!(
            (after.retried - before.retried, after.read - before.read),
            (2, 3)
        );
    }
    let fault = server.inject(Fault::new(Effect::SlowDown).on(Op::List));
    let error = store.probe().await.unwrap_err();
    assert_eq!((error.code(), fault.hits()), (Code::Busy, 4));
    assert!(error.message.contains("3 more tries"), "{error}");
    fault.lift();
    let _denied = server.inject(Fault::new(Effect::AccessDenied).on(Op::List));
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message.contains("s3:ListBucket"), "{error}");
}

#[tokio::test]
async fn a_body_that_breaks_or_stalls_goes_on_where_it_stopped() {
    let (memory, server, store) = open(&[("idle_timeout", "150ms")]);
    let content = synthetic(2, 3_000_000);
    put(&memory, "x", content.clone());
    let want = content.bytes(0..3_000_000).unwrap();
    let object = store.stat(b"x").await.unwrap();
    for effect in [Effect::CutBody(1_000_000), Effect::HoldBody(700_000)] {
        let before = (store.requests(), server.stats());
        let fault = server.inject(Fault::new(effect).on(Op::Get).times(2));
        assert!(read(&*store, &object).await.unwrap() == want, "{effect:?}");
        assert_eq!(fault.hits(), 2);
        assert_eq!(store.requests().retried - before.0.retried, 2, "{effect:?}");
        assert_eq!(server.stats().get - before.1.get, 3);
    }
    assert_eq!(store.requests().bytes, 6_000_000, "no byte comes twice");
}

#[tokio::test]
async fn an_object_that_changes_in_the_middle_is_stale_and_never_mixed() {
    let (memory, server, store) = open(&[]);
    put(&memory, "x", synthetic(3, 2_000_000));
    let object = store.stat(b"x").await.unwrap();
    let _cut = server.inject(Fault::new(Effect::CutBody(500_000)).on(Op::Get).times(1));
    let range = 0..2_000_000;
    let body = store
        .read(b"x", range, &object.fingerprint)
        .await
        .unwrap()
        .bytes;
    put(&memory, "x", synthetic(4, 2_000_000));
    let pieces: Vec<_> = body.collect().await;
    assert_eq!(
        pieces.last().unwrap().as_ref().unwrap_err().code(),
        Code::Stale
    );
    let got: Vec<u8> = pieces
        .iter()
        .filter_map(|p| p.as_ref().ok())
        .flatten()
        .copied()
        .collect();
    let old = synthetic(3, 2_000_000).bytes(0..got.len() as u64).unwrap();
    assert!(got == old, "what came before is the old content");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_keys_in_one_prefix_are_listed_in_parallel_ranges() {
    const KEYS: usize = 1_000_000;
    let (memory, server, store) = open(&[]);
    for i in 0..KEYS {
        put(
            &memory,
            &format!("flat/img_{i:08}.jpg"),
            Content::from(Bytes::new()),
        );
    }
    put(&memory, "flat0", Content::from(Bytes::new()));
    // A round trip of the kind a real bucket has: in one chain this alone would be 20 s.
    let _slow = server.inject(Fault::new(Effect::Delay(std::time::Duration::from_millis(
        20,
    ))));
    let begun = Instant::now();
    let mut seen = BTreeSet::new();
    let mut listing = store.list(b"flat/", Depth::Directory);
    while let Some(page) = listing.try_next().await.unwrap() {
        for object in page.objects {
            assert!(seen.insert(object.key), "listed twice");
        }
    }
    let took = begun.elapsed();
    assert_eq!(seen.len(), KEYS);
    let requests = store.requests().list;
    println!("{KEYS} keys in {took:?} with {requests} requests");
    assert!(requests < 1_400, "{requests} requests for 1000 pages");
}

/// Bare numbers of this client against the server in the same process: run it with
/// `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an idle machine: it measures"]
async fn throughput() {
    let (memory, _server, store) = open(&[]);
    let size = 1 << 30;
    put(&memory, "large", synthetic(5, size));
    for i in 0..10_000 {
        put(&memory, &format!("small/{i}"), synthetic(i, 110_000));
    }
    let cpu = || {
        let usage = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = usage.rsplit_once(')').unwrap().1.split(' ').collect();
        fields[12].parse::<u64>().unwrap() * 10 + fields[13].parse::<u64>().unwrap() * 10
    };
    for _ in 0..3 {
        let object = store.stat(b"large").await.unwrap();
        let (begun, used) = (Instant::now(), cpu());
        let pieces = stream::iter((0..size).step_by(8 << 20))
            .map(|start| {
                let (store, object) = (store.clone(), object.clone());
                tokio::spawn(async move {
                    let end = start + (8 << 20);
                    let body = store
                        .read(&object.key, start..end, &object.fingerprint)
                        .await
                        .unwrap();
                    body.bytes
                        .try_fold((0, 0), async |(n, bytes), piece| {
                            Ok((n + 1, bytes + piece.len()))
                        })
                        .await
                        .unwrap()
                })
            })
            .buffer_unordered(8)
            .map(Result::unwrap);
        let (pieces, bytes) = pieces
            .fold((0, 0), async |(n, b), (m, c)| (n + m, b + c))
            .await;
        let took = begun.elapsed().as_secs_f64();
        println!(
            "1 GiB by 8 x 8 MiB: {:.0} MiB/s, {} KiB per piece, {} ms CPU with the server",
            1024.0 / took,
            bytes / pieces / 1024,
            cpu() - used
        );
    }
    for _ in 0..3 {
        let pages: Vec<_> = store
            .list(b"small/", Depth::Directory)
            .try_collect()
            .await
            .unwrap();
        let objects = pages.into_iter().flat_map(|p| p.objects);
        let (begun, used) = (Instant::now(), cpu());
        let done = stream::iter(objects)
            .map(|object| {
                let store = store.clone();
                tokio::spawn(async move { read(&*store, &object).await.unwrap().len() })
            })
            .buffer_unordered(32)
            .map(Result::unwrap);
        let bytes: usize = done.fold(0, async |sum, n| sum + n).await;
        assert_eq!(bytes, 1_100_000_000);
        let took = begun.elapsed().as_secs_f64();
        println!(
            "10,000 x 110 KB by 32: {:.0} objects/s, {} us CPU each with the server",
            10_000.0 / took,
            (cpu() - used) / 10
        );
    }
}
