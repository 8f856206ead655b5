//! A volume is mounted on the node once, for all pods.

use super::{Action, Refusal, Seen, restage};
use crate::{
    mount_table::MountTable,
    record::Record,
    volume::{Volume, VolumeId},
};
use std::path::{Path, PathBuf};

/// Mounts `volume` at `staging`.
pub fn stage(
    volume: Volume,
    staging: PathBuf,
    record: Option<&Record>,
    seen: &Seen,
) -> Result<Vec<Action>, Refusal> {
    let wanted = Record::staged(volume, staging);
    let Some(record) = record else {
        let mut actions = vec![Action::Save(wanted.clone())];
        actions.extend(restage(&wanted, seen));
        return Ok(actions);
    };
    if record.volume != wanted.volume {
        return Err(Refusal::Conflict(format!(
            "volume {} is staged with other attributes",
            record.id()
        )));
    }
    if record.staging != wanted.staging {
        return Err(Refusal::Conflict(format!(
            "volume {} is staged at {}",
            record.id(),
            record.staging.display()
        )));
    }
    Ok(restage(record, seen))
}

/// Takes the volume off the node. What is not recorded, or not mounted, is done already.
pub fn unstage(
    id: &VolumeId,
    staging: &Path,
    record: Option<&Record>,
    table: &MountTable,
) -> Result<Vec<Action>, Refusal> {
    if let Some(record) = record {
        if record.staging != staging {
            return Err(Refusal::Precondition(format!(
                "volume {id} is staged at {}, not at {}",
                record.staging.display(),
                staging.display()
            )));
        }
        let mut targets = record.targets.keys();
        if let Some(used) = targets.find(|target| table.at(target).is_some()) {
            return Err(Refusal::Precondition(format!(
                "volume {id} is still published at {}",
                used.display()
            )));
        }
    }
    Ok(vec![
        // A FUSE host that has gone must not keep pods from ending; when it comes back with the
        // volume, that is an orphan.
        Action::TryDetach(id.clone()),
        Action::Unmount(staging.to_owned()),
        Action::Forget(id.clone()),
    ])
}
