//! One request for missing pages, and those who wait for its bytes.

use crate::gate::Urgency;
use forebay_client::Error;
use forebay_types::{PAGE_SIZE, PageIndex};
use parking_lot::Mutex;
use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// How a flight ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// All its pages are present.
    Done,
    /// The cache could not take the bytes.
    NotCached,
    /// No source gave them.
    Failed(Error),
}

/// A fill of contiguous pages that is under way.
#[derive(Debug)]
pub struct Flight {
    /// The pages.
    pub pages: Range<PageIndex>,
    /// Their bytes in the file.
    pub bytes: Range<u64>,
    /// Whether somebody waits.
    pub urgency: Arc<Urgency>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes of the flight before this one are in the file.
    position: u64,
    ending: Option<Ending>,
    /// Who waits, and for which position.
    waiters: Vec<Option<(u64, Waker)>>,
}

impl Flight {
    /// A flight that has not begun.
    pub fn new(pages: Range<PageIndex>, bytes: Range<u64>, urgent: bool) -> Flight {
        let state = State {
            position: bytes.start,
            ending: None,
            waiters: Vec::new(),
        };
        Flight {
            pages,
            bytes,
            urgency: Urgency::new(urgent),
            state: Mutex::new(state),
        }
    }

    /// Bytes before `position` are in the file now. Returns whether that is what somebody waited for.
    pub fn advance(&self, position: u64) -> bool {
        let woken = {
            let mut state = self.state.lock();
            state.position = position;
            state.take_waiters(|end| end <= position)
        };
        let any = !woken.is_empty();
        woken.into_iter().for_each(Waker::wake);
        any
    }

    /// Ends it; only the first ending counts.
    pub fn end(&self, ending: Ending) {
        let woken = {
            let mut state = self.state.lock();
            state.ending.get_or_insert(ending);
            state.take_waiters(|_| true)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Waits until the bytes before `end` are in the file, or the flight has ended.
    pub fn reached(self: &Arc<Self>, end: u64) -> Reached {
        Reached {
            flight: self.clone(),
            end: end.min(self.bytes.end),
            slot: None,
        }
    }
}

impl State {
    fn take_waiters(&mut self, which: impl Fn(u64) -> bool) -> Vec<Waker> {
        let mut woken = Vec::new();
        for waiter in &mut self.waiters {
            if waiter.as_ref().is_some_and(|(end, _)| which(*end)) {
                woken.extend(waiter.take().map(|(_, waker)| waker));
            }
        }
        woken
    }
}

/// The future of [`Flight::reached`]: [`Ending::Done`] as soon as the bytes are there.
#[derive(Debug)]
pub struct Reached {
    flight: Arc<Flight>,
    end: u64,
    slot: Option<usize>,
}

impl Future for Reached {
    type Output = Ending;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ending> {
        let this = &mut *self;
        let mut state = this.flight.state.lock();
        let ending = match &state.ending {
            _ if state.position >= this.end => Some(Ending::Done),
            ending => ending.clone(),
        };
        if let Some(ending) = ending {
            if let Some(slot) = this.slot.take() {
                state.waiters[slot] = None;
            }
            return Poll::Ready(ending);
        }
        let waiter = Some((this.end, context.waker().clone()));
        if let Some(slot) = this.slot {
            state.waiters[slot] = waiter;
        } else {
            // A slot that was woken still belongs to its future until that is gone, so none
            // is used twice; a flight is short and has few waiters.
            this.slot = Some(state.waiters.len());
            state.waiters.push(waiter);
        }
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.flight.state.lock().waiters[slot] = None;
        }
    }
}

/// The flights to start: the `missing` pages that are not `busy`, joined where contiguous, cut at
/// multiples of `piece` bytes.
pub fn cut(
    missing: &[Range<PageIndex>],
    busy: &[Range<PageIndex>],
    piece: u64,
) -> Vec<Range<PageIndex>> {
    let piece = (piece / PAGE_SIZE).max(1) as PageIndex;
    let mut flights: Vec<Range<PageIndex>> = Vec::new();
    for page in missing.iter().cloned().flatten() {
        if busy.iter().any(|b| b.contains(&page)) {
            continue;
        }
        match flights.last_mut() {
            Some(flight) if flight.end == page && !page.is_multiple_of(piece) => {
                flight.end = page + 1;
            }
            _ => flights.push(page..page + 1),
        }
    }
    flights
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::Code;
    use futures::FutureExt;
    use std::pin::pin;

    #[test]
    fn a_waiter_goes_on_when_its_own_bytes_are_there() {
        let flight = Arc::new(Flight::new(0..2, 0..2 * PAGE_SIZE, true));
        let mut near = pin!(flight.reached(100));
        let mut far = pin!(flight.reached(PAGE_SIZE + 1));
        assert!(near.as_mut().now_or_never().is_none() && far.as_mut().now_or_never().is_none());
        assert!(!flight.advance(99));
        // `now_or_never` polls with a waker that does nothing, but it is registered.
        assert!(flight.advance(100));
        assert!(matches!(near.as_mut().now_or_never(), Some(Ending::Done)));
        assert!(far.as_mut().now_or_never().is_none());
        flight.end(Ending::Failed(Error::new(Code::Stale, "changed")));
        assert!(
            matches!(far.as_mut().now_or_never(), Some(Ending::Failed(e)) if e.code == Code::Stale)
        );
        // What was delivered before the failure stays delivered.
        assert!(matches!(
            flight.reached(100).now_or_never(),
            Some(Ending::Done)
        ));
    }

    #[test]
    fn flights_join_neighbours_and_are_cut_at_pieces() {
        let mib = PAGE_SIZE;
        let plan = |missing: Range<u32>, busy: Range<u32>, piece| {
            cut(
                std::slice::from_ref(&missing),
                std::slice::from_ref(&busy),
                piece,
            )
        };
        assert_eq!(plan(0..20, 0..0, 8 * mib), [0..8, 8..16, 16..20]);
        assert_eq!(plan(3..9, 5..6, 8 * mib), [3..5, 6..8, 8..9]);
        assert_eq!(plan(1..3, 0..4, 8 * mib), []);
        assert_eq!(plan(1..3, 0..0, mib), [1..2, 2..3]);
        assert_eq!(cut(&[1..3, 5..6], &[], 8 * mib), [1..3, 5..6]);
    }
}
