//! Single flight: identical questions asked at the same time share one answer.

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use std::{collections::HashMap, future::Future, hash::Hash};

/// A question under way, with its mark.
type Flight<V> = (u64, Shared<BoxFuture<'static, V>>);

/// Questions under way. Two questions are identical if their key and their mark are: the mark tells
/// how much of the world's changes the asker knew, so nobody gets an answer older than what he knew.
pub(crate) struct Flights<K, V: Clone> {
    open: Mutex<HashMap<K, Flight<V>>>,
}

impl<K: Clone + Eq + Hash, V: Clone + Send + Sync + 'static> Flights<K, V> {
    pub(crate) fn new() -> Flights<K, V> {
        Flights {
            open: Mutex::new(HashMap::new()),
        }
    }

    /// The answer of the flight for `key`, started with `ask` if there is none.
    pub(crate) async fn join<F>(&self, key: K, mark: u64, ask: impl FnOnce() -> F) -> V
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (flight, landing) = {
            let mut open = self.open.lock();
            match open.get(&key) {
                Some((at, flight)) if *at == mark => (flight.clone(), None),
                _ => {
                    let flight = ask().boxed().shared();
                    open.insert(key.clone(), (mark, flight.clone()));
                    (
                        flight,
                        Some(Landing {
                            flights: self,
                            key,
                            mark,
                        }),
                    )
                }
            }
        };
        let answer = flight.await;
        drop(landing);
        answer
    }
}

/// Takes the flight off the board, also when its starter gives up: those who joined it fly on.
struct Landing<'a, K: Eq + Hash, V: Clone> {
    flights: &'a Flights<K, V>,
    key: K,
    mark: u64,
}

impl<K: Eq + Hash, V: Clone> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock();
        if open
            .get(&self.key)
            .is_some_and(|(mark, _)| *mark == self.mark)
        {
            open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    #[tokio::test]
    async fn questions_of_one_mark_share_an_answer_and_newer_ones_do_not() {
        let flights = Flights::<u8, u32>::new();
        let asked = Arc::new(AtomicU32::new(0));
        let ask = |asked: &Arc<AtomicU32>| {
            let asked = asked.clone();
            move || async move {
                tokio::task::yield_now().await;
                asked.fetch_add(1, Ordering::Relaxed)
            }
        };
        let both = futures::join!(
            flights.join(1, 0, ask(&asked)),
            flights.join(1, 0, ask(&asked)),
            flights.join(1, 1, ask(&asked)),
        );
        assert_eq!((both.0, both.1), (0, 0));
        assert_eq!(both.2, 1);
        assert!(flights.open.lock().is_empty());
        assert_eq!(flights.join(1, 1, ask(&asked)).await, 2);
    }

    #[tokio::test]
    async fn a_flight_outlives_the_one_who_started_it() {
        let flights = Flights::<u8, u32>::new();
        let (tx, rx) = tokio::sync::oneshot::channel::<u32>();
        let mut first = Box::pin(flights.join(1, 0, || async { rx.await.unwrap_or(0) }));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.join(1, 0, || async { 9 }));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        tx.send(5).unwrap();
        assert_eq!(second.await, 5);
    }
}
