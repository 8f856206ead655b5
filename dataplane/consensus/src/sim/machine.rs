//! The real metadata behind the journal, as the master has it.

use super::disk::Disk;
use crate::{ApplyError, Fatal, StateMachine};
use forebay_kv::Error;
use forebay_meta::{Command, Entry, Meta, Outcome};
use parking_lot::Mutex;
use std::{path::Path, sync::Arc};

/// Bytes of the inode cache: everything of a simulated tree.
const CACHE_BYTES: u64 = 1 << 20;

pub(crate) struct Machine {
    pub(crate) meta: Meta,
    /// Index of the last flush that succeeded.
    flushed: Mutex<u64>,
}

impl Machine {
    /// Over the store that survived.
    pub(crate) fn open(store: &Arc<Disk>) -> Result<Machine, Fatal> {
        let meta = Meta::open(Arc::<Disk>::clone(store), CACHE_BYTES)
            .map_err(|e| Fatal::caused("cannot open the metadata", e))?;
        let flushed = Mutex::new(meta.applied());
        Ok(Machine { meta, flushed })
    }
}

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn applied(&self) -> u64 {
        self.meta.applied()
    }

    fn apply(&self, index: u64, command: &[u8]) -> Result<Outcome, ApplyError> {
        let outcome = self.apply_run(index, &[command])?.pop();
        Ok(outcome.unwrap_or_default())
    }

    fn apply_run(&self, first: u64, run: &[&[u8]]) -> Result<Vec<Outcome>, ApplyError> {
        let read = |(index, bytes): (u64, &&[u8])| {
            let command: Command = postcard::from_bytes(bytes)
                .map_err(|e| Fatal::caused(format!("entry {index} is unreadable"), e))?;
            let commands = vec![command];
            Ok(Entry { index, commands })
        };
        let entries = (first..).zip(run).map(read);
        let entries = entries.collect::<Result<Vec<_>, Fatal>>()?;
        let outcomes = self
            .meta
            .apply(&entries)
            .map_err(|e| Fatal::caused(format!("cannot apply from entry {first} on"), e))?;
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn skip(&self, index: u64) -> Result<(), ApplyError> {
        self.meta
            .skip(index)
            .map_err(|e| Fatal::caused(format!("cannot skip entry {index}"), e).into())
    }

    fn flush(&self) -> Result<u64, Fatal> {
        let mut flushed = self.flushed.lock();
        match self.meta.flush() {
            Ok(index) => *flushed = index,
            Err(forebay_meta::Error::Store(Error::NoSpace(_))) => {}
            Err(error) => return Err(Fatal::caused("cannot flush", error)),
        }
        Ok(*flushed)
    }

    fn checkpoint(&self, _dir: &Path) -> Result<u64, Fatal> {
        unreachable!("simulated disks have no directories: the replica copies them")
    }

    fn install(&self, _dir: &Path) -> Result<(), Fatal> {
        unreachable!("simulated disks have no directories: the replica copies them")
    }
}
