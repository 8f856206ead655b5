//! The S3 under store against scripted answers: what no well-behaved server sends.

use bytes::Bytes;
use forebay_types::{Code, Fingerprint};
use forebay_ufs::{Depth, UnderStore};
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// From the number of a request and its head to the raw answer; `None` closes the connection.
type Script = Arc<dyn Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync>;

struct Server {
    endpoint: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// Ends with the server.
    _tasks: JoinSet<()>,
}

async fn serve(
    script: impl Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Server, Arc<dyn UnderStore>) {
    serve_with(script, &[]).await
}

async fn serve_with(
    script: impl Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
    more: &[(&str, &str)],
) -> (Server, Arc<dyn UnderStore>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let endpoint = format!("http://{address}");
    let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let script: Script = Arc::new(script);
    let mut tasks = JoinSet::new();
    let counters = (connections.clone(), requests.clone());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.expect("it listens");
            counters.0.fetch_add(1, SeqCst);
            connections.spawn(answer(socket, script.clone(), counters.1.clone()));
        }
    });
    let mut options = BTreeMap::from([
        ("endpoint".to_owned(), endpoint.clone()),
        ("anonymous".to_owned(), "true".to_owned()),
    ]);
    options.extend(
        more.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    let store = forebay_ufs::open("s3://bucket/base", &options).expect("the options are good");
    let server = Server {
        endpoint,
        connections,
        requests,
        _tasks: tasks,
    };
    (server, store)
}

async fn answer(mut socket: TcpStream, script: Script, requests: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let number = requests.fetch_add(1, SeqCst);
        let Some(answer) = script(number, &String::from_utf8_lossy(&head)) else {
            return;
        };
        if socket.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn http(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// The right answer to a read of `range` of an object of zeros.
fn part(range: std::ops::Range<u64>, size: u64, etag: &str) -> Vec<u8> {
    let headers = format!(
        "ETag: {etag}\r\nContent-Range: bytes {}-{}/{size}\r\n",
        range.start,
        range.end - 1
    );
    http(
        "206 Partial Content",
        &headers,
        &vec![0; (range.end - range.start) as usize],
    )
}

fn print(size: u64) -> Fingerprint {
    Fingerprint {
        size,
        mtime_ns: 0,
        etag: "\"e\"".to_owned(),
    }
}

async fn read(store: &dyn UnderStore, size: u64) -> forebay_ufs::Result<usize> {
    let body = store.read(b"k", 0..size, &print(size)).await?;
    let pieces: Vec<Bytes> = body.bytes.try_collect().await?;
    Ok(pieces.iter().map(Bytes::len).sum())
}

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let (server, store) = serve(|_, head| {
        assert!(
            head.starts_with("GET /bucket/base/k HTTP/1.1\r\n"),
            "{head}"
        );
        Some(part(0..3_000_000, 3_000_000, "\"e\""))
    })
    .await;
    for _ in 0..20 {
        assert_eq!(read(&*store, 3_000_000).await.unwrap(), 3_000_000);
    }
    assert_eq!(server.connections.load(SeqCst), 1);
    // What ends in the middle is not used again.
    let mut body = store
        .read(b"k", 0..3_000_000, &print(3_000_000))
        .await
        .unwrap();
    body.bytes.try_next().await.unwrap();
    drop(body);
    assert_eq!(read(&*store, 3_000_000).await.unwrap(), 3_000_000);
    assert_eq!(server.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_budget() {
    // Every second request finds the server gone.
    let (server, store) = serve_with(
        |number, _| (number % 2 == 0).then(|| part(0..10, 10, "\"e\"")),
        &[("retry_budget", "0")],
    )
    .await;
    for _ in 0..5 {
        assert_eq!(read(&*store, 10).await.unwrap(), 10);
    }
    assert!(server.connections.load(SeqCst) >= 5);
    assert_eq!(store.requests().retried, 4);
}

#[tokio::test]
async fn a_store_that_ignores_if_match_gives_no_byte_of_another_version() {
    for answer in [
        part(0..100, 100, "\"other\""),
        part(0..100, 200, "\"e\""),
        part(0..50, 50, "\"e\""),
        http("200 OK", "ETag: \"other\"\r\n", &[0; 100]),
        http("200 OK", "ETag: \"e\"\r\n", &[0; 101]),
    ] {
        let (server, store) = serve(move |_, head| {
            assert!(head.contains("if-match: \"e\"\r\n"), "{head}");
            Some(answer.clone())
        })
        .await;
        assert_eq!(read(&*store, 100).await.unwrap_err().code(), Code::Stale);
        assert_eq!(server.requests.load(SeqCst), 1, "no use in trying again");
    }
    let (_server, store) = serve(|_, _| Some(http("200 OK", "ETag: \"e\"\r\n", &[0; 100]))).await;
    assert_eq!(
        read(&*store, 100).await.unwrap(),
        100,
        "the whole is the range"
    );
    let error = store.read(b"k", 5..10, &print(100)).await.err().unwrap();
    assert_eq!(error.code(), Code::Unsupported, "{error}");
}

#[tokio::test]
async fn what_is_no_bucket_says_so() {
    for (answer, code, says) in [
        (
            http("200 OK", "", b"<html>hello</html>"),
            Code::Unsupported,
            "is the endpoint right?",
        ),
        (
            http("404 Not Found", "", b"nothing here"),
            Code::NotFound,
            "is the endpoint an S3 service?",
        ),
        (
            http(
                "301 Moved Permanently",
                "x-amz-bucket-region: eu-west-3\r\n",
                b"<Error><Code>PermanentRedirect</Code></Error>",
            ),
            Code::InvalidArgument,
            "region=eu-west-3",
        ),
        (
            http(
                "400 Bad Request",
                "",
                b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>ap-south-1</Region></Error>",
            ),
            Code::InvalidArgument,
            "region=ap-south-1",
        ),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), Code::Unavailable, "http://"),
    ] {
        let (_server, store) = serve_with(move |_, _| Some(answer.clone()), &[("retries", "0")]).await;
        let error = store.probe().await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message.contains(says), "{error}");
    }
}

#[tokio::test]
async fn to_be_known_alive_costs_one_request_for_metadata() {
    const ONE: &[u8] = b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>base/k</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>\"x\"</ETag><Size>1</Size></Contents></ListBucketResult>";
    const NONE: &[u8] = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    let denied = b"<Error><Code>AccessDenied</Code></Error>";
    // What the store answers to GET (of a listing) and to HEAD.
    let now = Arc::new(Mutex::new((("200 OK", ONE), "200 OK")));
    let script = now.clone();
    let (server, store) = serve(move |_, head| {
        let ((status, listing), object) = *script.lock();
        Some(if head.starts_with("HEAD /bucket/base/k ") {
            http(object, "ETag: \"x\"\r\n", b"")
        } else {
            assert!(head.contains("max-keys=1&prefix=base%2F "), "{head}");
            http(status, "", listing)
        })
    })
    .await;
    let asked = || server.requests.swap(0, SeqCst);
    store.alive().await.unwrap();
    assert_eq!(asked(), 2);
    for _ in 0..3 {
        store.alive().await.unwrap();
        assert_eq!(asked(), 1);
    }
    // That one may not be read, nor another.
    *now.lock() = (("200 OK", ONE), "403 Forbidden");
    let error = store.alive().await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert!(error.message.contains("to list is allowed"), "{error}");
    // Nothing may be done at all.
    *now.lock() = (("403 Forbidden", denied), "403 Forbidden");
    let error = store.alive().await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert!(!error.message.contains("to list is allowed"), "{error}");
    // All objects went: an empty store is none that is away.
    *now.lock() = (("200 OK", NONE), "404 Not Found");
    store.alive().await.unwrap();
    asked();
    store.alive().await.unwrap();
    assert_eq!(asked(), 1);
    // It is overloaded; nothing is sent again here.
    *now.lock() = (("503 Slow Down", NONE), "503 Slow Down");
    assert!(store.alive().await.unwrap_err().code().is_transient());
    assert_eq!(asked(), 1);
}

#[tokio::test]
async fn a_silent_store_ends_in_a_timeout() {
    let (server, store) = serve_with(
        |_, _| Some(Vec::new()),
        &[("retries", "1"), ("request_timeout", "50ms")],
    )
    .await;
    let begun = Instant::now();
    let error = store.stat(b"k").await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    assert!(error.message.contains(&server.endpoint), "{error}");
    assert_eq!(server.requests.load(SeqCst), 2);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn without_start_after_a_large_listing_goes_on_page_by_page() {
    // Ten pages of ten keys; a request that starts in the middle is refused.
    let (server, store) = serve(|_, head| {
        if head.contains("start-after") {
            return Some(http("501 Not Implemented", "", b"<Error><Code>NotImplemented</Code></Error>"));
        }
        let token = head.split("continuation-token=").nth(1);
        let page: usize = token.map_or(0, |t| t[..1].parse().unwrap());
        let keys = (0..10).map(|i| {
            format!("<Contents><Key>base/{page}{i}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>\"x\"</ETag><Size>1</Size></Contents>")
        });
        let keys = keys.collect::<Vec<_>>().concat();
        let more = if page < 9 {
            let next = page + 1;
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>")
        } else {
            "<IsTruncated>false</IsTruncated>".to_owned()
        };
        let body = format!("<ListBucketResult>{keys}{more}</ListBucketResult>");
        Some(http("200 OK", "", body.as_bytes()))
    })
    .await;
    let pages: Vec<_> = store
        .list(b"", Depth::Recursive)
        .try_collect()
        .await
        .unwrap();
    let keys: Vec<_> = pages
        .iter()
        .flat_map(|p| &p.objects)
        .map(|o| &o.key)
        .collect();
    assert_eq!(keys.len(), 100);
    assert!(keys.is_sorted_by(|a, b| a < b));
    // Those of the chain, and the cuts that were refused before it was known.
    assert!(server.requests.load(SeqCst) <= 12);
}
