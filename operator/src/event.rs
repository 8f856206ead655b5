//! Events: what turned, told once.

use crate::{
    clock,
    plan::{condition::Finding, name::MANAGER},
};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};

/// The longest note that the API server takes.
const NOTE_MOST: usize = 1024;

/// Tells events in the name of this operator.
#[derive(Clone)]
pub(crate) struct Events {
    client: Client,
    instance: String,
}

impl Events {
    pub(crate) fn new(client: Client, instance: String) -> Events {
        Events { client, instance }
    }

    /// Tells what turned.
    pub(crate) async fn found<K: Resource<DynamicType = ()>>(&self, about: &K, finding: &Finding) {
        let note = if finding.message.is_empty() {
            finding.kind
        } else {
            &finding.message
        };
        self.tell(about, !finding.is_warning(), finding.reason, note)
            .await;
    }

    /// Tells it. One that is lost is no reason to do anything again.
    pub(crate) async fn tell<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        good: bool,
        reason: &str,
        note: &str,
    ) {
        let now = clock::now();
        let namespace = about.namespace().unwrap_or_else(|| "default".to_owned());
        let mut end = note.len().min(NOTE_MOST);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let regarding: ObjectReference = about.object_ref(&());
        let event = Event {
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name_any(), now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            note: Some(note[..end].to_owned()),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding),
            reporting_controller: Some(format!("forebay.io/{MANAGER}")),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if good { "Normal" } else { "Warning" }.to_owned()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, reason, "an event is lost");
        }
    }
}
