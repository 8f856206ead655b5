//! What the kubelet has asked for a volume on this node, as it is kept on disk.

use crate::{
    flag::Flags,
    volume::{Volume, VolumeId},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// One volume: written before anything is done for it, removed after everything is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The volume.
    pub volume: Volume,
    /// Where it is mounted on the node.
    pub staging: PathBuf,
    /// Where pods see it, and with which flags.
    pub targets: BTreeMap<PathBuf, Flags>,
}

impl Record {
    /// A volume that no pod uses yet.
    pub fn staged(volume: Volume, staging: PathBuf) -> Record {
        Record {
            volume,
            staging,
            targets: BTreeMap::new(),
        }
    }

    /// The name of the volume.
    pub fn id(&self) -> &VolumeId {
        &self.volume.id
    }
}
