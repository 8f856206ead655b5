//! The masters of every cluster, asked every few seconds how things stand.

use crate::{
    calls::remove_warmup,
    clock,
    plan::{
        mount::{Fault, Row},
        name::{Key, Names, dataset_of},
        view::{Change, View, Warmups},
    },
    probe,
    world::{Queues, World},
};
use forebay_client::{
    Error as CallError,
    call::{error_of, jittered, share},
    channel::{MAX_MESSAGE, connect},
};
use forebay_proto::v1::{self, admin_client::AdminClient};
use forebay_seal::SealKey;
use forebay_service::Shutdown;
use forebay_types::{Address, Code};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tonic::{Status, transport::Channel};

/// How often the masters of a cluster are asked.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long one of them may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How often it is told that tiers fill up and what is known of mounts, if nothing else changes: each time is a write
/// to the API server.
const USE_TOLD: Duration = Duration::from_secs(20);

/// Where the master of a number serves.
pub type Dial = Arc<dyn Fn(&Names, u64) -> Result<Address, String> + Send + Sync>;

/// All clusters that are asked.
pub(crate) struct Observatory {
    dial: Dial,
    queues: Queues,
    shutdown: Shutdown,
    world: Weak<World>,
    watched: Mutex<BTreeMap<String, Arc<Watched>>>,
}

/// A cluster that is asked.
pub(crate) struct Watched {
    names: Names,
    task: Shutdown,
    /// Whether asking has begun, and whether it has ended once.
    begun: AtomicBool,
    asked: AtomicBool,
    wanted: RwLock<Wanted>,
    view: RwLock<Arc<View>>,
    /// What calls did that the masters may have been asked before; locked while a view is replaced.
    changes: Mutex<BTreeMap<String, Change>>,
    leader: RwLock<Option<(Address, Channel)>>,
    /// Under stores that do not answer, by the path of the mount.
    faults: RwLock<Arc<BTreeMap<String, Fault>>>,
}

#[derive(Clone, Default)]
struct Wanted {
    replicas: u32,
    key: Option<Arc<SealKey>>,
    /// Whether warm-ups are asked for.
    warms: bool,
}

impl Watched {
    /// Whether this operator has asked them once, be it in vain: before, the last look says nothing.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// The last look.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// A call has changed what is mounted at a path.
    pub(crate) fn changed(&self, path: &str, row: Option<Row>) {
        let mut changes = self.changes.lock();
        let at = clock::now();
        changes.insert(path.to_owned(), Change { at, row });
        let mut view = View::clone(&self.view());
        view.amend(changes.get_key_value(path));
        *self.view.write() = Arc::new(view);
    }

    /// The masters have been asked.
    fn replace(&self, mut view: View) -> Arc<View> {
        let mut changes = self.changes.lock();
        changes.retain(|_, change| change.at >= view.seen);
        view.amend(&*changes);
        let view = Arc::new(view);
        *self.view.write() = Arc::clone(&view);
        view
    }

    /// Makes one call to the master that leads. It is not repeated here: what comes of it is told first.
    pub(crate) async fn call<T, F>(
        &self,
        what: &str,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (address, channel) = self.leader(what)?;
        let admin = AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let called = call(admin).await;
        called.map_err(|status| error_of(&address, what, &status))
    }

    /// The master that leads, for somebody who wants to do something.
    pub(crate) fn leader(&self, what: &str) -> Result<(Address, Channel), CallError> {
        let leader = self.leader.read().clone();
        let nobody = || CallError::new(Code::NotLeader, format!("{what}: no master leads"));
        leader.ok_or_else(nobody)
    }

    /// Under stores that do not answer, by the path of the mount.
    pub(crate) fn faults(&self) -> Arc<BTreeMap<String, Fault>> {
        self.faults.read().clone()
    }

    /// The key of its credentials.
    pub(crate) fn key(&self) -> Option<Arc<SealKey>> {
        self.wanted.read().key.clone()
    }
}

impl Observatory {
    pub(crate) fn new(
        dial: Dial,
        queues: Queues,
        world: &Arc<World>,
        shutdown: Shutdown,
    ) -> Observatory {
        Observatory {
            dial,
            queues,
            shutdown,
            world: Arc::downgrade(world),
            watched: Mutex::default(),
        }
    }

    /// From now on the masters of a cluster are asked: so many, with that key; not before it is `known` whether there is
    /// one, or all credentials would look like others.
    pub(crate) fn follow(
        self: &Arc<Observatory>,
        names: &Names,
        replicas: u32,
        key: Option<Arc<SealKey>>,
        known: bool,
    ) -> Arc<Watched> {
        let mut all = self.watched.lock();
        let watched = all.entry(names.uid.clone()).or_insert_with(|| {
            Arc::new(Watched {
                names: names.clone(),
                task: self.shutdown.part(),
                begun: AtomicBool::new(false),
                asked: AtomicBool::new(false),
                wanted: RwLock::default(),
                view: RwLock::new(Arc::new(View {
                    seen: clock::now(),
                    silent_since: Some(clock::now()),
                    ..View::default()
                })),
                changes: Mutex::default(),
                leader: RwLock::default(),
                faults: RwLock::default(),
            })
        });
        *watched.wanted.write() = Wanted {
            replicas,
            key,
            warms: false,
        };
        if known && !watched.begun.swap(true, Ordering::AcqRel) {
            let asking = ask(Arc::clone(self), Arc::clone(watched));
            watched.task.spawn(asking);
            let probing = probe::run(Arc::clone(self), Arc::clone(watched));
            watched.task.spawn(probing);
        }
        Arc::clone(watched)
    }

    /// A cluster that is asked.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Watched>> {
        self.watched.lock().get(uid).cloned()
    }

    /// Leaves those alone that are no more.
    pub(crate) fn sweep(&self, is_there: impl Fn(&Key, &str) -> bool) {
        self.watched.lock().retain(|uid, watched| {
            let stays = is_there(&watched.names.key, uid);
            if !stays {
                watched.task.begin();
            }
            stays
        });
    }

    /// These under stores do not answer, and no others.
    pub(crate) fn found(&self, watched: &Watched, faults: BTreeMap<String, Fault>) {
        let faults = Arc::new(faults);
        let before = std::mem::replace(&mut *watched.faults.write(), Arc::clone(&faults));
        let paths = before.keys().chain(faults.keys());
        // Words may differ from time to time.
        let reason = |faults: &BTreeMap<String, Fault>, path| {
            faults.get(path).map(|fault: &Fault| fault.reason)
        };
        let turned = paths.filter(|path| reason(&before, *path) != reason(&faults, *path));
        let datasets: BTreeSet<Key> = turned.filter_map(|path| dataset_of(path)).collect();
        for dataset in datasets {
            self.queues.datasets.push(&dataset);
        }
    }

    fn tell(&self, watched: &Watched, first: bool, before: &View, after: &View) {
        let key = &watched.names.key;
        self.queues.clusters.push(key);
        let Some(world) = self.world.upgrade() else {
            return;
        };
        if first || after.turned(before) {
            self.queues.users(&world.datasets, key);
            for policy in world.warmers(key) {
                self.queues.policies.push(&Key::of(&*policy));
            }
            return;
        }
        for dataset in after.moved(before) {
            self.queues.datasets.push(&dataset);
        }
        let warmed = after.warmed(before);
        for policy in world.policies_with(&warmed) {
            self.queues.policies.push(&Key::of(&*policy));
        }
    }

    /// Ends warm-ups of policies that are no more: they were let go while no master could be reached.
    async fn end_orphans(&self, watched: &Watched, view: &View) {
        let (Warmups::Known(warmups), Some(world)) = (&view.warmups, self.world.upgrade()) else {
            return;
        };
        for name in warmups.keys().filter(|name| is_uid(name)) {
            if world.policies_with(&[name.clone()].into()).is_empty() {
                let ended = timeout(ANSWER, remove_warmup(watched, name.clone())).await;
                tracing::info!(cluster = %watched.names.key, name, done = matches!(ended, Ok(Ok(()))), "ends a warm-up of a policy that is no more");
            }
        }
    }
}

/// Asks until the cluster is left alone.
async fn ask(observatory: Arc<Observatory>, watched: Arc<Watched>) {
    let mut channels = BTreeMap::new();
    let mut told = (View::default(), clock::now());
    // Once also without a policy: one may have gone while this operator was away.
    let mut asked = false;
    loop {
        let world = observatory.world.upgrade();
        let warms = !asked || world.is_some_and(|w| !w.warmers(&watched.names.key).is_empty());
        let wanted = Wanted {
            warms,
            ..watched.wanted.read().clone()
        };
        let before = watched.view();
        let view = look(&observatory, &watched, &wanted, &before, &mut channels).await;
        let now = view.seen;
        let view = watched.replace(view);
        let (last, at) = &told;
        if !matches!(view.warmups, Warmups::Unknown) {
            asked = true;
        }
        let first = !watched.asked.swap(true, Ordering::AcqRel);
        observatory.end_orphans(&watched, &view).await;
        let fills = view.used() != last.used()
            && now.duration_since(*at) >= USE_TOLD.try_into().unwrap_or_default();
        let told_of = first || view.differs(last) || view.turned(last);
        if told_of || fills || !view.moved(last).is_empty() || !view.warmed(last).is_empty() {
            observatory.tell(&watched, first, last, &view);
            told = (View::clone(&view), now);
        }
        sleep(jittered(INTERVAL, share())).await;
    }
}

async fn look(
    observatory: &Observatory,
    watched: &Watched,
    wanted: &Wanted,
    before: &View,
    channels: &mut BTreeMap<u64, (Address, Channel)>,
) -> View {
    let mut view = View {
        seen: clock::now(),
        ..View::default()
    };
    channels.retain(|id, _| *id <= u64::from(wanted.replicas));
    for id in 1..=u64::from(wanted.replicas) {
        if let Ok(address) = (observatory.dial)(&watched.names, id) {
            let channel = || connect(&address);
            channels
                .entry(id)
                .or_insert_with(|| (address.clone(), channel()));
        }
    }
    let answers = join_all(channels.values().map(|(_, channel)| async {
        let mut admin = AdminClient::new(channel.clone());
        let request = v1::QuorumRequest { of_leader: false };
        let answer = timeout(ANSWER, admin.quorum(request)).await;
        Some(answer.ok()?.ok()?.into_inner())
    }));
    let answers: Vec<_> = answers.await.into_iter().flatten().collect();
    view.hear(&answers);
    let leader = view.quorum.as_ref().and_then(|q| channels.get(&q.leader));
    *watched.leader.write() = leader.cloned();
    let admin = leader.map(|(_, channel)| {
        AdminClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    });
    let report = match admin.clone() {
        Some(mut admin) => {
            let report = timeout(ANSWER, admin.report(v1::ReportRequest {})).await;
            report.ok().and_then(Result::ok)
        }
        None => None,
    };
    if let (Some(report), Some(mut admin)) = (report, admin) {
        view.learn(report.into_inner(), wanted.key.as_deref());
        if wanted.warms {
            match timeout(ANSWER, admin.warmups(v1::WarmupsRequest {})).await {
                Ok(Ok(answer)) => view.warm(answer.into_inner()),
                Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
                    view.warmups = Warmups::TooOld;
                }
                // As they were; they are asked for again soon.
                _ => view.warmups = before.warmups.clone(),
            }
        }
    } else {
        // Followers name a leader for a moment longer than it lives.
        view.quorum = None;
        view.silent_since = Some(before.silent_since.unwrap_or(view.seen));
        view.table = Arc::clone(&before.table);
        view.warmups = before.warmups.clone();
    }
    view.settle(before, USE_TOLD.try_into().unwrap_or_default());
    view
}

/// Whether a name is one that the API server gives: people give others.
fn is_uid(name: &str) -> bool {
    let mut parts = name.split('-').map(str::len);
    name.len() == 36
        && name.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
        && parts.by_ref().eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use super::is_uid;

    #[test]
    fn names_that_people_give_are_not_ours_to_end() {
        assert!(is_uid("0b5a3c52-2d1c-4b7e-9a53-0f8f5a1d2c3e"));
        for name in [
            "nightly",
            "",
            "0b5a3c522d1c4b7e9a530f8f5a1d2c3e",
            "zb5a3c52-2d1c-4b7e-9a53-0f8f5a1d2c3e",
        ] {
            assert!(!is_uid(name), "{name}");
        }
    }
}
