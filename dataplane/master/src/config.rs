//! Settings of a master.

use forebay_service::{ByteSize, config::ConfigError};
use forebay_types::{Address, MountSpec, Name};
use serde::Deserialize;
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

/// The least memory that a master works with.
pub const MEMORY_MIN: ByteSize = ByteSize(16 << 20);

/// Settings of a master.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterConfig {
    /// Journal and metadata; a local disk.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub listen: Address,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere (the process has others).
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Mounts: those that were listed here at an earlier start and are no longer, are unmounted.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Memory for inode cache, block cache and write buffers.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
}

fn default_memory() -> ByteSize {
    ByteSize(256 << 20)
}

impl MasterConfig {
    /// Checks what can be checked without touching anything. URIs and options are checked by the
    /// under stores when they are opened, before anything is changed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.memory < MEMORY_MIN {
            return Err(ConfigError(format!(
                "memory = {}: a master needs at least {MEMORY_MIN}",
                self.memory
            )));
        }
        let mut paths = BTreeSet::new();
        for mount in &self.mounts {
            if let Err(why) = check_path(&mount.path) {
                return Err(ConfigError(format!(
                    "bad mount path '{}': {why}: write it like / or /models/llama",
                    mount.path
                )));
            }
            if !paths.insert(&mount.path) {
                return Err(ConfigError(format!(
                    "two mounts at {}: give each a path of its own",
                    mount.path
                )));
            }
        }
        Ok(())
    }
}

/// Absolute and normalised: no empty, `.` or `..` segment, no trailing slash but the root's.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let rest = path.strip_prefix('/').ok_or("it must begin with '/'")?;
    if rest.is_empty() {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err("it must not end in '/'".to_owned());
    }
    for segment in rest.split('/') {
        Name::new(segment.as_bytes().to_vec()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::SyncPolicy;

    fn config(paths: &[&str]) -> MasterConfig {
        let mount = |path: &&str| MountSpec {
            path: (*path).to_owned(),
            uri: "file:///x".into(),
            options: std::collections::BTreeMap::new(),
            sync: SyncPolicy::default(),
        };
        MasterConfig {
            data_dir: "/x".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            http: None,
            mounts: paths.iter().map(mount).collect(),
            memory: default_memory(),
        }
    }

    #[test]
    fn mount_paths_are_absolute_normalised_and_different() {
        assert!(config(&[]).validate().is_ok());
        assert!(config(&["/", "/a", "/a/b"]).validate().is_ok());
        for bad in ["", "a", "/a/", "//", "/a//b", "/./a", "/a/..", "/a\0"] {
            let error = config(&[bad]).validate().unwrap_err().to_string();
            assert!(
                error.contains(bad) && error.contains("/models/llama"),
                "{error}"
            );
        }
        let error = config(&["/a", "/b", "/a"])
            .validate()
            .unwrap_err()
            .to_string();
        assert!(error.contains("two mounts at /a"), "{error}");
    }

    #[test]
    fn too_little_memory_is_refused() {
        let small = MasterConfig {
            memory: ByteSize(1 << 20),
            ..config(&[])
        };
        let error = small.validate().unwrap_err().to_string();
        assert!(
            error.contains("1.0 MiB") && error.contains("16.0 MiB"),
            "{error}"
        );
    }
}
