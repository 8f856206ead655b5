//! The bucket: MinIO in a pod.

use crate::{
    http,
    kube::Kubectl,
    s3::{Content, synthetic},
};
use anyhow::{Context, bail, ensure};
use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Credentials of MinIO's administrator.
pub(super) const USER: &str = "minio";
pub(super) const PASSWORD: &str = "minio-secret";

const OBJECTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: minio, namespace: default, labels: {app: minio}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: minio
    image: local/minio:1
    imagePullPolicy: IfNotPresent
    args: [server, --address, ":9000", /data]
    # A store elsewhere would have processors of its own.
    resources: {requests: {cpu: "1"}}
    env:
    - {name: MINIO_ROOT_USER, value: USER}
    - {name: MINIO_ROOT_PASSWORD, value: PASSWORD}
    - {name: MINIO_UPDATE, value: "off"}
    - {name: MINIO_PROMETHEUS_AUTH_TYPE, value: public}
    readinessProbe: {httpGet: {path: /minio/health/ready, port: 9000}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: minio, namespace: default}
spec: {selector: {app: minio}, ports: [{port: 9000}]}
"#;

/// MinIO, and the way to it.
pub(super) struct Bucket {
    forward: Child,
    endpoint: String,
}

impl Bucket {
    /// Starts it.
    pub(super) fn start(kubectl: &Kubectl) -> anyhow::Result<Bucket> {
        let objects = OBJECTS
            .replace("PASSWORD}", &format!("{PASSWORD}}}"))
            .replace("USER}", &format!("{USER}}}"));
        kubectl.apply(&objects)?;
        kubectl.wait(&["pod/minio"], "condition=Ready", Duration::from_mins(2))?;
        let mut forward = kubectl
            .command(&["port-forward", "pod/minio", ":9000"])
            .stdout(Stdio::piped())
            .spawn()?;
        let said = forward.stdout.take().context("no output")?;
        let mut said = BufReader::new(said);
        let mut line = String::new();
        said.read_line(&mut line)?;
        // It says something of every connection, and ends when nobody listens.
        thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        // Forwarding from 127.0.0.1:36791 -> 9000
        let address = line
            .split_whitespace()
            .nth(2)
            .context("port-forward says where")?;
        Ok(Bucket {
            endpoint: format!("http://{address}"),
            forward,
        })
    }

    /// Makes a bucket.
    pub(super) fn make(&self, name: &str) -> anyhow::Result<()> {
        self.put(&["-X", "PUT"], &format!("/{name}"))
    }

    /// Puts noise of `size` bytes under `path` (`/bucket/key`).
    pub(super) fn fill(&self, path: &str, seed: u64, size: u64) -> anyhow::Result<Content> {
        let content = synthetic(seed, size);
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), content.bytes(0..size)?)?;
        self.upload(file.path(), path)?;
        Ok(content)
    }

    /// Puts many objects of `size` bytes under `path`, so many in a directory.
    pub(super) fn fill_many(
        &self,
        path: &str,
        count: u64,
        each: u64,
        size: u64,
    ) -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (content, list) = (dir.path().join("content"), dir.path().join("list"));
        fs::write(&content, synthetic(count, size).bytes(0..size)?)?;
        let one = |n: u64| {
            format!(
                "url = \"{}{path}/d{:04}/f{n:06}\"\nupload-file = \"{}\"\noutput = /dev/null\n",
                self.endpoint,
                n / each,
                content.display()
            )
        };
        fs::write(&list, (0..count).map(one).collect::<String>())?;
        let list = list.to_str().context("a path in UTF-8")?;
        curl(&["--parallel", "--parallel-max", "16", "-K", list], path)
    }

    /// Requests that it has had since it started, health checks and questions like this one left out.
    pub(super) fn requests(&self) -> anyhow::Result<f64> {
        let address = self.endpoint.trim_start_matches("http://");
        let answer = http::get(address, "/minio/v2/metrics/cluster");
        let (_, metrics) = answer.context("MinIO does not tell its metrics")?;
        Ok(http::metric(&metrics, "minio_s3_requests_total"))
    }

    fn upload(&self, file: &Path, path: &str) -> anyhow::Result<()> {
        let file = file.to_str().context("a path in UTF-8")?;
        self.put(&["-T", file], path)
    }

    fn put(&self, args: &[&str], path: &str) -> anyhow::Result<()> {
        let url = format!("{}{path}", self.endpoint);
        curl(&[args, &[&url]].concat(), path)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.forward.kill();
        let _ = self.forward.wait();
    }
}

/// curl signs requests; so no client beside has to be had.
fn curl(args: &[&str], path: &str) -> anyhow::Result<()> {
    let output = Command::new("curl")
        .args([
            "-sS",
            "--fail-with-body",
            "--retry",
            "3",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
        ])
        .args(["--user", &format!("{USER}:{PASSWORD}")])
        .args(args)
        .output()
        .context("cannot start curl")?;
    ensure!(
        output.status.success(),
        "PUT {path}: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// The hash of the whole content, as `sha256sum` prints it.
pub(super) fn sha256(content: &Content) -> anyhow::Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), content.bytes(0..content.size())?)?;
    let output = Command::new("sha256sum").arg(file.path()).output()?;
    let text = String::from_utf8(output.stdout)?;
    match text.split_whitespace().next() {
        Some(hash) if hash.len() == 64 => Ok(hash.to_owned()),
        _ => bail!("sha256sum printed '{text}'"),
    }
}
