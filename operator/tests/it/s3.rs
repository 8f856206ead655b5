//! As much of S3 as a mount and a warm-up ask for: one bucket with one file, one key that may use it.

use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// The file `file`.
const CONTENT: &str = "content";
const LIST: &str = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix></Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><Contents><Key>file</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"#;
const EMPTY: &str = r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix></Prefix><KeyCount>0</KeyCount><MaxKeys>1</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"#;

/// Bucket `bucket` for key id `good`. It dies with this, and all connections with it.
pub(crate) struct Store {
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Store {
    /// Serves it at an address, also one that was just given up.
    pub(crate) async fn start(at: &str) -> Store {
        let listener = loop {
            match TcpListener::bind(at).await {
                Ok(listener) => break listener,
                // Nothing tells when the last connection is closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream));
            }
        });
        Store { address, task }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part).await?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        let head = text[..end].to_owned();
        request.drain(..end + 4);
        let line = head.lines().next().unwrap_or_default();
        let (method, target) = line.split_once(' ').unwrap_or_default();
        let target = target.split(' ').next().unwrap_or_default();
        let ranged = head
            .lines()
            .any(|l| l.to_ascii_lowercase().starts_with("range:"));
        let error =
            |code: &str| format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        let whole = format!("bytes 0-{}/{}", CONTENT.len() - 1, CONTENT.len());
        let (status, body) = if !head.contains("Credential=good/") {
            ("403 Forbidden", error("AccessDenied"))
        } else if !target.starts_with("/bucket") {
            ("404 Not Found", error("NoSuchBucket"))
        } else if target == "/bucket/file" {
            let status = if ranged {
                "206 Partial Content"
            } else {
                "200 OK"
            };
            (status, CONTENT.to_owned())
        } else if target.contains("list-type") && target.contains("prefix=prefix") {
            ("200 OK", EMPTY.to_owned())
        } else if target.contains("list-type") {
            ("200 OK", LIST.to_owned())
        } else {
            ("404 Not Found", error("NoSuchKey"))
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nETag: \"e\"\r\nContent-Range: {whole}\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        if method != "HEAD" {
            stream.write_all(body.as_bytes()).await?;
        }
    }
}
