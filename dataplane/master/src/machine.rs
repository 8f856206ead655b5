//! What raft applies commands to: the metadata state machine, with its invalidations handed on.

use crate::watch::Hub;
use forebay_consensus::{Fatal, StateMachine};
use forebay_meta::{Command, Meta, Outcome};
use std::{path::Path, sync::Arc};

/// Applies commands to the metadata and tells the watchers.
pub(crate) struct Machine {
    meta: Arc<Meta>,
    hub: Arc<Hub>,
}

impl Machine {
    pub(crate) fn new(meta: Arc<Meta>, hub: Arc<Hub>) -> Machine {
        Machine { meta, hub }
    }
}

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn applied(&self) -> u64 {
        self.meta.applied()
    }

    fn apply(&self, index: u64, command: &[u8]) -> Result<Outcome, Fatal> {
        // Skipping what cannot be read would make this state differ from every other's.
        let command: Command = postcard::from_bytes(command).map_err(|error| Fatal {
            message: format!(
                "journal entry {index} is damaged or of a newer version: use a newer forebay, or \
                 restore the master's data directory"
            ),
            source: Some(Box::new(error)),
        })?;
        let outcome = self
            .meta
            .apply(index, &command)
            .map_err(|e| fatal(index, e))?;
        self.hub.publish(&outcome.invalidated);
        Ok(outcome)
    }

    fn skip(&self, index: u64) -> Result<(), Fatal> {
        self.meta.skip(index).map_err(|e| fatal(index, e))
    }

    fn flush(&self) -> Result<u64, Fatal> {
        self.meta.flush().map_err(|error| Fatal {
            message: "cannot flush the metadata: check the disk of the master's data directory"
                .to_owned(),
            source: Some(Box::new(error)),
        })
    }

    fn checkpoint(&self, _dir: &Path) -> Result<u64, Fatal> {
        Err(alone())
    }

    fn install(&self, _dir: &Path) -> Result<(), Fatal> {
        Err(alone())
    }
}

fn alone() -> Fatal {
    Fatal::new("a lone master neither sends nor takes snapshots")
}

fn fatal(index: u64, error: forebay_meta::Error) -> Fatal {
    Fatal {
        message: format!(
            "cannot apply journal entry {index}: check the disk of the master's data directory"
        ),
        source: Some(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_kv::mem::MemKv;

    #[test]
    fn a_command_that_cannot_be_read_is_fatal() {
        let meta = Arc::new(Meta::open(Arc::new(MemKv::new()), 1 << 20).unwrap());
        let machine = Machine::new(meta, Arc::new(Hub::new()));
        let error = machine.apply(1, b"\xff\xff\xff").unwrap_err();
        assert!(error.message.contains("entry 1"), "{}", error.message);
        assert_eq!(machine.applied(), 0);
    }
}
