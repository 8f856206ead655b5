//! A state machine that remembers every command, and forgets at a crash what was not flushed.

use forebay_consensus::{ApplyError, Fatal, StateMachine};
use parking_lot::{Condvar, Mutex};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

/// Commands in one file of a checkpoint: those that are full are the same in all later ones.
const FILE_INDEXES: u64 = 64;

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
    /// Power is lost while a snapshot is taken over: before or after it counts.
    pub(crate) install_fault: Mutex<Option<InstallFault>>,
    pub(crate) checkpoints: Mutex<u64>,
    /// There is no space for commands.
    pub(crate) full: Mutex<bool>,
    stalled: Mutex<bool>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstallFault {
    Before,
    After,
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

    /// Apply waits while `stalled`.
    pub(crate) fn stall(&self, stalled: bool) {
        *self.stalled.lock() = stalled;
        self.changed.notify_all();
    }

    /// What is left after the loss of power.
    pub(crate) fn crash(&self) -> Arc<Recorder> {
        let flushed = self.flushed.lock().clone();
        Arc::new(Recorder {
            state: Mutex::new(flushed.clone()),
            flushed: Mutex::new(flushed),
            ..Recorder::default()
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

    fn apply(&self, index: u64, command: &[u8]) -> Result<u64, ApplyError> {
        if self.poison.as_deref() == Some(command) {
            return Err(Fatal::caused("cannot apply the command", "the test says so").into());
        }
        if *self.full.lock() {
            return Err(ApplyError::NoSpace("the test says so".to_owned()));
        }
        self.changed
            .wait_while(&mut self.stalled.lock(), |stalled| *stalled);
        self.advance(index)?
            .commands
            .insert(index, command.to_vec());
        Ok(index)
    }

    fn skip(&self, index: u64) -> Result<(), ApplyError> {
        Ok(self.advance(index).map(drop)?)
    }

    fn flush(&self) -> Result<u64, Fatal> {
        let state = self.state.lock().clone();
        let applied = state.applied;
        *self.flushed.lock() = state;
        Ok(applied)
    }

    fn checkpoint(&self, dir: &Path) -> Result<u64, Fatal> {
        *self.checkpoints.lock() += 1;
        let state = self.state.lock().clone();
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (index, command) in &state.commands {
            let file = files
                .entry(format!("{:06}", index / FILE_INDEXES))
                .or_default();
            file.extend(index.to_be_bytes());
            file.extend((command.len() as u64).to_be_bytes());
            file.extend(command);
        }
        files.insert("applied".to_owned(), state.applied.to_be_bytes().to_vec());
        fs::create_dir(dir).unwrap();
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        Ok(state.applied)
    }

    fn install(&self, dir: &Path) -> Result<(), Fatal> {
        let fault = self.install_fault.lock().take();
        if fault == Some(InstallFault::Before) {
            return Err(Fatal::new("power is gone before the installation"));
        }
        let mut state = State::default();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            if path.ends_with("applied") {
                state.applied = u64::from_be_bytes(bytes.try_into().unwrap());
                continue;
            }
            let mut rest = &bytes[..];
            while let Some((index, tail)) = rest.split_first_chunk() {
                let (len, tail) = tail.split_first_chunk().unwrap();
                let (command, tail) = tail.split_at(u64::from_be_bytes(*len) as usize);
                let index = u64::from_be_bytes(*index);
                state.commands.insert(index, command.to_vec());
                rest = tail;
            }
        }
        *self.flushed.lock() = state.clone();
        *self.state.lock() = state;
        match fault {
            None => Ok(()),
            Some(_) => Err(Fatal::new("power is gone after the installation")),
        }
    }
}
