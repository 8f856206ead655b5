//! A place for one volume of the node.

use super::volume::{Legacy, Served};
use forebay_proto::v1::Volume;
use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use tokio::sync::MutexGuard;

/// A volume of this node.
#[derive(Default)]
pub(super) enum State {
    /// There is none.
    #[default]
    None,
    /// Its mount is there, and nobody answers yet: its masters are away.
    Waiting(Legacy),
    /// It is served.
    Served(Served),
}

/// A place for one volume. Its lock is held while it is attached, taken over or detached: one at a time.
#[derive(Default)]
pub(super) struct Slot {
    state: tokio::sync::Mutex<State>,
    /// What was there when the lock was let go last: who asks meanwhile must not take a volume that is being taken over,
    /// which may last as long as its masters are away, for one that nobody serves.
    volume: Mutex<Option<Volume>>,
}

impl Slot {
    pub(super) async fn lock(&self) -> Locked<'_> {
        Locked {
            state: self.state.lock().await,
            slot: self,
        }
    }

    /// Unless somebody has it.
    pub(super) fn try_lock(&self) -> Option<Locked<'_>> {
        let state = self.state.try_lock().ok()?;
        Some(Locked { state, slot: self })
    }

    /// The volume that was there when somebody took the lock.
    pub(super) fn volume(&self) -> Option<Volume> {
        self.volume.lock().clone()
    }
}

/// The lock of a slot.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    slot: &'a Slot,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        *self.slot.volume.lock() = match &*self.state {
            State::None => None,
            State::Waiting(legacy) => Some(legacy.volume.clone()),
            State::Served(served) => Some(served.volume.clone()),
        };
    }
}
