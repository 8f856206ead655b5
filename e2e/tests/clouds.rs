//! The under stores of Azure and GCS against emulators: the suite that every under store is held to.
//!
//! `make test-clouds` installs the emulators, puts them on the `PATH` and runs this.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_ufs::conformance::{self, Keys, Put};
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long an emulator may take until it listens.
const READY: Duration = Duration::from_mins(1);
const AZURE_ACCOUNT: &str = "devstoreaccount1";
/// All rights on the blobs of Azurite's development account, signed with its published key.
const AZURE_RIGHTS: &str = "sv=2019-12-12&ss=b&srt=sco&sp=rwdlac&se=2100-01-01T00:00:00Z&spr=https,http&sig=ZzTGeLMtwFb7xV2LYRu4iwPNIt0Vgyfl2vsiEbW%2F0c4%3D";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs azurite"]
async fn azure_is_an_under_store() {
    let emulator = Emulator::start(
        "azurite-blob",
        "successfully listens",
        |command, port, data| {
            command
                .args(["--blobPort", port, "--location"])
                .arg(data)
                .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
        },
    )
    .unwrap();
    assert!(
        env::var_os("AZURE_STORAGE_ACCOUNT_KEY").is_some(),
        "signing needs AZURE_STORAGE_ACCOUNT_KEY: run make test-clouds"
    );
    for (container, anonymous) in [("signed", "false"), ("public", "true")] {
        let address = emulator.address.clone();
        let create = format!("/{AZURE_ACCOUNT}/{container}?restype=container&{AZURE_RIGHTS}");
        let access = "x-ms-blob-public-access: container\r\n";
        let access = if anonymous == "true" { access } else { "" };
        send(&address, "PUT", &create, access, &[]).await.unwrap();
        let put: Put = Arc::new(move |key, bytes| {
            let key = escape(key, "/");
            let target = format!("/{AZURE_ACCOUNT}/{container}/{key}?{AZURE_RIGHTS}");
            let address = address.clone();
            Box::pin(async move {
                let kind = "x-ms-blob-type: BlockBlob\r\n";
                send(&address, "PUT", &target, kind, &bytes).await.unwrap();
            })
        });
        let endpoint = format!("http://{}/{AZURE_ACCOUNT}", emulator.address);
        let options = [
            ("endpoint", &*endpoint),
            ("account", AZURE_ACCOUNT),
            ("anonymous", anonymous),
        ];
        suite(&format!("az://{container}"), &options, put).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs fake-gcs-server"]
async fn gcs_is_an_under_store() {
    let emulator = Emulator::start(
        "fake-gcs-server",
        "server started",
        |command, port, data| {
            let host = format!("127.0.0.1:{port}");
            command
                .args(["-scheme", "http", "-host", "127.0.0.1", "-port", port])
                .args(["-public-host", &host, "-filesystem-root"])
                .arg(data);
        },
    )
    .unwrap();
    let address = emulator.address.clone();
    let bucket = br#"{"name": "bucket"}"#;
    send(&address, "POST", "/storage/v1/b?project=p", "", bucket)
        .await
        .unwrap();
    let put: Put = Arc::new(move |key, bytes| {
        let key = escape(key, "");
        let target = format!("/upload/storage/v1/b/bucket/o?uploadType=media&name={key}");
        let address = address.clone();
        Box::pin(async move {
            let kind = "content-type: application/octet-stream\r\n";
            send(&address, "POST", &target, kind, &bytes).await.unwrap();
        })
    });
    let endpoint = format!("http://{}", emulator.address);
    let options = [("endpoint", &*endpoint), ("anonymous", "true")];
    suite("gs://bucket", &options, put).await;
}

/// Runs the suite below a prefix of the bucket at `uri`; `put` takes keys of the whole bucket.
async fn suite(uri: &str, options: &[(&str, &str)], put: Put) {
    // What lies beside the prefix must never show.
    for key in ["a/bc", "a/c/d", "z"] {
        put(key, Bytes::new()).await;
    }
    let options: BTreeMap<_, _> = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let store = forebay_ufs::open(&format!("{uri}/a/b"), &options);
    let store = store.expect("URI and options are valid");
    let below: Put = Arc::new(move |key, bytes| put(&format!("a/b/{key}"), bytes));
    conformance::run(store, below, Keys::Paths).await;
}

/// A running emulator and its data; both end with it.
struct Emulator {
    child: Child,
    /// `127.0.0.1:PORT`.
    address: String,
    _data: TempDir,
}

impl Emulator {
    /// Starts `program` with the arguments that `set` gives it for a port and a directory; returns
    /// when a line of its output contains `ready`.
    fn start(
        program: &str,
        ready: &'static str,
        set: impl FnOnce(&mut Command, &str, &Path),
    ) -> anyhow::Result<Emulator> {
        let data = TempDir::new()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (output, input) = std::io::pipe()?;
        let mut command = Command::new(program);
        set(&mut command, &address.port().to_string(), data.path());
        let child = command
            .current_dir(data.path())
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .spawn()
            .with_context(|| format!("cannot start {program}: run make test-clouds"))?;
        // Its copies of the pipe's end would keep the pipe open.
        drop(command);
        let emulator = Emulator {
            child,
            address: address.to_string(),
            _data: data,
        };
        let (tell, told) = mpsc::channel();
        // Ends with the child; reads on after the line, so that the child never waits for the pipe.
        thread::spawn(move || {
            let mut seen = String::new();
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.contains(ready) {
                    let _ = tell.send(Ok(()));
                } else if seen.len() < 10_000 {
                    seen = seen + &line + "\n";
                }
            }
            let _ = tell.send(Err(seen));
        });
        match told.recv_timeout(READY) {
            Ok(Ok(())) => Ok(emulator),
            Ok(Err(seen)) => anyhow::bail!("{program} ended: {seen}"),
            Err(_) => anyhow::bail!("{program} does not say '{ready}' within {READY:?}"),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request over a connection of its own; an error unless it succeeds.
async fn send(
    address: &str,
    method: &str,
    target: &str,
    headers: &str,
    body: &[u8],
) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect(address).await?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    connection
        .write_all(&[head.as_bytes(), body].concat())
        .await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(
        answer.starts_with("HTTP/1.1 20"),
        "{method} {target}: {answer}"
    );
    Ok(())
}

/// `text` for a URL; the characters of `keep` stay as they are.
fn escape(text: &str, keep: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || keep.as_bytes().contains(&byte);
    let escaped = text.bytes().map(|byte| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    escaped.collect()
}
