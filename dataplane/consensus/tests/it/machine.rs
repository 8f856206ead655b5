//! A state machine that remembers every command, and forgets at a crash what was not flushed.

use forebay_consensus::{Fatal, StateMachine};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) applied: u64,
    pub(crate) commands: BTreeMap<u64, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) state: Mutex<State>,
    pub(crate) flushed: Mutex<State>,
    /// Applying this command fails.
    poison: Option<Vec<u8>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Recorder> {
        Arc::default()
    }

    pub(crate) fn with_poison(poison: &[u8]) -> Arc<Recorder> {
        Arc::new(Recorder {
            poison: Some(poison.to_vec()),
            ..Recorder::default()
        })
    }

    /// What is left after the loss of power.
    pub(crate) fn crash(&self) -> Arc<Recorder> {
        let flushed = self.flushed.lock().clone();
        Arc::new(Recorder {
            state: Mutex::new(flushed.clone()),
            flushed: Mutex::new(flushed),
            poison: None,
        })
    }

    /// Every command applied, in order.
    pub(crate) fn commands(&self) -> Vec<Vec<u8>> {
        self.state.lock().commands.values().cloned().collect()
    }

    fn advance(&self, index: u64) -> Result<parking_lot::MutexGuard<'_, State>, Fatal> {
        let mut state = self.state.lock();
        if index != state.applied + 1 {
            return Err(Fatal::new(format!("{index} comes after {}", state.applied)));
        }
        state.applied = index;
        Ok(state)
    }
}

impl StateMachine for Recorder {
    type Outcome = u64;

    fn applied(&self) -> u64 {
        self.state.lock().applied
    }

    fn apply(&self, index: u64, command: &[u8]) -> Result<u64, Fatal> {
        if self.poison.as_deref() == Some(command) {
            return Err(Fatal::caused(
                "cannot apply the command",
                "the test says so",
            ));
        }
        self.advance(index)?
            .commands
            .insert(index, command.to_vec());
        Ok(index)
    }

    fn skip(&self, index: u64) -> Result<(), Fatal> {
        self.advance(index).map(drop)
    }

    fn flush(&self) -> Result<u64, Fatal> {
        let state = self.state.lock().clone();
        let applied = state.applied;
        *self.flushed.lock() = state;
        Ok(applied)
    }
}
