//! A volume that the FUSE host serves and nobody has asked for.

use super::Action;
use crate::{mount_table::MountTable, volume::VolumeId};
use std::path::Path;

/// Ends it. Not while it is mounted elsewhere too: then pods use it, and it is the records that
/// are lost.
pub fn orphan(id: &VolumeId, point: &Path, table: &MountTable) -> Vec<Action> {
    let mount = table.at(point);
    if mount.is_some_and(|mount| table.elsewhere(&mount.device, point)) {
        return Vec::new();
    }
    let mut actions = vec![Action::Detach(id.clone())];
    if mount.is_some() {
        actions.push(Action::Unmount(point.to_owned()));
    }
    actions
}
