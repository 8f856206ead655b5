//! The throw-away S3 server keeps the promises that other tests build on. Spoken to in plain
//! HTTP, so that no client library tidies up what is asked for.

#![expect(clippy::unwrap_used, reason = "tests, and helpers of tests")]

use forebay_e2e::s3::{
    Backend, Content, Credentials, Effect, Fault, Memory, Op, S3Server, synthetic,
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

const LONG: Duration = Duration::from_secs(20);

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    whole: bool,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn code(&self) -> String {
        between(&self.text(), "<Code>", "</Code>").concat()
    }

    fn keys(&self) -> Vec<String> {
        between(&self.text(), "<Key>", "</Key>")
    }
}

fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    text.split(open)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(close)?.0.to_owned()))
        .collect()
}

/// One request on a connection of its own. `target` goes out as it is.
fn ask(server: &S3Server, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = send(server, method, target, headers);
    receive(&mut stream)
}

fn send(server: &S3Server, method: &str, target: &str, headers: &[(&str, &str)]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        server.address()
    );
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn receive(stream: &mut TcpStream) -> Answer {
    let mut raw = Vec::new();
    // A cut connection may end in a reset; what came before it counts.
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        raw.extend_from_slice(&buffer[..read]);
    }
    let end = raw
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a complete head");
    let head = String::from_utf8(raw[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body = raw[end + 4..].to_vec();
    let whole = headers
        .get("content-length")
        .is_none_or(|length| length.parse() == Ok(body.len()));
    Answer {
        status,
        headers,
        body,
        whole,
    }
}

fn memory(objects: &[(&str, &[u8])]) -> (Arc<Memory>, S3Server) {
    let memory = Arc::new(Memory::new(&["bucket"]));
    for (key, bytes) in objects {
        put(&memory, key, bytes);
    }
    let server = S3Server::start(memory.clone(), None).unwrap();
    (memory, server)
}

fn put(memory: &Memory, key: &str, bytes: &[u8]) {
    let content = Content::from(bytes::Bytes::copy_from_slice(bytes));
    memory.put("bucket", key, content).unwrap();
}

#[test]
fn odd_keys_are_bytes_like_any_others() {
    let keys = [
        "a//b",
        "/lead",
        "trail/",
        "./a",
        "../up",
        "x/../y",
        "ü",
        "a b+%",
        "tab\there",
        "//",
    ];
    let objects: Vec<(&str, &[u8])> = keys.iter().map(|key| (*key, key.as_bytes())).collect();
    let (_, server) = memory(&objects);
    for key in keys {
        let mut target = "/bucket/".to_owned();
        for byte in key.bytes() {
            match byte {
                b'/' | b'.' | b'a'..=b'z' => target.push(byte as char),
                _ => target.extend([format!("%{byte:02X}")]),
            }
        }
        let answer = ask(&server, "GET", &target, &[]);
        assert_eq!(answer.status, 200, "{key}");
        assert_eq!(answer.text(), key);
    }
    let listed = ask(&server, "GET", "/bucket?list-type=2&encoding-type=url", &[]);
    let mut expected = vec![
        "//",
        "/lead",
        "../up",
        "./a",
        "a+b%2B%25",
        "a//b",
        "tab%09here",
        "trail/",
        "x/../y",
        "%C3%BC",
    ];
    let mut found = listed.keys();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn ranges_and_conditions_are_honoured() {
    let (memory, server) = memory(&[("k", b"0123456789"), ("empty", b"")]);
    let head = ask(&server, "HEAD", "/bucket/k", &[]);
    assert_eq!(head.headers["content-length"], "10");
    let etag = head.headers["etag"].clone();
    let part = ask(
        &server,
        "GET",
        "/bucket/k",
        &[("range", "bytes=2-4"), ("if-match", &etag)],
    );
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.headers["content-range"], "bytes 2-4/10");
    assert_eq!(part.headers["etag"], etag);
    let beyond = ask(&server, "GET", "/bucket/k", &[("range", "bytes=10-")]);
    assert_eq!(
        (beyond.status, beyond.code().as_str()),
        (416, "InvalidRange")
    );
    let empty = ask(&server, "GET", "/bucket/empty", &[]);
    assert_eq!((empty.status, empty.body.len()), (200, 0));

    put(&memory, "k", b"9876543210");
    let stale = ask(&server, "GET", "/bucket/k", &[("if-match", &etag)]);
    assert_eq!(
        (stale.status, stale.code().as_str()),
        (412, "PreconditionFailed")
    );
    assert_eq!(ask(&server, "GET", "/bucket/none", &[]).code(), "NoSuchKey");
    assert_eq!(ask(&server, "GET", "/nobody/k", &[]).code(), "NoSuchBucket");
    assert_eq!(ask(&server, "HEAD", "/nobody", &[]).status, 404);
}

#[test]
fn a_million_keys_are_paged_fast() {
    let memory = Arc::new(Memory::new(&["bucket"]));
    for n in 0..1_000_000 {
        memory
            .put("bucket", &format!("d{}/{n:07}", n % 3), synthetic(n, 1))
            .unwrap();
    }
    let server = S3Server::start(memory, None).unwrap();
    let begun = Instant::now();
    let top = ask(&server, "GET", "/bucket?list-type=2&delimiter=%2F", &[]);
    assert_eq!(
        between(&top.text(), "<Prefix>", "</Prefix>")[1..],
        ["d0/", "d1/", "d2/"]
    );
    let page = ask(
        &server,
        "GET",
        "/bucket?list-type=2&prefix=d1%2F&start-after=d1%2F0900000",
        &[],
    );
    assert_eq!(page.keys().len(), 1_000);
    assert_eq!(page.keys()[0], "d1/0900001");
    let token = between(
        &page.text(),
        "<NextContinuationToken>",
        "</NextContinuationToken>",
    );
    let next = ask(
        &server,
        "GET",
        &format!(
            "/bucket?list-type=2&prefix=d1%2F&max-keys=2&continuation-token={}",
            token[0]
        ),
        &[],
    );
    assert_eq!(next.keys(), ["d1/0903001", "d1/0903004"]);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "no page walks all keys"
    );
}

#[test]
fn only_the_right_key_opens_the_door() {
    let memory = Arc::new(Memory::new(&["bucket"]));
    let credentials = Credentials {
        access_key: "me".into(),
        secret_key: "secret".into(),
    };
    assert!(!format!("{credentials:?}").contains("secret\""));
    let server = S3Server::start(memory, Some(credentials)).unwrap();
    let anonymous = ask(&server, "GET", "/bucket?list-type=2", &[]);
    assert_eq!(
        (anonymous.status, anonymous.code().as_str()),
        (403, "AccessDenied")
    );
    assert_eq!(server.stats().requests(), 0);
}

#[test]
fn faults_strike_what_they_are_aimed_at() {
    let (_, server) = memory(&[("a/1", b"0123456789"), ("b/1", b"0123456789")]);
    let slow = server.inject(
        Fault::new(Effect::SlowDown)
            .on(Op::Get)
            .below("a/")
            .times(2),
    );
    for status in [503, 503, 200] {
        assert_eq!(ask(&server, "GET", "/bucket/b/1", &[]).status, 200);
        assert_eq!(ask(&server, "HEAD", "/bucket/a/1", &[]).status, 200);
        assert_eq!(ask(&server, "GET", "/bucket/a/1", &[]).status, status);
    }
    assert_eq!(slow.hits(), 2);
    slow.lift();

    let cut = server.inject(Fault::new(Effect::CutBody(3)));
    let broken = ask(&server, "GET", "/bucket/a/1", &[("range", "bytes=4-9")]);
    assert_eq!((broken.text().as_str(), broken.whole), ("456", false));
    cut.lift();

    let late = server.inject(Fault::new(Effect::Delay(Duration::from_millis(50))));
    let begun = Instant::now();
    assert_eq!(ask(&server, "GET", "/bucket/a/1", &[]).status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    late.lift();

    let stats = server.stats();
    assert_eq!((stats.get, stats.head, stats.struck), (8, 3, 4));
    assert_eq!(stats.bytes, 5 * 10 + 3);
}

#[test]
fn what_is_held_goes_on_with_the_old_bytes() {
    let (memory, server) = memory(&[("k", b"old bytes"), ("other", b"x")]);
    let hold = server.inject(Fault::new(Effect::HoldBody(4)).below("k"));
    let mut stream = send(&server, "GET", "/bucket/k", &[]);
    assert!(hold.wait_for_hits(1, LONG));
    assert_eq!(ask(&server, "GET", "/bucket/other", &[]).text(), "x");
    put(&memory, "k", b"new bytes");
    hold.lift();
    let answer = receive(&mut stream);
    assert_eq!((answer.text().as_str(), answer.whole), ("old bytes", true));
    assert_eq!(ask(&server, "GET", "/bucket/k", &[]).text(), "new bytes");

    let hold = server.inject(Fault::new(Effect::Hold).on(Op::Head));
    let mut stream = send(&server, "HEAD", "/bucket/k", &[]);
    assert!(hold.wait_for_hits(1, LONG));
    hold.lift();
    assert_eq!(receive(&mut stream).status, 200);
}

#[test]
fn a_server_that_was_dropped_is_gone_and_can_come_back() {
    let (memory, server) = memory(&[("k", b"x")]);
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
    let server = S3Server::start_at(address, memory, None).unwrap();
    assert_eq!(ask(&server, "GET", "/bucket/k", &[]).text(), "x");
}
