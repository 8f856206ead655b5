//! `MEDIUM=DIR:SIZE` of the command line, and the tier that is used without it.

use crate::failure::Failure;
use forebay_service::ByteSize;
use forebay_types::Medium;
use forebay_worker::config::TierSpec;
use rustix::fs::statvfs;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The default tier takes at most this much …
const DEFAULT_MOST: u64 = 64 << 30;

/// Reads one `--tier`.
pub(crate) fn parse(text: &str) -> Result<TierSpec, Failure> {
    let bad = || {
        Failure::usage(format!(
            "bad tier '{text}': use MEDIUM=DIR:SIZE, as in SSD=/var/cache/forebay:100GiB"
        ))
    };
    let (medium, rest) = text.split_once('=').ok_or_else(bad)?;
    let (dir, size) = rest.rsplit_once(':').ok_or_else(bad)?;
    if dir.is_empty() {
        return Err(bad());
    }
    let medium: Medium = medium.parse().map_err(Failure::usage)?;
    let size: ByteSize = size
        .parse()
        .map_err(|why| Failure::usage(format!("tier '{text}': {why}")))?;
    Ok(TierSpec {
        medium,
        dir: PathBuf::from(dir),
        size,
    })
}

/// The tier when nothing was said: `dir`, up to half of what is free on its disk (what the cache
/// already holds counts as free), 64 GiB at most.
pub(crate) fn default_tier(dir: &Path) -> Result<TierSpec, Failure> {
    fs::create_dir_all(dir)
        .map_err(|error| Failure::run(format!("cannot make {}: {error}", dir.display())))?;
    let disk = statvfs(dir)
        .map_err(|error| Failure::run(format!("cannot inspect {}: {error}", dir.display())))?;
    let free = disk.f_bavail * disk.f_frsize + held(dir);
    let size = (free / 2).min(DEFAULT_MOST);
    Ok(TierSpec {
        medium: Medium::Ssd,
        dir: dir.to_owned(),
        size: ByteSize(size),
    })
}

/// Bytes on disk below `dir`; what cannot be read counts nothing.
fn held(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => held(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tiers_and_names_what_is_wrong() {
        let tier = parse("SSD=/a:b/c:10GiB").unwrap();
        assert_eq!(
            (tier.medium, tier.dir.to_str().unwrap(), tier.size.0),
            (Medium::Ssd, "/a:b/c", 10 << 30)
        );
        for text in [
            "",
            "SSD",
            "SSD=/a",
            "SSD=:1GiB",
            "NVME=/a:1GiB",
            "SSD=/a:much",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
