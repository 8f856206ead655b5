//! A store that forgets, at a crash, what was not synced; and fails on demand.

use forebay_kv::{Batch, Durability, Error, Kv, MemKv, Read, Result, Scan};
use parking_lot::{Condvar, Mutex};
use std::{ops::Range, path::Path, sync::Arc};

/// What writes run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NoSpace,
    Corrupt,
    /// The machine has crashed; this store belongs to the past.
    Crashed,
}

#[derive(Default)]
struct State {
    /// Written, not synced.
    unsynced: Vec<Batch>,
    fault: Option<Fault>,
    stalled: bool,
    syncs: u64,
    largest_write: usize,
}

#[derive(Default)]
pub(crate) struct ForgetfulKv {
    live: MemKv,
    synced: MemKv,
    state: Mutex<State>,
    changed: Condvar,
}

impl ForgetfulKv {
    pub(crate) fn new() -> Arc<ForgetfulKv> {
        Arc::default()
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// Writes wait while `stalled`.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.lock().stalled = stalled;
        self.changed.notify_all();
    }

    /// How often something was synced.
    pub(crate) fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Bytes of the largest write.
    pub(crate) fn largest_write(&self) -> usize {
        self.state.lock().largest_write
    }

    /// The store as it comes back after the loss of power: all that was synced, and of the writes
    /// since then the first `lucky` ones. This value fails from now on.
    pub(crate) fn crash(&self, lucky: usize) -> Arc<ForgetfulKv> {
        let mut state = self.state.lock();
        state.fault = Some(Fault::Crashed);
        state.stalled = false;
        self.changed.notify_all();
        let after = ForgetfulKv::new();
        let everything = self
            .synced
            .scan(b"".as_slice()..&[0xff])
            .collect::<Result<Vec<_>>>();
        let mut batch = Batch::default();
        for (key, value) in everything.unwrap() {
            batch.put(key, value);
        }
        for batch in std::iter::once(&batch).chain(state.unsynced.iter().take(lucky)) {
            after.live.write(batch, Durability::Synced).unwrap();
            after.synced.write(batch, Durability::Synced).unwrap();
        }
        after
    }

    /// Indexes of the entries in the journal.
    pub(crate) fn entries(&self) -> Vec<u64> {
        self.live
            .scan(b"e".as_slice()..b"f")
            .map(|pair| u64::from_be_bytes(pair.unwrap().0[1..].try_into().unwrap()))
            .collect()
    }
}

impl Read for ForgetfulKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.live.get(key)
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        self.live.scan(range)
    }
}

impl Kv for ForgetfulKv {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.stalled);
        match state.fault {
            Some(Fault::NoSpace) => return Err(Error::NoSpace("the test says so".into())),
            Some(Fault::Corrupt) => return Err(Error::Corrupt("the test says so".into())),
            Some(Fault::Crashed) => return Err(Error::Failed("power is gone".into())),
            None => {}
        }
        let bytes = batch.ops.iter().map(|op| match op {
            forebay_kv::Op::Put(key, value) => key.len() + value.len(),
            _ => 0,
        });
        state.largest_write = state.largest_write.max(bytes.sum());
        self.live.write(batch, durability)?;
        state.unsynced.push(batch.clone());
        if durability == Durability::Synced {
            state.syncs += 1;
            for batch in state.unsynced.drain(..) {
                self.synced.write(&batch, durability)?;
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        self.live.snapshot()
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        self.live.checkpoint(dir)
    }
}
