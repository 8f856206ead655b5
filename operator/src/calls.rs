//! Mounts and unmounts under way: nobody waits for a store that does not answer.

use crate::{
    clock,
    masters::Watched,
    metrics::Metrics,
    plan::{
        membership::Step,
        mount::{Attempt, Call, Outcome, Wanted, reason},
        name::Key,
    },
    world::Queues,
};
use forebay_client::Error as CallError;
use forebay_proto::{
    convert::mount_to_wire,
    v1::{self, admin_client::AdminClient},
};
use forebay_service::Shutdown;
use forebay_types::{Code, MountId, MountSpec};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use tonic::transport::Channel;

type Admin = AdminClient<Channel>;

/// Calls at the same time; more wait.
const AT_ONCE: usize = 128;
/// Longer than the masters give a store.
const LIMIT: Duration = Duration::from_secs(45);

/// The last call about every path of every Dataset.
pub(crate) struct Calls {
    attempts: Mutex<BTreeMap<String, BTreeMap<String, Attempt>>>,
    room: Arc<Semaphore>,
    queues: Queues,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
}

impl Calls {
    pub(crate) fn new(queues: Queues, metrics: Arc<Metrics>, shutdown: Shutdown) -> Calls {
        Calls {
            attempts: Mutex::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            queues,
            metrics,
            shutdown,
        }
    }

    /// The last calls of the Dataset with that uid.
    pub(crate) fn of(&self, uid: &str) -> BTreeMap<String, Attempt> {
        self.attempts.lock().get(uid).cloned().unwrap_or_default()
    }

    /// The Dataset is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.attempts.lock().remove(uid);
    }

    /// Makes a call for a Dataset, which is looked at again when it ends.
    pub(crate) fn start(
        self: &Arc<Calls>,
        dataset: &Key,
        uid: &str,
        masters: &Arc<Watched>,
        call: Call,
    ) {
        let (path, wanted) = match &call {
            Call::Mount(wanted) => (wanted.path.clone(), Some(wanted.clone())),
            Call::Unmount(path) => (path.clone(), None),
        };
        let failures = self.begin(uid, &path, wanted.clone());
        let (calls, masters) = (Arc::clone(self), Arc::clone(masters));
        let (dataset, uid) = (dataset.clone(), uid.to_owned());
        self.shutdown.spawn(async move {
            let _room = calls.room.acquire().await;
            let called = timeout(LIMIT, make(&masters, call)).await;
            let called = called.unwrap_or_else(|_| {
                let text = format!("no answer within {} s", LIMIT.as_secs());
                Err(CallError::new(Code::Timeout, text))
            });
            let kind = if wanted.is_some() { "mount" } else { "unmount" };
            let outcome = match called {
                Ok(()) => {
                    masters.changed(&path, wanted.as_ref().map(Wanted::row));
                    calls.metrics.call(kind, "Done");
                    tracing::info!(%dataset, path, "{kind} is done");
                    Outcome::Done
                }
                Err(error) => {
                    calls.metrics.call(kind, reason(error.code));
                    tracing::warn!(%dataset, path, %error, "{kind} has failed");
                    Outcome::Failed {
                        at: clock::now(),
                        failures: failures + 1,
                        error,
                    }
                }
            };
            if let Some(attempts) = calls.attempts.lock().get_mut(&uid) {
                attempts.insert(path, Attempt { wanted, outcome });
            }
            calls.queues.datasets.push(&dataset);
        });
    }

    /// Notes that a call is under way; how often the same failed before.
    fn begin(&self, uid: &str, path: &str, wanted: Option<Wanted>) -> u32 {
        let mut attempts = self.attempts.lock();
        let attempts = attempts.entry(uid.to_owned()).or_default();
        let failures = match attempts.get(path) {
            Some(Attempt {
                wanted: before,
                outcome: Outcome::Failed { failures, .. },
            }) if *before == wanted => *failures,
            _ => 0,
        };
        let since = clock::now();
        let outcome = Outcome::Running { since, failures };
        attempts.insert(path.to_owned(), Attempt { wanted, outcome });
        failures
    }
}

async fn make(masters: &Watched, call: Call) -> Result<(), CallError> {
    match call {
        Call::Mount(wanted) => mount(masters, wanted).await,
        Call::Unmount(path) => unmount(masters, &path).await,
    }
}

async fn mount(masters: &Watched, wanted: Wanted) -> Result<(), CallError> {
    let credentials = match (&wanted.credentials, masters.key()) {
        (None, _) => None,
        (Some(credentials), Some(key)) => {
            let sealed = key.seal(&wanted.path, credentials);
            Some(sealed.map_err(|error| CallError::new(Code::Internal, error.to_string()))?)
        }
        (Some(_), None) => {
            let text = "the Secret with the cluster's key is not there yet";
            return Err(CallError::new(Code::NotLeader, text));
        }
    };
    let spec = MountSpec {
        path: wanted.path,
        uri: wanted.uri,
        options: wanted.options,
        sync: wanted.sync,
        credentials,
    };
    let request = v1::MountRequest {
        mount: Some(mount_to_wire(MountId(0), &spec)),
    };
    let mount = |mut admin: Admin| async move { admin.mount(request).await };
    masters.call("mount", mount).await.map(|_| ())
}

/// Takes away what is mounted at a path; nothing there will do.
pub(crate) async fn unmount(masters: &Watched, path: &str) -> Result<(), CallError> {
    let path = path.to_owned();
    let unmount =
        |mut admin: Admin| async move { admin.unmount(v1::UnmountRequest { path }).await };
    match masters.call("unmount", unmount).await {
        Err(error) if error.code != Code::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a step towards another number of masters.
pub(crate) async fn step(masters: &Watched, step: Step) -> Result<(), CallError> {
    match step {
        Step::Transfer(id) => {
            let transfer =
                |mut admin: Admin| async move { admin.transfer(v1::TransferRequest { id }).await };
            masters.call("transfer", transfer).await.map(|_| ())
        }
        Step::Remove(id) => {
            let remove = |mut admin: Admin| async move {
                admin.remove_master(v1::RemoveMasterRequest { id }).await
            };
            masters.call("remove a master", remove).await.map(|_| ())
        }
    }
}

/// Starts a run of a warm-up.
pub(crate) async fn start_warmup(
    masters: &Watched,
    request: v1::StartWarmupRequest,
) -> Result<(), CallError> {
    let start = |mut admin: Admin| async move { admin.start_warmup(request).await };
    masters.call("start a warm-up", start).await.map(|_| ())
}

/// Ends a warm-up; none of that name will do.
pub(crate) async fn remove_warmup(masters: &Watched, name: String) -> Result<(), CallError> {
    let request = v1::RemoveWarmupRequest { name };
    let remove = |mut admin: Admin| async move { admin.remove_warmup(request).await };
    match masters.call("end a warm-up", remove).await {
        Err(error) if error.code != Code::NotFound => Err(error),
        _ => Ok(()),
    }
}
