//! A bucket, a mount of it, and a native directory beside them on the same disk.

use super::Scale;
use crate::{
    disk::Scratch,
    process::{Forebay, Local},
    s3::{S3Child, Storage},
};
use std::path::{Path, PathBuf};

pub(super) const BUCKET: &str = "bench";

/// Everything one group of rows runs on; gone when this is dropped.
pub(super) struct Stage {
    // In the order in which they must go.
    local: Option<Local>,
    pub(super) server: S3Child,
    pub(super) scratch: Scratch,
}

impl Stage {
    /// A server with an empty bucket, and a scratch directory with so many bytes free.
    pub(super) fn new(need: u64) -> anyhow::Result<Stage> {
        let scratch = Scratch::new("bench")?;
        scratch.need(need + (2 << 30))?;
        let server = S3Child::start(&Storage::Memory(vec![BUCKET.to_owned()]))?;
        Ok(Stage {
            local: None,
            server,
            scratch,
        })
    }

    /// Mounts the bucket; the cache may take `quota` bytes.
    pub(super) fn mount(&mut self, quota: u64, memory: Option<u64>) -> anyhow::Result<()> {
        let mount_point = self.scratch.make("mount")?;
        let data = self.scratch.make("data")?;
        let cache = self.scratch.make("cache")?;
        let mut command = Forebay::new("local")?
            .s3(&self.server.endpoint, Some(&self.server.credentials))
            .arg("--data-dir")
            .arg(data)
            .arg("--tier")
            // A quota that is never reached: nothing is evicted while something is measured.
            .arg(format!("SSD={}:{}", cache.display(), quota + (1 << 30)));
        if let Some(memory) = memory {
            command = command.arg("--memory").arg(memory.to_string());
        }
        let uri = format!("s3://{BUCKET}");
        self.local = Some(Local::start(command, &mount_point, [uri])?);
        Ok(())
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.scratch.path().join("mount")
    }

    pub(super) fn local(&self) -> &Local {
        self.local.as_ref().expect("mounted before it is used")
    }

    /// `forebay fs load` of a path of the mount, to its end.
    pub(super) fn load(&self, path: &Path) -> anyhow::Result<()> {
        Forebay::new("fs")?
            .arg("load")
            .arg(self.mount_point().join(path))
            .output()
            .map(drop)
    }

    /// Ends the mount in the ordinary way.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        if let Some(local) = self.local.take() {
            let status = local.stop()?;
            anyhow::ensure!(status.success(), "forebay local ended with {status}");
        }
        Ok(())
    }
}

/// Bytes that a group needs on the disk for `copies` of its large and small files.
pub(super) fn room(scale: &Scale, large: u64, small: u64) -> u64 {
    // A file of the cache may end in a partly filled block.
    large * scale.large + small * (scale.small() + scale.files * 4096)
}
