//! Keeps what the API server says of a kind, and tells what changed.

use crate::metrics::Metrics;
use forebay_service::Shutdown;
use futures::{Stream, StreamExt};
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{self, Lookup, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, hash::Hash, sync::Arc};

/// How a kind is kept.
pub(crate) struct Informer<'a> {
    pub(crate) shutdown: &'a Shutdown,
    pub(crate) metrics: &'a Arc<Metrics>,
}

/// Hears of every object that came, changed or went.
pub(crate) trait Listener<K>: Fn(&K) + Send + 'static {}
impl<K, F: Fn(&K) + Send + 'static> Listener<K> for F {}

impl Informer<'_> {
    /// Keeps objects, but for what `shrink` removes.
    pub(crate) fn objects<K>(
        &self,
        client: kube::Client,
        config: watcher::Config,
        shrink: fn(&mut K),
        changed: impl Listener<K>,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.selected(client, config, |_| true, shrink, changed)
    }

    /// Keeps those objects that are wanted, where no selector can tell them from others.
    pub(crate) fn selected<K>(
        &self,
        client: kube::Client,
        config: watcher::Config,
        wanted: fn(&K) -> bool,
        shrink: fn(&mut K),
        changed: impl Listener<K>,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let api: Api<DeserializeGuard<K>> = Api::all(client);
        let events = watcher::watcher(api, config);
        // One object that cannot be read must not hide the others.
        let events = events.filter_map(move |event| async move {
            let event = event.map(readable).transpose()?;
            event.map(|event| select(event, wanted)).transpose()
        });
        self.keep(events, shrink, changed)
    }

    /// Keeps metadata only.
    pub(crate) fn metadata<K>(
        &self,
        client: kube::Client,
        config: watcher::Config,
        changed: impl Listener<PartialObjectMeta<K>>,
    ) -> Store<PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let events = watcher::watcher(Api::<PartialObjectMeta<K>>::all(client), config);
        self.keep(
            events,
            |object| object.metadata.managed_fields = None,
            changed,
        )
    }

    fn keep<K>(
        &self,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        shrink: fn(&mut K),
        changed: impl Listener<K>,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
        K: Lookup<DynamicType = ()>,
        ObjectRef<K>: Hash + Eq,
    {
        let (store, mut writer) = reflector::store();
        let (reader, metrics) = (store.clone(), Arc::clone(self.metrics));
        self.shutdown.spawn(async move {
            let mut events = Box::pin(events.default_backoff());
            let mut before: Vec<Arc<K>> = Vec::new();
            let kind = <K as Resource>::kind(&());
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(event) => event.modify(shrink),
                    Err(error) => {
                        metrics.watch_failed();
                        tracing::warn!(%kind, %error, "a watch has failed; it is made anew");
                        continue;
                    }
                };
                if matches!(event, Event::Init) {
                    before = reader.state();
                }
                writer.apply_watcher_event(&event);
                match &event {
                    Event::Apply(object) | Event::Delete(object) => changed(object),
                    Event::InitDone => {
                        reader.state().iter().for_each(|object| changed(object));
                        // Nobody said that these went.
                        let gone = before.drain(..);
                        gone.filter(|object| reader.get(&ObjectRef::from_obj(object)).is_none())
                            .for_each(|object| changed(&object));
                    }
                    Event::Init | Event::InitApply(_) => {}
                }
            }
        });
        store
    }
}

/// The event, if its object could be read.
fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    let object = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let kind = K::kind(&());
            let namespace = invalid.metadata.namespace.unwrap_or_default();
            let name = invalid.metadata.name.unwrap_or_default();
            tracing::error!(%kind, namespace, name, error = invalid.error, "an object cannot be read: it stays as it was");
            None
        }
    };
    match event {
        Event::Apply(guard) => object(guard).map(Event::Apply),
        Event::Delete(guard) => object(guard).map(Event::Delete),
        Event::InitApply(guard) => object(guard).map(Event::InitApply),
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
    }
}

/// The event, if its object is wanted; one that is not any more is as good as gone.
fn select<K>(event: Event<K>, wanted: fn(&K) -> bool) -> Option<Event<K>> {
    match event {
        Event::Apply(object) if !wanted(&object) => Some(Event::Delete(object)),
        Event::InitApply(object) if !wanted(&object) => None,
        event => Some(event),
    }
}

/// Removes what nobody reads.
pub(crate) fn without_managed_fields<K: ResourceExt>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}
