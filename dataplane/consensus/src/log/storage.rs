//! The journal as the library reads it.

use super::{Log, entry_bytes, entry_keys};
use crate::{snapshot::Manifest, wire::Wire};
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{Entry, EntryType, Snapshot},
};
use std::ops::Range;

impl Log {
    /// Entries without their content. The library asks for entries without bound only to look for
    /// changes of the configuration among all that is not applied, which may be very much.
    fn outline(&self, indexes: Range<u64>) -> Vec<Entry> {
        let changes = self.changes.iter().filter(|index| indexes.contains(index));
        let change = |index: &u64| {
            let mut entry = Entry {
                index: *index,
                ..Entry::default()
            };
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry
        };
        changes.map(change).collect()
    }

    /// Entries of `indexes`, which are on disk, until they exceed `room` bytes.
    fn read(
        &self,
        indexes: Range<u64>,
        room: &mut u64,
        into: &mut Vec<Entry>,
    ) -> Result<(), forebay_kv::Error> {
        let mut expected = indexes.start;
        let keys = entry_keys(indexes.clone());
        for pair in self.kv.scan(&keys.start..&keys.end) {
            let (_, value) = pair?;
            let entry = Entry::from_bytes(&value).map_err(forebay_kv::Error::Corrupt)?;
            if entry.index != expected {
                break;
            }
            expected += 1;
            if !take(entry, room, into) {
                return Ok(());
            }
        }
        if expected == indexes.end {
            return Ok(());
        }
        Err(forebay_kv::Error::Corrupt(
            format!("entry {expected} is missing").into(),
        ))
    }
}

/// Adds `entry` if `room` is left, or if it is the first.
fn take(entry: Entry, room: &mut u64, into: &mut Vec<Entry>) -> bool {
    let bytes = entry_bytes(&entry) as u64;
    if bytes > *room && !into.is_empty() {
        return false;
    }
    *room = room.saturating_sub(bytes);
    into.push(entry);
    true
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf().to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.cut.index {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            high <= self.last + 1,
            "entries up to {high} asked, {} there",
            self.last
        );
        let Some(mut room) = max_size.into() else {
            return Ok(self.outline(low..high));
        };
        let recent_from = self.last + 1 - self.recent.len() as u64;
        let mut entries = Vec::new();
        if low < recent_from {
            let end = high.min(recent_from);
            if let Err(error) = self.read(low..end, &mut room, &mut entries) {
                self.fault.replace(Some(error));
                return Ok(Vec::new());
            }
            if low + (entries.len() as u64) < end {
                return Ok(entries);
            }
        }
        let from = low.max(recent_from);
        for entry in self.recent.range((from - recent_from) as usize..) {
            if entry.index >= high || !take(entry.clone(), &mut room, &mut entries) {
                break;
            }
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.cut.index {
            return Ok(self.cut.term);
        }
        if index < self.cut.index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last {
            return Err(StorageError::Unavailable.into());
        }
        let run = self.runs.partition_point(|(start, _)| *start <= index);
        Ok(self.runs[run - 1].1)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.cut.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let serves = |manifest: &&Manifest| {
            manifest.index >= request_index.max(self.cut.index) && manifest.conf.contains(to)
        };
        if let Some(manifest) = self.snapshot.as_ref().filter(serves) {
            return Ok(manifest.to_raft());
        }
        self.snapshot_wanted.set(true);
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
