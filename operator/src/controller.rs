//! One plan at a time for each object, of many at the same time; failures are tried again, ever more slowly.

use crate::{error::Result, metrics::Metrics, plan::name::Key};
use forebay_service::Shutdown;
use futures::{StreamExt, channel::mpsc, stream};
use kube::{
    Resource,
    runtime::{
        controller::{Action, Config, applier},
        reflector::{ObjectRef, Store},
    },
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, convert::Infallible, fmt::Debug, sync::Arc, time::Duration};

/// The first wait after a failure; twice as long after each …
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_mins(1);
/// Everything is looked at again so often, from memory: in case that something was overheard.
const AGAIN: Duration = Duration::from_mins(5);

/// Names of objects that are to be looked at.
#[derive(Clone, Debug)]
pub(crate) struct Queue<K: Resource<DynamicType = ()> + 'static> {
    sender: mpsc::UnboundedSender<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()> + 'static> Queue<K> {
    /// A queue, and where it is read.
    pub(crate) fn new() -> (Queue<K>, mpsc::UnboundedReceiver<ObjectRef<K>>) {
        let (sender, receiver) = mpsc::unbounded();
        (Queue { sender }, receiver)
    }

    /// Asks for a look at an object.
    pub(crate) fn push(&self, key: &Key) {
        // Nobody listens during the end of the process.
        let _ = (self.sender).unbounded_send(ObjectRef::new(&key.name).within(&key.namespace));
    }
}

/// Carries out plans of a kind until shutdown; those under way are finished.
pub(crate) async fn run<K, F, Fut>(
    kind: &'static str,
    concurrency: u16,
    store: Store<K>,
    queue: mpsc::UnboundedReceiver<ObjectRef<K>>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    reconcile: F,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Fn(Arc<K>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Option<Duration>>> + Send + 'static,
{
    let failures: Arc<Mutex<BTreeMap<Key, u32>>> = Arc::default();
    let ended = shutdown.clone();
    let queue = queue
        .map(Ok::<_, Infallible>)
        .take_until(async move { ended.begun().await });
    let (counted, told) = (Arc::clone(&failures), Arc::clone(&metrics));
    let results = applier(
        move |object: Arc<K>, _| {
            let (failures, metrics) = (Arc::clone(&counted), Arc::clone(&told));
            let key = Key::of(&*object);
            let done = reconcile(object);
            Box::pin(async move {
                metrics.plan(kind);
                let again = done.await?;
                failures.lock().remove(&key);
                Ok(Action::requeue(again.unwrap_or(AGAIN)))
            })
        },
        move |object: Arc<K>, error: &crate::error::Error, _| {
            let key = Key::of(&*object);
            metrics.failure(kind, error.reason());
            let mut failures = failures.lock();
            let count = failures.entry(key.clone()).or_default();
            *count += 1;
            tracing::warn!(kind, object = %key, %error, failures = *count, "cannot do what is wanted; trying again");
            Action::requeue(wait(*count))
        },
        Arc::new(()),
        store,
        Box::pin(queue.chain(stream::empty())),
        Config::default().concurrency(concurrency),
    );
    results.for_each(|_| async {}).await;
}

fn wait(failures: u32) -> Duration {
    let factor = 1_u32 << failures.saturating_sub(1).min(10);
    (RETRY_FIRST * factor).min(RETRY_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let waits = [1, 2, 5, 99].map(|n| wait(n).as_millis());
        assert_eq!(waits, [500, 1000, 8000, 60_000]);
    }
}
