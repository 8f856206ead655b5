//! Settings of a worker.

use forebay_service::{ByteSize, config::ConfigError};
use forebay_types::{Address, Addresses, Medium, PAGE_SIZE};
use rustix::fs::{statfs, statvfs};
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};

/// What the kernel calls overlayfs (`OVERLAYFS_SUPER_MAGIC`).
const OVERLAYFS: i64 = 0x794c_7630;
/// Less memory is not enough for a single fill and the index.
const LEAST_MEMORY: ByteSize = ByteSize(32 << 20);

/// Settings of a worker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Identity and page index; a local disk.
    pub data_dir: PathBuf,
    /// The masters: one address, or several in a list.
    pub master: Addresses,
    /// Where gRPC is served to other nodes.
    pub listen: Address,
    /// Under which address other nodes reach it, where that is not `listen`: needed if that stands for
    /// all interfaces (`0.0.0.0`).
    #[serde(default)]
    pub advertise: Option<Address>,
    /// Unix socket for the FUSE host of this node; absent: none.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere (the process has others).
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Cache tiers; at least one.
    pub tiers: Vec<TierSpec>,
    /// Eviction policy.
    #[serde(default)]
    pub eviction: Eviction,
    /// Eviction begins above this fraction of a tier's quota …
    #[serde(default = "high")]
    pub high_watermark: f64,
    /// … and ends below this one.
    #[serde(default = "low")]
    pub low_watermark: f64,
    /// File with the key of the credentials of mounts (crate `seal`), the same on all masters and workers.
    #[serde(default)]
    pub seal_key: Option<PathBuf>,
    /// Memory for fills in flight and the index.
    #[serde(default = "memory")]
    pub memory: ByteSize,
}

/// One tier.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierSpec {
    /// MEM, SSD or HDD.
    pub medium: Medium,
    /// A directory on that medium; never on overlayfs.
    pub dir: PathBuf,
    /// Most bytes to hold.
    pub size: ByteSize,
}

/// The eviction policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// Least recently used.
    Lru,
    /// Least frequently used, with aging.
    Lfu,
    /// S3-FIFO.
    #[default]
    S3Fifo,
}

fn high() -> f64 {
    0.95
}

fn low() -> f64 {
    0.90
}

fn memory() -> ByteSize {
    ByteSize(256 << 20)
}

impl WorkerConfig {
    /// Fails with one line that names the value and the remedy if no worker could run like this.
    /// Looks at the disks of the tiers, and changes nothing.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError(text));
        let (low, high) = (self.low_watermark, self.high_watermark);
        if !(0.0 < low && low < high && high <= 1.0) {
            return refuse(format!(
                "low_watermark {low} and high_watermark {high}: choose 0 < low < high <= 1"
            ));
        }
        let told = self.advertise.as_ref().unwrap_or(&self.listen);
        if told.is_wildcard() {
            return refuse(format!(
                "no node can connect to {told}: give 'advertise', the address of this node, as in \
                 advertise = \"10.0.0.7:7100\""
            ));
        }
        if self.tiers.is_empty() {
            return refuse(
                "no cache tier: give at least one, as in SSD=/var/cache/forebay:10GiB".into(),
            );
        }
        if self.memory < LEAST_MEMORY {
            return refuse(format!(
                "memory {}: give at least {LEAST_MEMORY}",
                self.memory
            ));
        }
        for (index, tier) in self.tiers.iter().enumerate() {
            if self.tiers[..index]
                .iter()
                .any(|other| other.dir == tier.dir)
            {
                let dir = tier.dir.display();
                return refuse(format!("two tiers in {dir}: give each its own directory"));
            }
            tier.check()?;
        }
        Ok(())
    }
}

impl TierSpec {
    fn check(&self) -> Result<(), ConfigError> {
        let (medium, dir, size) = (self.medium, self.dir.display(), self.size);
        let refuse = |text: String| Err(ConfigError(format!("tier {medium}={dir}:{size}: {text}")));
        if size.0 < PAGE_SIZE {
            return refuse(format!("too small: give at least {}", ByteSize(PAGE_SIZE)));
        }
        if !self.dir.is_absolute() {
            return refuse("not an absolute path: give one that begins with /".into());
        }
        // The directory itself is made later; its disk is that of the nearest one that exists.
        let Some(existing) = self.dir.ancestors().find(|dir| dir.exists()) else {
            return refuse("no such disk".into());
        };
        if !existing.is_dir() {
            return refuse(format!(
                "{} is not a directory: choose another",
                existing.display()
            ));
        }
        let looked = statfs(existing).and_then(|fs| Ok((fs, statvfs(existing)?)));
        let (kind, disk) = match looked {
            Ok((fs, disk)) => (fs.f_type, ByteSize(disk.f_blocks * disk.f_frsize)),
            Err(error) => return refuse(format!("cannot look at its disk: {error}")),
        };
        if kind == OVERLAYFS {
            return refuse(
                "it is on overlayfs, which the kernel cannot pass files through from: use a \
                 directory of the host or a volume"
                    .into(),
            );
        }
        if size > disk {
            return refuse(format!(
                "its disk has only {disk}: give the tier at most that, or another disk"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut WorkerConfig);

    fn config(dir: &std::path::Path, size: u64) -> WorkerConfig {
        WorkerConfig {
            data_dir: dir.into(),
            master: "127.0.0.1:1".parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            socket: None,
            http: None,
            tiers: vec![TierSpec {
                medium: Medium::Ssd,
                dir: dir.join("not/there/yet"),
                size: ByteSize(size),
            }],
            eviction: Eviction::default(),
            high_watermark: 0.95,
            low_watermark: 0.9,
            seal_key: None,
            memory: memory(),
        }
    }

    #[test]
    fn refuses_what_cannot_work_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let good = config(dir.path(), 1 << 24);
        assert_eq!(good.check().map_err(|e| e.0), Ok(()));
        let cases: [(Change, &str); 8] = [
            (
                |c| c.listen = "0.0.0.0:7100".parse().unwrap(),
                "give 'advertise'",
            ),
            (|c| c.low_watermark = 0.96, "choose 0 < low < high <= 1"),
            (
                |c| c.high_watermark = f64::NAN,
                "choose 0 < low < high <= 1",
            ),
            (|c| c.tiers.clear(), "give at least one"),
            (|c| c.tiers.push(c.tiers[0].clone()), "own directory"),
            (|c| c.tiers[0].size = ByteSize(1 << 60), "its disk has only"),
            (|c| c.tiers[0].size = ByteSize(17), "too small"),
            (|c| c.tiers[0].dir = "some/where".into(), "begins with /"),
        ];
        let told = WorkerConfig {
            listen: "[::]:7100".parse().unwrap(),
            advertise: Some("node-7:7100".parse().unwrap()),
            ..good.clone()
        };
        assert_eq!(told.check().map_err(|e| e.0), Ok(()));
        for (change, expected) in cases {
            let mut bad = good.clone();
            change(&mut bad);
            let text = bad.check().unwrap_err().0;
            assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        }
    }
}
