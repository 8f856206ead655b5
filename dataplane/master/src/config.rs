//! Settings of a master.

use crate::node_id;
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
    /// This master's number among `peers`; stays with `data_dir` for ever.
    #[serde(default = "first")]
    pub id: u64,
    /// All masters of the cluster, this one included: 1, 3 or 5, the same on each. Absent: this is
    /// the only one.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Masters of a group that this one is to join, instead of `peers`: any of them.
    #[serde(default)]
    pub join: Vec<Address>,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere (the process has others).
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Mounts, the same on all masters: those that were listed here at an earlier start and are no longer, are
    /// unmounted by whoever becomes the leader.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// File with the key of the credentials of mounts (crate `seal`), the same on all masters and workers.
    #[serde(default)]
    pub seal_key: Option<PathBuf>,
    /// Memory for inode cache, block cache and write buffers.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
}

/// A master as the others and the clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its number; not 0.
    pub id: u64,
    /// Where it serves gRPC.
    pub address: Address,
}

fn first() -> u64 {
    1
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
        self.validate_peers()?;
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

    fn validate_peers(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError(text));
        if self.id == 0 {
            return refuse("id = 0: number the masters from 1".to_owned());
        }
        if self.id > node_id::MOST {
            return refuse(format!(
                "id = {}: number the masters from 1 to {}",
                self.id,
                node_id::MOST
            ));
        }
        if !self.peers.is_empty() && !self.join.is_empty() {
            return refuse(
                "peers and join: give 'peers' to the masters that found the group, and 'join' to one \
                 that comes later"
                    .to_owned(),
            );
        }
        if self.peers.is_empty() {
            return Ok(());
        }
        if !matches!(self.peers.len(), 1 | 3 | 5) {
            return refuse(format!(
                "peers names {} masters: give 1, 3 or 5, this one included",
                self.peers.len()
            ));
        }
        for (n, peer) in self.peers.iter().enumerate() {
            let before = &self.peers[..n];
            if peer.id == 0 || peer.id > node_id::MOST {
                return refuse(format!(
                    "peers has a master with id {}: number them from 1 to {}",
                    peer.id,
                    node_id::MOST
                ));
            }
            if before.iter().any(|b| b.id == peer.id) {
                return refuse(format!("peers has two masters with id {}", peer.id));
            }
            if before.iter().any(|b| b.address == peer.address) {
                return refuse(format!("peers has two masters at {}", peer.address));
            }
        }
        if !self.peers.iter().any(|peer| peer.id == self.id) {
            return refuse(format!(
                "id = {}: no master in peers has it: add this one, too",
                self.id
            ));
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
            credentials: None,
        };
        MasterConfig {
            data_dir: "/x".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            id: 1,
            peers: Vec::new(),
            join: Vec::new(),
            http: None,
            mounts: paths.iter().map(mount).collect(),
            seal_key: None,
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
    fn peers_are_an_odd_few_and_hold_this_one() {
        let peer = |id: u64, port: u64| Peer {
            id,
            address: format!("127.0.0.1:{port}").parse().unwrap(),
        };
        let with = |id, peers| {
            let quorum = MasterConfig {
                id,
                peers,
                ..config(&[])
            };
            quorum.validate().map_err(|e| e.to_string())
        };
        let three = || vec![peer(1, 1), peer(2, 2), peer(3, 3)];
        assert_eq!(with(3, three()), Ok(()));
        assert_eq!(with(7, vec![peer(7, 1)]), Ok(()));
        let refused = [
            (with(0, vec![]), "number the masters"),
            (with(1, vec![peer(1, 1), peer(2, 2)]), "2 masters"),
            (with(4, three()), "id = 4"),
            (with(1, vec![peer(1, 1), peer(1, 2), peer(3, 3)]), "id 1"),
            (
                with(1, vec![peer(1, 1), peer(2, 1), peer(3, 3)]),
                "at 127.0.0.1:1",
            ),
            (with(1, vec![peer(1, 1), peer(0, 2), peer(3, 3)]), "id 0"),
        ];
        for (result, why) in refused {
            let error = result.unwrap_err();
            assert!(
                error.contains(why) && !error.contains('\n'),
                "{why}: {error}"
            );
        }
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
