//! The kernel's table of mounts, as this process sees it.

use crate::flag::{Flag, Flags};
use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// What tells one mounted file system from another while both exist: `major:minor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(pub String);

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Of what.
    pub device: Device,
    /// Those of the mount, and not of the file system below.
    pub flags: Flags,
}

/// All mounts, later ones above earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// Where the kernel shows it. Reading it asks no file system, so a dead one cannot hold us up.
    pub const PATH: &str = "/proc/self/mountinfo";

    /// As it is now.
    pub fn read() -> io::Result<MountTable> {
        Ok(MountTable::parse(&std::fs::read(MountTable::PATH)?))
    }

    /// The mount that is seen at `point`, if `point` is one.
    pub fn at(&self, point: &Path) -> Option<&Mount> {
        self.0.iter().rev().find(|mount| mount.point == point)
    }

    /// Whether `device` is mounted anywhere but at `point`.
    pub fn elsewhere(&self, device: &Device, point: &Path) -> bool {
        let mut mounts = self.0.iter();
        mounts.any(|mount| mount.device == *device && mount.point != point)
    }

    /// Lines that are no mounts are passed over: a newer kernel may say more.
    fn parse(text: &[u8]) -> MountTable {
        let lines = text.split(|b| *b == b'\n');
        MountTable(lines.filter_map(parse_line).collect())
    }
}

impl FromIterator<Mount> for MountTable {
    fn from_iter<I: IntoIterator<Item = Mount>>(mounts: I) -> MountTable {
        MountTable(mounts.into_iter().collect())
    }
}

/// `36 35 98:0 /root /mount/point ro,noatime … - type source options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ').skip(2);
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let point = fields.nth(1)?;
    let options = std::str::from_utf8(fields.next()?).ok()?;
    Some(Mount {
        point: OsString::from_vec(unescape(point)).into(),
        device: Device(device),
        flags: options.split(',').filter_map(Flag::from_name).collect(),
    })
}

/// The kernel writes blanks, tabs, line ends and backslashes as `\` and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        if let (b'\\', Some(code)) = (byte, code) {
            plain.push(code);
            rest = &tail[3..];
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let table = MountTable::parse(
            b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
              40 22 0:50 / /a\\040b ro,nosuid,relatime shared:5 master:2 - fuse.forebay forebay ro\n\
              41 22 0:51 /sub /a\\040b rw,noexec - tmpfs x\\134 rw\n\
              42 22 0:50 / /c rw - tmpfs x rw\n\
              odd\n",
        );
        let top = table.at(Path::new("/a b")).unwrap();
        assert_eq!(top.device, Device("0:51".into()));
        assert_eq!(top.flags, Flags::from([Flag::NoExec]));
        assert_eq!(table.at(Path::new("/a")), None);
        assert!(table.elsewhere(&Device("0:50".into()), Path::new("/c")));
        assert!(!table.elsewhere(&Device("0:51".into()), Path::new("/a b")));
        assert!(MountTable::read().unwrap().at(Path::new("/proc")).is_some());
    }
}
