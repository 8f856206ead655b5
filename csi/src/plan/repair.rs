//! What time, crashes and reboots have done to a volume is undone.

use super::{Action, Health, Seen, Served, rebind, restage};
use crate::record::Record;

/// Makes what is there what the record says; nothing if it is.
pub fn repair(record: &Record, seen: &Seen) -> Vec<Action> {
    let used = |target| seen.table.at(target).is_some();
    if seen.missing.contains(&record.staging) && !record.targets.keys().any(|t| used(t)) {
        // The kubelet has cleaned up without us: after a reboot, or by hand.
        let mut actions = Vec::new();
        if seen.served != Served::Not {
            actions.push(Action::Detach(record.id().clone()));
        }
        actions.push(Action::Forget(record.id().clone()));
        return actions;
    }
    let mut kept = record.clone();
    kept.targets
        .retain(|target, _| !seen.missing.contains(target));
    let mut actions = Vec::new();
    if kept != *record {
        actions.push(Action::Save(kept.clone()));
    }
    let restaging = restage(&kept, seen);
    // Binding from a mount that does not answer could take for ever.
    if restaging.is_empty() && seen.health == Health::Silent {
        return actions;
    }
    actions.extend(restaging);
    for (target, flags) in &kept.targets {
        actions.extend(rebind(&kept, seen, target, flags));
    }
    actions
}
