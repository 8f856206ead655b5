//! Bounds the requests to sources, in number and in bytes, and lets demand go before read-ahead.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::oneshot;

/// Whether somebody waits for the bytes. A read-ahead becomes urgent when a reader catches up with it.
#[derive(Debug)]
pub struct Urgency(AtomicBool);

impl Urgency {
    /// Somebody waits, or nobody yet.
    pub fn new(urgent: bool) -> Arc<Urgency> {
        Arc::new(Urgency(AtomicBool::new(urgent)))
    }

    /// Somebody waits now. Returns whether that is news: [`Gate::reconsider`] then.
    pub fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is_urgent(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How much may be under way at one time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Bytes of memory that the requests may hold.
    pub bytes: u64,
}

impl Limits {
    /// What read-ahead may use of it: the rest is kept for demand.
    fn for_read_ahead(self) -> Limits {
        Limits {
            requests: (self.requests * 3 / 4).max(1),
            bytes: self.bytes * 3 / 4,
        }
    }
}

/// Hands out permits; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: usize,
    bytes: u64,
    queue: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    urgency: Arc<Urgency>,
    bytes: u64,
    grant: oneshot::Sender<Permit>,
}

/// Leave for one request; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Inner>,
    bytes: u64,
}

impl Gate {
    /// A gate with nothing under way.
    pub fn new(limits: Limits) -> Gate {
        Gate {
            inner: Arc::new(Inner {
                limits,
                state: Mutex::default(),
            }),
        }
    }

    /// Waits for leave to make a request that holds `bytes` of memory. Urgent ones go first, each
    /// kind in the order of arrival.
    pub async fn acquire(&self, urgency: &Arc<Urgency>, bytes: u64) -> Permit {
        let bytes = bytes.min(self.inner.limits.for_read_ahead().bytes);
        let granted = {
            let mut state = self.inner.state.lock();
            let urgent = urgency.is_urgent();
            let first = !state.queue.iter().any(|w| !urgent || w.urgency.is_urgent());
            if first && self.inner.fits(&state, urgent, bytes) {
                state.requests += 1;
                state.bytes += bytes;
                return Permit {
                    gate: self.inner.clone(),
                    bytes,
                };
            }
            let (grant, granted) = oneshot::channel();
            state.queue.push_back(Waiting {
                urgency: urgency.clone(),
                bytes,
                grant,
            });
            granted
        };
        granted
            .await
            .expect("the gate keeps every sender until it grants, and outlives this call")
    }

    /// Some waiting request has become urgent.
    pub fn reconsider(&self) {
        self.inner.admit();
    }

    /// Requests under way and waiting.
    pub fn load(&self) -> (usize, usize) {
        let state = self.inner.state.lock();
        (state.requests, state.queue.len())
    }
}

impl Inner {
    fn fits(&self, state: &State, urgent: bool, bytes: u64) -> bool {
        let limits = if urgent {
            self.limits
        } else {
            self.limits.for_read_ahead()
        };
        state.requests < limits.requests
            && (state.bytes + bytes <= limits.bytes || state.requests == 0)
    }

    /// Grants as much as fits.
    fn admit(self: &Arc<Inner>) {
        loop {
            let waiting = {
                let mut state = self.state.lock();
                let Some(waiting) = self.next(&mut state) else {
                    return;
                };
                state.requests += 1;
                state.bytes += waiting.bytes;
                waiting
            };
            let permit = Permit {
                gate: self.clone(),
                bytes: waiting.bytes,
            };
            // Whoever waited may be gone; the permit comes back by its drop then.
            drop(waiting.grant.send(permit));
        }
    }

    fn next(&self, state: &mut State) -> Option<Waiting> {
        state.queue.retain(|w| !w.grant.is_closed());
        let urgent = state.queue.iter().position(|w| w.urgency.is_urgent());
        let index = match urgent {
            Some(index) => index,
            None if state.queue.is_empty() => return None,
            None => 0,
        };
        let fits = self.fits(state, urgent.is_some(), state.queue[index].bytes);
        fits.then(|| state.queue.remove(index)).flatten()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.gate.state.lock();
            state.requests -= 1;
            state.bytes -= self.bytes;
            !state.queue.is_empty()
        };
        if waiting {
            self.gate.admit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::pin::pin;

    fn gate(requests: usize, bytes: u64) -> Gate {
        Gate::new(Limits { requests, bytes })
    }

    #[test]
    fn read_ahead_leaves_room_for_demand_and_demand_goes_first() {
        let gate = gate(4, 1000);
        let (later, now) = (Urgency::new(false), Urgency::new(true));
        let held: Vec<Permit> = (0..3)
            .map(|_| gate.acquire(&later, 1).now_or_never().unwrap())
            .collect();
        let mut ahead = pin!(gate.acquire(&later, 1));
        assert!(ahead.as_mut().now_or_never().is_none());
        let demand = gate
            .acquire(&now, 1)
            .now_or_never()
            .expect("a seat is kept for demand");
        let mut second = pin!(gate.acquire(&now, 1));
        assert!(second.as_mut().now_or_never().is_none());
        drop(held);
        assert!(second.as_mut().now_or_never().is_some());
        assert!(ahead.as_mut().now_or_never().is_some());
        drop(demand);
    }

    #[test]
    fn a_read_ahead_that_became_urgent_passes_the_others() {
        let gate = gate(1, 1000);
        let first = gate.acquire(&Urgency::new(true), 1).now_or_never().unwrap();
        let (a, b) = (Urgency::new(false), Urgency::new(false));
        let mut wait_a = pin!(gate.acquire(&a, 1));
        let mut wait_b = pin!(gate.acquire(&b, 1));
        assert!(wait_a.as_mut().now_or_never().is_none());
        assert!(wait_b.as_mut().now_or_never().is_none());
        assert!(b.raise() && !b.raise());
        gate.reconsider();
        drop(first);
        let granted = wait_b.as_mut().now_or_never();
        assert!(granted.is_some() && wait_a.as_mut().now_or_never().is_none());
    }

    #[test]
    fn bytes_are_bounded_and_come_back_from_waiters_that_went_away() {
        let gate = gate(10, 100);
        let urgent = Urgency::new(true);
        let big = gate.acquire(&urgent, 75).now_or_never().unwrap();
        {
            let mut gone = pin!(gate.acquire(&urgent, 60));
            assert!(gone.as_mut().now_or_never().is_none());
            drop(big);
            // Granted, but never looked at.
            assert_eq!(gate.load(), (1, 0));
        }
        assert_eq!(gate.load(), (0, 0));
        // More than there is at all: clamped, not stuck.
        assert!(gate.acquire(&urgent, 10_000).now_or_never().is_some());
    }
}
