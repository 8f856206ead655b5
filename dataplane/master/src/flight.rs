//! Single flight: work on one inode runs once at a time, and those who ask meanwhile share its
//! result. The work has a life of its own: it goes on when the askers give up.

use crate::error::{Error, Result};
use forebay_service::Shutdown;
use forebay_types::{Code, Ino};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};
use tokio::sync::oneshot;

/// What the asker may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// The result of whatever is under way.
    Any,
    /// Only the result of work that begins after the call.
    Fresh,
}

/// The work under way, by inode.
pub(crate) struct Flights<T> {
    open: Mutex<HashMap<Ino, Slot<T>>>,
    shutdown: Shutdown,
}

type Landing<T> = Shared<oneshot::Receiver<Result<T>>>;

struct Departure<T> {
    work: BoxFuture<'static, Result<T>>,
    landed: oneshot::Sender<Result<T>>,
}

struct Slot<T> {
    running: Landing<T>,
    /// Begins when the running one has landed; all [`Join::Fresh`] askers share it.
    next: Option<(Landing<T>, Departure<T>)>,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Nothing under way; `shutdown` owns what will be.
    pub(crate) fn new(shutdown: Shutdown) -> Arc<Flights<T>> {
        Arc::new(Flights {
            open: Mutex::new(HashMap::new()),
            shutdown,
        })
    }

    /// The result of the work on `ino`, begun at once (not at the first poll) if need be.
    pub(crate) fn join(
        self: &Arc<Self>,
        ino: Ino,
        join: Join,
        work: impl FnOnce() -> BoxFuture<'static, Result<T>>,
    ) -> BoxFuture<'static, Result<T>> {
        let landing = match self.open.lock().entry(ino) {
            Entry::Vacant(place) => {
                let (landing, departure) = board(work());
                place.insert(Slot {
                    running: landing.clone(),
                    next: None,
                });
                self.take_off(ino, departure);
                landing
            }
            Entry::Occupied(slot) if join == Join::Any => slot.get().running.clone(),
            Entry::Occupied(mut slot) => slot
                .get_mut()
                .next
                .get_or_insert_with(|| board(work()))
                .0
                .clone(),
        };
        landing
            .map(|result| {
                result.unwrap_or_else(|_| {
                    Err(Error::new(Code::Unavailable, "the master is stopping"))
                })
            })
            .boxed()
    }

    fn take_off(self: &Arc<Self>, ino: Ino, first: Departure<T>) {
        let mut abandoned = Abandoned {
            flights: Some(self.clone()),
            ino,
        };
        let flights = self.clone();
        self.shutdown.spawn(async move {
            let mut flight = Some(first);
            while let Some(Departure { work, landed }) = flight {
                let result = work.await;
                flight = flights.land(ino);
                // Nobody may be waiting.
                let _ = landed.send(result);
            }
            abandoned.landed();
        });
    }

    /// The running work is done; what comes next.
    fn land(&self, ino: Ino) -> Option<Departure<T>> {
        let mut open = self.open.lock();
        if let Some(slot) = open.get_mut(&ino)
            && let Some((landing, departure)) = slot.next.take()
        {
            slot.running = landing;
            return Some(departure);
        }
        open.remove(&ino);
        None
    }
}

/// Shutdown drops the work in the middle: those who wait for the next must learn of it, too.
struct Abandoned<T> {
    flights: Option<Arc<Flights<T>>>,
    ino: Ino,
}

impl<T> Abandoned<T> {
    /// All has landed: the slot is gone, or another's.
    fn landed(&mut self) {
        self.flights = None;
    }
}

impl<T> Drop for Abandoned<T> {
    fn drop(&mut self) {
        if let Some(flights) = &self.flights {
            flights.open.lock().remove(&self.ino);
        }
    }
}

fn board<T: Clone>(work: BoxFuture<'static, Result<T>>) -> (Landing<T>, Departure<T>) {
    let (landed, landing) = oneshot::channel();
    (landing.shared(), Departure { work, landed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Semaphore;

    /// Work that waits for a permit and then counts itself.
    fn work(gate: &Arc<Semaphore>, runs: &Arc<AtomicU32>) -> BoxFuture<'static, Result<u32>> {
        let (gate, runs) = (gate.clone(), runs.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(runs.fetch_add(1, Ordering::SeqCst) + 1)
        }
        .boxed()
    }

    #[tokio::test]
    async fn askers_share_the_running_work_and_fresh_ones_the_next() {
        let flights = Flights::new(Shutdown::new());
        let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
        let ask = |join| flights.join(Ino(7), join, || work(&gate, &runs));
        let (a, b) = (ask(Join::Any), ask(Join::Any));
        let (c, d) = (ask(Join::Fresh), ask(Join::Fresh));
        gate.add_permits(2);
        assert_eq!((a.await, b.await), (Ok(1), Ok(1)));
        assert_eq!((c.await, d.await), (Ok(2), Ok(2)));
        assert!(flights.open.lock().is_empty());
    }

    #[tokio::test]
    async fn work_goes_on_without_its_asker_and_ends_with_the_process() {
        let shutdown = Shutdown::new();
        let flights = Flights::new(shutdown.clone());
        let (gate, runs) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicU32::new(0)));
        drop(flights.join(Ino(1), Join::Any, || work(&gate, &runs)));
        assert_eq!(
            flights.join(Ino(1), Join::Any, || unreachable!()).await,
            Ok(1)
        );
        let running = flights.join(Ino(1), Join::Any, || work(&gate, &runs));
        let next = flights.join(Ino(1), Join::Fresh, || work(&gate, &runs));
        shutdown.finish().await;
        assert_eq!(running.await.unwrap_err().code, Code::Unavailable);
        assert_eq!(next.await.unwrap_err().code, Code::Unavailable);
    }
}
