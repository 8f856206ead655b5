//! A staged volume is shown to a pod.

use super::{Action, Health, Refusal, Seen, Served, rebind, restage};
use crate::{flag::Flags, record::Record, volume::VolumeId};
use std::path::Path;

/// Shows the volume at `target`. `staging` is where the kubelet believes it to be.
pub fn publish(
    id: &VolumeId,
    staging: &Path,
    target: &Path,
    flags: &Flags,
    record: Option<&Record>,
    seen: &Seen,
) -> Result<Vec<Action>, Refusal> {
    let Some(record) = record.filter(|record| record.staging == staging) else {
        return Err(Refusal::Precondition(format!(
            "volume {id} is not staged at {}",
            staging.display()
        )));
    };
    if record.targets.get(target).is_some_and(|had| had != flags) {
        return Err(Refusal::Conflict(format!(
            "volume {id} is published at {} with other flags",
            target.display()
        )));
    }
    let mounted = seen.table.at(staging).is_some();
    if mounted && seen.health == Health::Silent && seen.served == Served::AsRecorded {
        return Err(Refusal::Unavailable(format!(
            "volume {id} does not answer: are its masters and workers running?"
        )));
    }
    let mut actions = Vec::new();
    if !record.targets.contains_key(target) {
        let mut record = record.clone();
        record.targets.insert(target.to_owned(), flags.clone());
        actions.push(Action::Save(record));
    }
    actions.extend(restage(record, seen));
    if seen.table.at(target).is_none() {
        actions.push(Action::MakeDir(target.to_owned()));
    }
    actions.extend(rebind(record, seen, target, flags));
    Ok(actions)
}

/// Takes the volume away from `target`, and the directory, too.
pub fn unpublish(target: &Path, record: Option<&Record>) -> Vec<Action> {
    let mut actions = vec![
        Action::Unmount(target.to_owned()),
        Action::RemoveDir(target.to_owned()),
    ];
    if let Some(record) = record.filter(|record| record.targets.contains_key(target)) {
        let mut record = record.clone();
        record.targets.remove(target);
        actions.push(Action::Save(record));
    }
    actions
}
