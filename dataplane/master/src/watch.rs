//! Pushes what must be forgotten to those who keep metadata under leases.
//!
//! A subscriber that cannot keep up loses changes and is told so (`all`), never slows the apply
//! thread, and never makes it hold more than [`PENDING_MAX`] items.

use forebay_meta::Invalidated;
use forebay_proto::v1;
use forebay_service::Shutdown;
use futures::{Stream, stream};
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Notify;

/// The longest silence of a Watch stream, while they are few: an empty message is sent then …
const SHORTEST_SILENCE: Duration = Duration::from_secs(2);

/// … and however many they are. Clients take the stream for dead, and forget everything, when nothing
/// came for a few of these.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Heartbeats of all streams together, in a second, as long as the longest silence allows it.
const MOST: u32 = 1_000;

/// Most names and inodes that wait for one subscriber.
const PENDING_MAX: usize = 16_384;

/// Most items of one message: with names of 255 bytes it stays far below the limit of gRPC.
const MESSAGE_MAX: usize = 4_096;

/// All the subscribers.
#[derive(Default)]
pub(crate) struct Hub {
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
}

#[derive(Default)]
struct Subscriber {
    pending: Mutex<v1::Invalidation>,
    arrived: Notify,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        Hub::default()
    }

    /// Tells all subscribers. Called by the apply thread: never waits.
    pub(crate) fn publish(&self, invalidated: &Invalidated) {
        if *invalidated == Invalidated::default() {
            return;
        }
        self.subscribers.lock().retain(|subscriber| {
            let Some(subscriber) = subscriber.upgrade() else {
                return false;
            };
            subscriber.add(invalidated);
            subscriber.arrived.notify_one();
            true
        });
    }

    /// Everything published after the call. The first message comes at once, so that the
    /// subscriber knows from when on it will be told.
    pub(crate) fn subscribe(
        &self,
        shutdown: Shutdown,
    ) -> impl Stream<Item = v1::Invalidation> + Send + 'static + use<> {
        let subscriber = Arc::new(Subscriber::default());
        let many = {
            let mut subscribers = self.subscribers.lock();
            subscribers.retain(|subscriber| subscriber.strong_count() > 0);
            subscribers.push(Arc::downgrade(&subscriber));
            subscribers.len()
        };
        let silence = silence(many);
        stream::unfold(
            (subscriber, shutdown, true),
            move |(subscriber, shutdown, first)| async move {
                let message = if first {
                    v1::Invalidation::default()
                } else {
                    tokio::select! {
                        () = shutdown.begun() => return None,
                        message = subscriber.next(silence) => message,
                    }
                };
                Some((message, (subscriber, shutdown, false)))
            },
        )
    }
}

impl Subscriber {
    fn add(&self, invalidated: &Invalidated) {
        let mut pending = self.pending.lock();
        if pending.all {
            return;
        }
        let held = pending.entries.len() + pending.inodes.len();
        let come = invalidated.entries.len() + invalidated.inodes.len();
        if invalidated.all || held + come > PENDING_MAX {
            *pending = v1::Invalidation {
                all: true,
                ..v1::Invalidation::default()
            };
            return;
        }
        pending
            .entries
            .extend(
                invalidated
                    .entries
                    .iter()
                    .map(|(parent, name)| v1::invalidation::Entry {
                        parent: parent.0,
                        name: name.clone().into_bytes(),
                    }),
            );
        pending
            .inodes
            .extend(invalidated.inodes.iter().map(|ino| ino.0));
    }

    /// What has come, or a heartbeat.
    async fn next(&self, silence: Duration) -> v1::Invalidation {
        let silence = tokio::time::sleep(silence);
        tokio::pin!(silence);
        loop {
            let message = self.take();
            if message != v1::Invalidation::default() {
                return message;
            }
            tokio::select! {
                () = self.arrived.notified() => {}
                () = &mut silence => return v1::Invalidation::default(),
            }
        }
    }

    /// What has come, as far as it fits one message.
    fn take(&self) -> v1::Invalidation {
        let mut pending = self.pending.lock();
        if pending.entries.len() + pending.inodes.len() <= MESSAGE_MAX {
            return std::mem::take(&mut pending);
        }
        let entries = pending.entries.len().min(MESSAGE_MAX);
        let inodes = pending.inodes.len().min(MESSAGE_MAX - entries);
        v1::Invalidation {
            entries: pending.entries.drain(..entries).collect(),
            inodes: pending.inodes.drain(..inodes).collect(),
            all: false,
        }
    }
}

/// How long a stream may be silent when there are so many.
fn silence(streams: usize) -> Duration {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * streams / MOST).clamp(SHORTEST_SILENCE, HEARTBEAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{Ino, Name};
    use futures::StreamExt;

    fn change(ino: u64, names: usize) -> Invalidated {
        let name = |i: usize| Name::new(format!("n{i}")).unwrap();
        let entries = (0..names).map(|i| (Ino(ino), name(i))).collect();
        Invalidated {
            entries,
            inodes: vec![Ino(ino)],
            all: false,
        }
    }

    #[tokio::test]
    async fn subscribers_hear_what_is_published_after_they_came() {
        let hub = Hub::new();
        hub.publish(&change(1, 1));
        let mut stream = Box::pin(hub.subscribe(Shutdown::new()));
        assert_eq!(stream.next().await.unwrap(), v1::Invalidation::default());
        hub.publish(&change(2, 1));
        hub.publish(&change(3, 0));
        let message = stream.next().await.unwrap();
        assert_eq!(message.inodes, [2, 3]);
        assert_eq!(message.entries.len(), 1);
    }

    #[tokio::test]
    async fn one_who_cannot_keep_up_is_told_to_forget_everything() {
        let hub = Hub::new();
        let mut stream = Box::pin(hub.subscribe(Shutdown::new()));
        stream.next().await;
        for _ in 0..3 {
            hub.publish(&change(1, PENDING_MAX / 2));
        }
        let message = stream.next().await.unwrap();
        assert!(message.all && message.entries.is_empty());
        hub.publish(&change(4, 0));
        let message = stream.next().await.unwrap();
        assert_eq!((message.all, message.inodes), (false, vec![4]));
    }

    #[tokio::test]
    async fn large_changes_come_in_several_messages() {
        let hub = Hub::new();
        let mut stream = Box::pin(hub.subscribe(Shutdown::new()));
        stream.next().await;
        hub.publish(&change(1, MESSAGE_MAX * 2));
        let mut told = 0;
        while told < MESSAGE_MAX * 2 + 1 {
            let message = stream.next().await.unwrap();
            let items = message.entries.len() + message.inodes.len();
            assert!(items > 0 && items <= MESSAGE_MAX);
            told += items;
        }
    }

    #[test]
    fn heartbeats_of_many_streams_are_no_more_than_those_of_some() {
        let seconds = [1, 2_000, 3_000, 5_000, 50_000].map(|n| silence(n).as_secs());
        assert_eq!(seconds, [2, 2, 3, 5, 5]);
    }

    #[tokio::test]
    async fn silence_is_broken_by_heartbeats_and_the_end_by_shutdown() {
        let hub = Hub::new();
        let shutdown = Shutdown::new();
        let mut stream = Box::pin(hub.subscribe(shutdown.clone()));
        stream.next().await;
        let before = std::time::Instant::now();
        assert_eq!(stream.next().await.unwrap(), v1::Invalidation::default());
        assert!(before.elapsed() >= silence(1));
        shutdown.begin();
        assert_eq!(stream.next().await, None);
        drop(stream);
        hub.publish(&change(1, 1));
        assert!(hub.subscribers.lock().is_empty());
    }
}
