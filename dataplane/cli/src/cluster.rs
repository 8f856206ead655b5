//! Which cluster a command speaks to, and which path of its tree it means.

use crate::failure::Failure;
use bytes::Bytes;
use forebay_client::Master;
use forebay_types::Addresses;
use rustix::{fs::getxattr, io::Errno};
use std::{
    ffi::OsStr,
    fmt::Write,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// A path of a cluster.
pub(crate) struct Target {
    /// The cluster's masters.
    pub(crate) master: Master,
    /// Absolute path in its tree.
    pub(crate) path: Bytes,
}

impl Target {
    /// With `master`: `path` is of the cluster's tree. Without: a local path inside a mount, which tells
    /// both.
    pub(crate) fn find(master: Option<&Addresses>, path: &OsStr) -> Result<Target, Failure> {
        match master {
            Some(addresses) => {
                let text = path.as_bytes();
                let path = if text == b"." { b"/" } else { text };
                if !path.starts_with(b"/") {
                    return Err(Failure::usage(format!(
                        "with --master a path begins with '/': '{}'",
                        path.escape_ascii()
                    )));
                }
                let path = Bytes::copy_from_slice(path);
                Ok(Target {
                    master: Master::new(addresses),
                    path,
                })
            }
            None => Target::through_mount(Path::new(path)),
        }
    }

    fn through_mount(local: &Path) -> Result<Target, Failure> {
        let addresses = xattr(local, forebay_fuse::fs::MASTER_XATTR)?;
        let addresses: Addresses = String::from_utf8_lossy(&addresses)
            .parse()
            .map_err(|why| Failure::run(format!("{}: {why}", local.display())))?;
        Ok(Target {
            master: Master::new(addresses),
            path: below_mount(local)?,
        })
    }

    /// The path for people.
    pub(crate) fn shown(&self) -> String {
        shown(&self.path)
    }
}

/// The path of `local` within its mount: what remains below the highest directory on the same device.
fn below_mount(local: &Path) -> Result<Bytes, Failure> {
    let fail = |error| Failure::run(format!("{}: {error}", full(local).display()));
    let real = local.canonicalize().map_err(fail)?;
    let device = real.metadata().map_err(fail)?.dev();
    let root = real
        .ancestors()
        .take_while(|dir| dir.metadata().is_ok_and(|meta| meta.dev() == device))
        .last()
        .unwrap_or(&real);
    let below = real.strip_prefix(root).unwrap_or(&real);
    Ok(join(b"/", below.as_os_str().as_bytes()))
}

fn xattr(path: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let mut value = vec![0; 64 << 10];
    match getxattr(path, name, &mut value[..]) {
        Ok(len) => {
            value.truncate(len);
            Ok(value)
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Err(Failure::usage(format!(
            "{} is not inside a Forebay mount: give a path inside one, or --master ADDRESS",
            full(path).display()
        ))),
        Err(error) => Err(Failure::run(format!("{}: {error}", full(path).display()))),
    }
}

fn full(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Bytes of a name or path for people: UTF-8 as it is, the rest escaped; control characters too, so that a
/// name cannot steer the terminal.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `parent` and `name` joined.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Bytes {
    let mut path = parent.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_shown_without_harm() {
        assert_eq!(shown("Zoë 1".as_bytes()), "Zoë 1");
        assert_eq!(shown(b"a\xffb\x1b[31m\n"), "a\\xffb\\u{1b}[31m\\n");
        assert_eq!(&join(b"/", b"x")[..], b"/x");
        assert_eq!(&join(b"/a", b"x")[..], b"/a/x");
    }
}
