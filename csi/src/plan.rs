//! What is to be done, decided from what is wanted, recorded and seen. Does nothing itself.
//!
//! A record is saved before anything is done for it and forgotten after everything is undone, so
//! a driver that dies between two actions finds out from record and mount table how far it came.

mod orphan;
mod publish;
mod repair;
mod stage;

pub use orphan::orphan;
pub use publish::{publish, unpublish};
pub use repair::repair;
pub use stage::{stage, unstage};

use crate::{
    flag::Flags,
    mount_table::{Mount, MountTable},
    record::Record,
    volume::{SubPath, Volume, VolumeId},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// One thing to do. Each may be done again without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record.
    Save(Record),
    /// Remove the record.
    Forget(VolumeId),
    /// Make a directory where something is mounted next.
    MakeDir(PathBuf),
    /// Remove an empty directory.
    RemoveDir(PathBuf),
    /// Let the FUSE host serve a volume.
    Attach(Volume, PathBuf),
    /// Let the FUSE host end a volume.
    Detach(VolumeId),
    /// The same, where a FUSE host that cannot be asked is no obstacle.
    TryDetach(VolumeId),
    /// Take away every mount at the path, used or not.
    Unmount(PathBuf),
    /// Mount the volume that is mounted at `staging`, or a directory below its root, at `target`
    /// too.
    Bind {
        /// Where the volume is mounted.
        staging: PathBuf,
        /// What of it.
        sub_path: Option<SubPath>,
        /// Where it is mounted next.
        target: PathBuf,
    },
    /// Give a mount these flags beside those it has.
    AddFlags(PathBuf, Flags),
}

/// How a mount answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Live,
    /// Whoever served it has gone.
    Dead,
    /// Not in time.
    Silent,
}

/// What a plan is made from beside records.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The kernel's mounts.
    pub table: MountTable,
    /// How the mount at the staging directory answers; means nothing if there is none.
    pub health: Health,
    /// What the FUSE host serves under the volume's id.
    pub served: Served,
    /// Of the paths of the record, those where neither a mount nor a directory is.
    pub missing: BTreeSet<PathBuf>,
}

impl Seen {
    /// Of a volume that is not recorded.
    pub fn nothing(table: MountTable) -> Seen {
        Seen {
            table,
            health: Health::Dead,
            served: Served::Not,
            missing: BTreeSet::new(),
        }
    }

    /// The mount at the staging directory, if it can be bound to pods.
    fn usable(&self, staging: &Path) -> Option<&Mount> {
        let usable = self.health == Health::Live && self.served == Served::AsRecorded;
        self.table.at(staging).filter(|_| usable)
    }
}

/// What the FUSE host says of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing.
    Not,
    /// It serves it as the record has it.
    AsRecorded,
    /// It serves it with other settings or elsewhere.
    Otherwise,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is there already, and is not the same.
    #[error("{0}")]
    Conflict(String),
    /// Something else comes first.
    #[error("{0}")]
    Precondition(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// What makes the mount at the staging directory a good one; nothing if it is.
fn restage(record: &Record, seen: &Seen) -> Vec<Action> {
    let mounted = seen.table.at(&record.staging).is_some();
    let mut actions = Vec::new();
    match (mounted, seen.health, seen.served) {
        // What does not answer now may later: its pods wait, as they would for any slow store.
        (true, Health::Live | Health::Silent, Served::AsRecorded) => return actions,
        (_, _, Served::AsRecorded | Served::Otherwise) => {
            actions.push(Action::Detach(record.id().clone()));
        }
        (_, _, Served::Not) => {}
    }
    if mounted {
        actions.push(Action::Unmount(record.staging.clone()));
    }
    actions.push(Action::MakeDir(record.staging.clone()));
    actions.push(Action::Attach(
        record.volume.clone(),
        record.staging.clone(),
    ));
    actions
}

/// What makes `target` show the volume; nothing if it does.
fn rebind(record: &Record, seen: &Seen, target: &Path, flags: &Flags) -> Vec<Action> {
    let mut actions = Vec::new();
    let there = seen.table.at(target);
    let bound = match (seen.usable(&record.staging), there) {
        (Some(staged), Some(there)) if staged.device == there.device => Some(there),
        _ => None,
    };
    if bound.is_none() {
        if there.is_some() {
            actions.push(Action::Unmount(target.to_owned()));
        }
        actions.push(Action::Bind {
            staging: record.staging.clone(),
            sub_path: record.volume.sub_path.clone(),
            target: target.to_owned(),
        });
    }
    if bound.is_none_or(|there| !there.flags.is_superset(flags)) {
        actions.push(Action::AddFlags(target.to_owned(), flags.clone()));
    }
    actions
}

#[cfg(test)]
mod tests;
