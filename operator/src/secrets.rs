//! Secrets, watched one by one and by name: those that somebody refers to, and no others.
//!
//! A watch of the whole kind would need the right to read every Secret, and keep them all in memory. This takes a
//! connection to the API server for each Secret, and a request every five minutes to keep it.

use crate::{
    plan::{
        dataset,
        name::{Key, uid},
    },
    world::Queues,
};
use forebay_service::Shutdown;
use forebay_types::Credentials;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Who refers to a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum User {
    Cluster(Key),
    Dataset(Key),
}

/// A Secret as it was last heard of.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Loading,
    Absent,
    Unreadable(String),
    Present(Arc<Contents>),
}

/// What is in a Secret. No Debug of the values.
pub(crate) struct Contents {
    pub(crate) uid: String,
    pub(crate) data: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.data.keys()).finish()
    }
}

/// The Secrets that are watched.
#[derive(Clone)]
pub(crate) struct Secrets {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    queues: Queues,
    shutdown: Shutdown,
    watched: Mutex<BTreeMap<Key, Watched>>,
}

struct Watched {
    seen: Seen,
    users: BTreeSet<User>,
    task: Shutdown,
}

impl Secrets {
    pub(crate) fn new(client: Client, queues: Queues, shutdown: Shutdown) -> Secrets {
        Secrets {
            shared: Arc::new(Shared {
                client,
                queues,
                shutdown,
                watched: Mutex::default(),
            }),
        }
    }

    /// From now on `user` refers to these and no others; as they were last heard of.
    pub(crate) fn refer(&self, user: &User, to: &BTreeSet<Key>) -> BTreeMap<Key, Seen> {
        let mut watched = self.shared.watched.lock();
        watched.retain(|key, secret| {
            if !to.contains(key) {
                secret.users.remove(user);
            }
            let used = !secret.users.is_empty();
            if !used {
                secret.task.begin();
            }
            used
        });
        let referred = to.iter().map(|key| {
            let secret = watched.entry(key.clone()).or_insert_with(|| Watched {
                seen: Seen::Loading,
                users: BTreeSet::new(),
                task: self.watch(key.clone()),
            });
            secret.users.insert(user.clone());
            (key.clone(), secret.seen.clone())
        });
        referred.collect()
    }

    fn watch(&self, key: Key) -> Shutdown {
        let part = self.shared.shutdown.part();
        let (shared, task) = (Arc::clone(&self.shared), part.clone());
        part.spawn(async move {
            let api: Api<Secret> = Api::namespaced(shared.client.clone(), &key.namespace);
            let events = watcher::watch_object(api, &key.name).default_backoff();
            let mut events = Box::pin(events);
            while let Some(event) = events.next().await {
                let seen = match event {
                    Ok(None) => Seen::Absent,
                    Ok(Some(secret)) => Seen::Present(Arc::new(contents(secret))),
                    Err(error) => match refusal(&error) {
                        Some(why) => Seen::Unreadable(why),
                        // It is as it was, as far as anybody knows.
                        None => continue,
                    },
                };
                if !shared.tell(&key, seen, &task) {
                    return;
                }
            }
        });
        part
    }
}

impl Shared {
    /// False: nobody refers to it any more.
    fn tell(&self, key: &Key, seen: Seen, task: &Shutdown) -> bool {
        let mut watched = self.watched.lock();
        let Some(secret) = watched.get_mut(key).filter(|_| !task.has_begun()) else {
            return false;
        };
        secret.seen = seen;
        for user in &secret.users {
            match user {
                User::Cluster(key) => self.queues.clusters.push(key),
                User::Dataset(key) => self.queues.datasets.push(key),
            }
        }
        true
    }
}

fn contents(secret: Secret) -> Contents {
    let uid = uid(&secret);
    let data = secret.data.unwrap_or_default().into_iter();
    Contents {
        uid,
        data: data.map(|(name, value)| (name, value.0)).collect(),
    }
}

/// What the API server says if the operator may not read it.
fn refusal(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) =
        error
    else {
        return None;
    };
    match error {
        kube::Error::Api(status) if status.code == 403 => Some(format!(
            "{}: give the operator the right to get, list and watch it",
            status.message
        )),
        _ => None,
    }
}

impl Seen {
    /// As credentials: values that are no text cannot be any.
    pub(crate) fn credentials(&self) -> dataset::Secret {
        match self {
            Seen::Loading => dataset::Secret::Loading,
            Seen::Absent => dataset::Secret::Absent,
            Seen::Unreadable(why) => dataset::Secret::Unreadable(why.clone()),
            Seen::Present(contents) => {
                let texts = contents.data.iter().filter_map(|(name, value)| {
                    Some((name.clone(), String::from_utf8(value.clone()).ok()?))
                });
                dataset::Secret::Present(Credentials::new(texts.collect()))
            }
        }
    }
}
