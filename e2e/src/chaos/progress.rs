//! When the clients got on again after a fault, and how long they were kept waiting.

use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Of the round under way.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    acknowledged: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The fault is there.
    fault: Option<Instant>,
    /// The first change that began later and was acknowledged.
    first: Option<Instant>,
    longest: Duration,
}

impl Progress {
    /// A round begins.
    pub(super) fn begin(&self) {
        *self.state.lock() = State::default();
    }

    /// From now on nobody answers who should not. Answers to what began before may still lie in the
    /// buffers of connections.
    pub(super) fn fault(&self) {
        self.state.lock().fault = Some(Instant::now());
    }

    /// Something that began at `begun` is over now; `change`: it is an acknowledged change.
    pub(super) fn over(&self, begun: Instant, change: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.longest = state.longest.max(now - begun);
        let after = state.fault.is_some_and(|fault| begun > fault);
        if change && after && state.first.is_none() {
            state.first = Some(now);
            self.acknowledged.notify_all();
        }
    }

    /// Waits for the first change that began after the fault; when it was acknowledged.
    pub(super) fn first(&self, limit: Duration) -> Option<Instant> {
        let mut state = self.state.lock();
        let none = |state: &mut State| state.first.is_none();
        self.acknowledged.wait_while_for(&mut state, none, limit);
        state.first
    }

    /// The longest that anything took in this round.
    pub(super) fn longest(&self) -> Duration {
        self.state.lock().longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_that_began_after_the_fault_counts() {
        let progress = Progress::default();
        progress.begin();
        let before = Instant::now();
        progress.fault();
        progress.over(before, true);
        let after = Instant::now();
        progress.over(after, false);
        assert_eq!(progress.first(Duration::ZERO), None);
        progress.over(after, true);
        let first = progress.first(Duration::ZERO).unwrap();
        progress.over(after, true);
        assert_eq!(progress.first(Duration::ZERO), Some(first));
        assert!(progress.longest() >= first - after);
    }
}
