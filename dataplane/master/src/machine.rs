//! What raft applies commands to: the metadata state machine, with its invalidations handed on.

use crate::{tables::Tables, watch::Hub};
use forebay_consensus::{ApplyError, Fatal, StateMachine};
use forebay_meta::{Command, Entry, Invalidated, Meta, Outcome};
use forebay_types::error::chain;
use parking_lot::{Mutex, RwLock};
use std::{path::Path, sync::Arc};

/// The outcomes of the commands of one entry of the journal.
pub(crate) type Outcomes = Vec<Outcome>;

/// Nobody knows what changed.
const EVERYTHING: Invalidated = Invalidated {
    entries: Vec::new(),
    inodes: Vec::new(),
    all: true,
};

/// Applies commands to the metadata and tells the watchers.
pub(crate) struct Machine {
    /// Another one after a snapshot was installed.
    meta: RwLock<Arc<Meta>>,
    tables: Tables,
    hub: Arc<Hub>,
    /// Index of the last flush that succeeded; what was there at the start is on disk.
    flushed: Mutex<u64>,
}

impl Machine {
    /// Opens the state in `tables`.
    pub(crate) fn open(tables: Tables, hub: Arc<Hub>) -> anyhow::Result<Machine> {
        let meta = tables.open()?;
        Ok(Machine {
            flushed: Mutex::new(meta.applied()),
            meta: RwLock::new(meta),
            tables,
            hub,
        })
    }

    /// The state as it is now. A snapshot replaces it, though never that of a leader.
    pub(crate) fn meta(&self) -> Arc<Meta> {
        self.meta.read().clone()
    }
}

impl StateMachine for Machine {
    type Outcome = Outcomes;

    fn applied(&self) -> u64 {
        self.meta().applied()
    }

    fn apply(&self, index: u64, commands: &[u8]) -> Result<Outcomes, ApplyError> {
        let mut outcomes = self.apply_run(index, &[commands])?;
        Ok(outcomes.pop().unwrap_or_default())
    }

    fn apply_run(&self, first: u64, run: &[&[u8]]) -> Result<Vec<Outcomes>, ApplyError> {
        let entries = (first..).zip(run).map(|(index, bytes)| read(index, bytes));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let outcomes = self.meta().apply(&entries).map_err(|error| {
            if is_full(&error) {
                // Of those that were applied before there was no space, nobody was told.
                self.hub.publish(&EVERYTHING);
            }
            failed(first, error)
        })?;
        for outcome in outcomes.iter().flatten() {
            self.hub.publish(&outcome.invalidated);
        }
        Ok(outcomes)
    }

    fn skip(&self, index: u64) -> Result<(), ApplyError> {
        self.meta().skip(index).map_err(|e| failed(index, e))
    }

    fn flush(&self) -> Result<u64, Fatal> {
        let mut flushed = self.flushed.lock();
        match self.meta().flush() {
            Ok(index) => *flushed = index,
            Err(error) if is_full(&error) => {
                tracing::error!(%error, "no space on the disk of the metadata: the journal grows");
            }
            Err(error) => {
                let what =
                    "cannot flush the metadata: check the disk of the master's data directory";
                return Err(Fatal::caused(what, error));
            }
        }
        Ok(*flushed)
    }

    fn checkpoint(&self, dir: &Path) -> Result<u64, Fatal> {
        let made = self.meta().checkpoint(dir);
        made.map_err(|e| Fatal::caused(format!("cannot make a checkpoint in {}", dir.display()), e))
    }

    fn install(&self, dir: &Path) -> Result<(), Fatal> {
        let installed = self.tables.install(dir);
        let meta = installed.map_err(|e| Fatal::caused("cannot take over a snapshot", e))?;
        *self.flushed.lock() = meta.applied();
        *self.meta.write() = meta;
        // What changed between the old state and the new one, nobody knows.
        self.hub.publish(&EVERYTHING);
        Ok(())
    }
}

fn is_full(error: &forebay_meta::Error) -> bool {
    matches!(
        error,
        forebay_meta::Error::Store(forebay_kv::Error::NoSpace(_))
    )
}

/// Skipping what cannot be read would make this state differ from every other's.
fn read(index: u64, bytes: &[u8]) -> Result<Entry, Fatal> {
    let commands: Vec<Command> = postcard::from_bytes(bytes).map_err(|error| Fatal {
        message: format!(
            "journal entry {index} is damaged or of a newer version: use a newer forebay, or \
             restore the master's data directory"
        ),
        source: Some(Box::new(error)),
    })?;
    Ok(Entry { index, commands })
}

fn failed(index: u64, error: forebay_meta::Error) -> ApplyError {
    if is_full(&error) {
        return ApplyError::NoSpace(chain(&error));
    }
    let fatal = Fatal {
        message: format!(
            "cannot apply the journal from entry {index} on: check the disk of the master's data directory"
        ),
        source: Some(Box::new(error)),
    };
    fatal.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_cannot_be_read_is_fatal() {
        let dir = tempfile::tempdir().unwrap();
        let tables = Tables::new(dir.path().join("meta"), [8 << 20, 1 << 20]);
        let machine = Machine::open(tables, Arc::new(Hub::new())).unwrap();
        let error = machine.apply(1, b"\xff\xff\xff").unwrap_err();
        assert!(error.to_string().contains("entry 1"), "{error}");
        assert_eq!(machine.applied(), 0);
    }
}
