//! Very many objects, applied by one client over a few connections: kubectl allows itself five requests a second.

use crate::kube::ThrowAway;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{fmt::Write, fs, process::Command};

/// Requests at the same time.
const AT_ONCE: &str = "16";

/// The API server, and who asks.
pub(super) struct Administrator {
    server: String,
    keys: String,
}

impl Administrator {
    pub(super) fn of(cluster: &ThrowAway) -> anyhow::Result<Administrator> {
        let server = [cluster.setting("NET")?, cluster.setting("APIPORT")?];
        Ok(Administrator {
            server: format!("https://{}.1:{}", server[0], server[1]),
            keys: cluster.setting("CERTS")?,
        })
    }

    /// Applies objects, each at its path below the API server.
    pub(super) fn apply(&self, objects: &[(String, Value)]) -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut list = String::new();
        for (number, (path, object)) in objects.iter().enumerate() {
            let body = dir.path().join(number.to_string());
            fs::write(&body, object.to_string())?;
            let Administrator { server, keys } = self;
            // What one request is told, the next one does not know.
            write!(
                list,
                "next\nurl = \"{server}{path}?fieldManager=scale\"\nrequest = PATCH\ndata = \"@{}\"\noutput = /dev/null\n\
                 header = \"Content-Type: application/apply-patch+yaml\"\nsilent\nshow-error\nfail\n\
                 cacert = {keys}/ca.crt\ncert = {keys}/admin.crt\nkey = {keys}/admin.key\n",
                body.display(),
            )?;
        }
        let path = dir.path().join("list");
        fs::write(&path, list)?;
        let output = Command::new("curl")
            .args([
                "--parallel",
                "--parallel-max",
                AT_ONCE,
                "--no-progress-meter",
                "-K",
            ])
            .arg(&path)
            .output()
            .context("cannot start curl")?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} objects: {why}", objects.len());
        Ok(())
    }
}
