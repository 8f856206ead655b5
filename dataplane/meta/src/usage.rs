//! What each mount has: files, bytes, what is still to be listed.
//!
//! The figures of a mount are a function of its rows in the inode table: what [`part_of`] says of
//! each that is not known to be out of the tree, summed up. So they can be counted at any time, and
//! on every replica the count is the same as if it had been kept from the first command on.

use crate::{
    Result,
    inode::{self, Body, InodeRow},
    mount, schema,
};
use forebay_kv::{Batch, Read};
use forebay_types::MountId;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::{AddAssign, ControlFlow, SubAssign},
};

/// What a mount has, as far as it was listed. A file that leaves the tree, or is replaced, counts no
/// longer; a directory that leaves it takes with it what is below only when that is reaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Directories of the under store that were never listed, or are to be listed again.
    pub unlisted: u64,
    /// When the latest complete listing of a directory began (`FinishSync`); 0: there was none. The
    /// only figure that is not a sum over rows: the directory may be gone.
    pub last_sync_ns: i64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, part: Usage) {
        self.files += part.files;
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.unlisted += part.unlisted;
        self.last_sync_ns = self.last_sync_ns.max(part.last_sync_ns);
    }
}

impl SubAssign for Usage {
    fn sub_assign(&mut self, part: Usage) {
        self.files = self.files.saturating_sub(part.files);
        self.bytes = self.bytes.saturating_sub(part.bytes);
        self.unlisted = self.unlisted.saturating_sub(part.unlisted);
    }
}

/// What a row adds to the figures of a mount.
pub(crate) fn part_of(row: &InodeRow) -> Option<(MountId, Usage)> {
    if row.place.as_ref().is_some_and(|place| place.gone) {
        return None;
    }
    match &row.body {
        Body::File(file) => {
            let part = Usage {
                files: 1,
                bytes: file.size,
                ..Usage::default()
            };
            Some((file.mount, part))
        }
        Body::Directory(directory) => {
            let owner = directory.owner.as_ref()?;
            let part = Usage {
                unlisted: u64::from(!owner.is_scratch() && directory.synced_ns.is_none()),
                last_sync_ns: directory.synced_ns.unwrap_or(0),
                ..Usage::default()
            };
            Some((owner.mount, part))
        }
    }
}

/// The figures of all mounts as of the last commit: one row each, and the same in memory.
pub(crate) struct Usages(RwLock<BTreeMap<MountId, Usage>>);

impl Usages {
    pub(crate) fn load(reader: &dyn Read) -> Result<Usages> {
        let range = schema::usages();
        let rows = reader.scan(range.start.as_slice()..range.end.as_slice());
        let rows = rows.map(|row| {
            let (key, value) = row?;
            Ok((schema::mount_of(&key)?, schema::decode(&value, "usage")?))
        });
        Ok(Usages(RwLock::new(rows.collect::<Result<_>>()?)))
    }

    pub(crate) fn get(&self, mount: MountId) -> Option<Usage> {
        self.0.read().get(&mount).copied()
    }

    /// After a commit.
    pub(crate) fn take_over(&self, changes: Changes) {
        if changes.0.is_empty() {
            return;
        }
        let mut usages = self.0.write();
        for (mount, usage) in changes.0 {
            match usage {
                Some(usage) => usages.insert(mount, usage),
                None => usages.remove(&mount),
            };
        }
    }
}

/// What the commands of one batch make of the figures. Rows of a mount that is no longer there, or
/// never was, count nowhere.
#[derive(Default)]
pub(crate) struct Changes(BTreeMap<MountId, Option<Usage>>);

impl Changes {
    /// A new mount has nothing yet.
    pub(crate) fn begin(&mut self, mount: MountId) {
        self.0.insert(mount, Some(Usage::default()));
    }

    /// A mount is gone.
    pub(crate) fn end(&mut self, mount: MountId) {
        self.0.insert(mount, None);
    }

    /// Whether rows of a mount count.
    pub(crate) fn counts(&self, before: &Usages, mount: MountId) -> bool {
        match self.0.get(&mount) {
            Some(usage) => usage.is_some(),
            None => before.get(mount).is_some(),
        }
    }

    /// A row is there from now on.
    pub(crate) fn add(&mut self, before: &Usages, row: &InodeRow) {
        self.change(before, part_of(row), |usage, part| *usage += part);
    }

    /// A row that was there is no longer, or is not in the tree.
    pub(crate) fn subtract(&mut self, before: &Usages, row: &InodeRow) {
        self.change(before, part_of(row), |usage, part| *usage -= part);
    }

    fn change(
        &mut self,
        before: &Usages,
        part: Option<(MountId, Usage)>,
        change: impl FnOnce(&mut Usage, Usage),
    ) {
        let Some((mount, part)) = part.filter(|(_, part)| *part != Usage::default()) else {
            return;
        };
        let usage = self.0.entry(mount).or_insert_with(|| before.get(mount));
        if let Some(usage) = usage {
            change(usage, part);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn put(&self, batch: &mut Batch) {
        for (mount, usage) in &self.0 {
            match usage {
                Some(usage) => batch.put(schema::usage(*mount), schema::encode(usage)),
                None => batch.delete(schema::usage(*mount)),
            }
        }
    }
}

/// Counts all rows: what a store holds no count of, because an earlier version wrote to it.
pub(crate) fn count(reader: &dyn Read) -> Result<Changes> {
    let mounts = mount::rows(reader)?;
    let mut usages: BTreeMap<MountId, Option<Usage>> = mounts
        .keys()
        .map(|mount| (*mount, Some(Usage::default())))
        .collect();
    for stale in Usages::load(reader)?.0.into_inner().into_keys() {
        usages.entry(stale).or_insert(None);
    }
    let mut ended = Ok(());
    let range = schema::all_inodes();
    reader.visit(
        range.start.as_slice()..range.end.as_slice(),
        &mut |_, value| match inode::decode(value) {
            Ok(row) => {
                if let Some((mount, part)) = part_of(&row)
                    && let Some(Some(usage)) = usages.get_mut(&mount)
                {
                    *usage += part;
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                ended = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    ended.map(|()| Changes(usages))
}
