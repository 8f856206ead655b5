//! The legacy of a mount: its volume, what the kernel can do, and the open inodes, in a file of memory.

use crate::ledger::ROWS;
use forebay_proto::v1::Kept;
use prost::Message;
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, io, os::unix::fs::FileExt};

/// A new one, still without a mount.
pub(super) fn create(kept: &Kept) -> io::Result<File> {
    let file = File::from(memfd_create("forebay-volume", MemfdFlags::CLOEXEC)?);
    file.set_len(ROWS)?;
    write(&file, kept)?;
    Ok(file)
}

/// Writes what is known of the volume.
pub(super) fn write(file: &File, kept: &Kept) -> io::Result<()> {
    let text = kept.encode_to_vec();
    if text.len() as u64 + 4 > ROWS {
        return Err(io::Error::other("the settings of the volume are too long"));
    }
    let length = (text.len() as u32).to_ne_bytes();
    file.write_all_at(&[&length[..], &text].concat(), 0)
}

/// Reads it.
pub(super) fn read(file: &File) -> io::Result<Kept> {
    let mut length = [0; 4];
    file.read_exact_at(&mut length, 0)?;
    let length = u32::from_ne_bytes(length) as usize;
    if length as u64 > ROWS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, 4)?;
    Kept::decode(&text[..]).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::v1::Volume;

    #[test]
    fn it_reads_back() {
        let mut kept = Kept {
            volume: Some(Volume {
                id: "x".to_owned(),
                ..Volume::default()
            }),
            capabilities: 0,
        };
        let file = create(&kept).unwrap();
        assert_eq!(read(&file).unwrap(), kept);
        kept.capabilities = 1 << 37;
        write(&file, &kept).unwrap();
        assert_eq!(read(&file).unwrap(), kept);
    }
}
