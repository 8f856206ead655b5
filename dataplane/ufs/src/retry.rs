//! When to try again, and when to stop.
//!
//! Exponential back-off with full jitter, a limit per request, and a budget per store after the
//! manner of the AWS SDKs' retry quota: when much fails, the store is asked less, not more.

use crate::Error;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What a failure says about the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// The same answer would come again.
    No,
    /// The server closed an idle connection at the moment it was used: nothing is wrong.
    AtOnce,
    /// May pass.
    Soon,
    /// The store asks for fewer requests.
    Slower,
}

/// A failed try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) again: Again,
}

impl Failure {
    /// One that no repetition would change.
    pub(crate) fn last(error: Error) -> Failure {
        Failure {
            error,
            again: Again::No,
        }
    }
}

/// Tokens of one repetition; a success earns one.
const UNIT: u64 = 10;

/// The limits of one store.
#[derive(Debug)]
pub(crate) struct Policy {
    retries: u32,
    /// What is left.
    tokens: AtomicU64,
    most: u64,
}

impl Policy {
    /// At most `retries` repetitions of one request, and a budget of `budget` for all.
    pub(crate) fn new(retries: u32, budget: u32) -> Policy {
        let most = u64::from(budget) * UNIT;
        Policy {
            retries,
            tokens: AtomicU64::new(most),
            most,
        }
    }

    /// A request succeeded.
    pub(crate) fn succeeded(&self) {
        // Full nearly always: one load on the fast path.
        if self.tokens.load(Relaxed) < self.most {
            let _ = self
                .tokens
                .fetch_update(Relaxed, Relaxed, |t| (t < self.most).then_some(t + 1));
        }
    }

    fn spend(&self) -> bool {
        self.tokens
            .fetch_update(Relaxed, Relaxed, |t| t.checked_sub(UNIT))
            .is_ok()
    }

    /// How long to wait before repetition `tried` (from 0) after such a failure; `None`: give up.
    /// `dice` is a random number below 1.
    fn wait(&self, again: Again, tried: u32, dice: f64) -> Option<Duration> {
        let (first, most) = match again {
            Again::No => return None,
            // Once; a second time in a row it is a failure like any other.
            Again::AtOnce if tried == 0 => return Some(Duration::ZERO),
            Again::AtOnce | Again::Soon => (0.05, 5.0),
            Again::Slower => (0.25, 10.0),
        };
        if tried >= self.retries || !self.spend() {
            return None;
        }
        let ceiling = f64::min(first * 2_f64.powi(tried.min(30) as i32), most);
        // Never nothing: at least a tenth of the ceiling.
        Some(Duration::from_secs_f64(ceiling * (0.1 + 0.9 * dice)))
    }
}

/// The tries of one request.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    tried: u32,
}

impl Tries {
    /// Waits as the policy says, or gives the failure back as the final error.
    pub(crate) async fn next(&mut self, policy: &Policy, failure: Failure) -> Result<(), Error> {
        match policy.wait(failure.again, self.tried, rand::random()) {
            Some(wait) => {
                self.tried += 1;
                tracing::debug!(error = %failure.error, ?wait, tried = self.tried, "trying again");
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Ok(())
            }
            None if self.tried == 0 => Err(failure.error),
            None => {
                let mut error = failure.error;
                let times = if self.tried == 1 { "try" } else { "tries" };
                error.message = format!("{} (after {} more {times})", error.message, self.tried);
                Err(error)
            }
        }
    }

    /// Bytes have arrived: the next failure is a first one again (the budget still counts).
    pub(crate) fn progressed(&mut self) {
        self.tried = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_jittered_and_end() {
        let policy = Policy::new(3, 100);
        let wait = |tried, dice| policy.wait(Again::Soon, tried, dice);
        assert_eq!(wait(0, 1.0), Some(Duration::from_millis(50)));
        assert_eq!(wait(2, 1.0), Some(Duration::from_millis(200)));
        assert_eq!(wait(2, 0.0), Some(Duration::from_millis(20)));
        assert_eq!(wait(3, 0.0), None);
        assert_eq!(policy.wait(Again::No, 0, 0.0), None);
        let long = Policy::new(100, 100).wait(Again::Slower, 99, 1.0);
        assert_eq!(long, Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_budget_is_shared_and_earned_back() {
        let policy = Policy::new(6, 2);
        assert!(policy.wait(Again::Soon, 0, 0.0).is_some());
        assert!(policy.wait(Again::Soon, 0, 0.0).is_some());
        assert!(policy.wait(Again::Soon, 0, 0.0).is_none());
        // A connection closed while idle costs nothing, once.
        assert_eq!(policy.wait(Again::AtOnce, 0, 0.0), Some(Duration::ZERO));
        assert!(policy.wait(Again::AtOnce, 1, 0.0).is_none());
        for _ in 0..10 {
            policy.succeeded();
        }
        assert!(policy.wait(Again::Soon, 0, 0.0).is_some());
        assert!(policy.wait(Again::Soon, 0, 0.0).is_none());
    }
}
