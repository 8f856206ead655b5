//! What a snapshot is made of: a manifest, which travels in a raft message, and files, which the
//! receiving node fetches chunk by chunk.

use crate::{Fatal, conf::Conf};
use raft::eraftpb::{Snapshot, SnapshotMetadata};
use serde::{Deserialize, Serialize};

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotFile {
    /// Its name within the snapshot's directory: no path.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// CRC32C of all of them.
    pub(crate) crc: u32,
}

/// A snapshot: the state after `index`, and the configuration as of then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Tells snapshots apart, of whichever node.
    pub(crate) id: String,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) conf: Conf,
    pub(crate) files: Vec<SnapshotFile>,
}

impl Manifest {
    /// Its bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a manifest has no unserializable part")
    }

    /// Reads it back, and refuses names that are no plain file names.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Manifest, Fatal> {
        let manifest: Manifest = postcard::from_bytes(bytes)
            .map_err(|e| Fatal::caused("unreadable manifest of a snapshot", e))?;
        let names = manifest.files.iter().map(|file| &file.name);
        if let Some(name) = names.chain([&manifest.id]).find(|name| !is_plain(name)) {
            return Err(Fatal::new(format!(
                "a snapshot with the impossible file name {name:?}"
            )));
        }
        Ok(manifest)
    }

    /// As raft has it.
    pub(crate) fn to_raft(&self) -> Snapshot {
        Snapshot {
            data: self.to_bytes(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(self.conf.to_raft()),
                index: self.index,
                term: self.term,
            }),
        }
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// Why a chunk of a snapshot could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChunkError {
    /// The serving node does not have this snapshot (any more): another one will be offered.
    #[error("there is no such snapshot any more")]
    Gone,
    /// Anything else; asking again may help.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_directory_is_refused() {
        let manifest = |name: &str| Manifest {
            id: "1-2".to_owned(),
            index: 2,
            term: 1,
            conf: Conf::default(),
            files: vec![SnapshotFile {
                name: name.to_owned(),
                size: 1,
                crc: 0,
            }],
        };
        for name in ["", ".", "..", "a/b", "../a", "/a"] {
            assert!(Manifest::from_bytes(&manifest(name).to_bytes()).is_err());
        }
        let good = manifest("000012.sst");
        assert_eq!(Manifest::from_bytes(&good.to_bytes()).unwrap(), good);
    }
}
