//! The real metadata behind the journal, as the master has it.

use super::disk::Disk;
use crate::{Fatal, StateMachine};
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

    fn apply(&self, index: u64, command: &[u8]) -> Result<Outcome, Fatal> {
        let command: Command = postcard::from_bytes(command)
            .map_err(|e| Fatal::caused(format!("entry {index} is unreadable"), e))?;
        let commands = vec![command];
        let outcomes = self
            .meta
            .apply(&[Entry { index, commands }])
            .map_err(|e| Fatal::caused(format!("cannot apply entry {index}"), e))?;
        Ok(outcomes.into_iter().flatten().next().unwrap_or_default())
    }

    fn skip(&self, index: u64) -> Result<(), Fatal> {
        self.meta
            .skip(index)
            .map_err(|e| Fatal::caused(format!("cannot skip entry {index}"), e))
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
