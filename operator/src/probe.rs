//! Whether the under stores of mounts that are there still answer: nobody else would say so before somebody reads.
//!
//! Every few seconds the masters are asked about each mount (`Admin.ProbeMount`): one request for metadata of one object,
//! and nothing is changed.

use crate::{
    masters::{Observatory, Watched},
    plan::{
        mount::{Fault, reason},
        name::dataset_of,
        view::View,
    },
};
use forebay_client::call::{jittered, share};
use forebay_proto::v1;
use forebay_types::{Code, MountSpec};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep_until, timeout};

/// How often each mount is probed …
const INTERVAL: Duration = Duration::from_secs(3);
/// … unless that were more than so many a second for one cluster.
const PER_SECOND: u32 = 20;
/// Probes of a cluster at the same time: also if no store answers.
const AT_ONCE: usize = 128;
/// Longer than the masters give a store.
const ANSWER: Duration = Duration::from_secs(6);

/// Probes the mounts of a cluster until it is left alone: one after the other in the order of their paths, evenly, and
/// none waits for one that does not answer.
pub(crate) async fn run(observatory: Arc<Observatory>, watched: Arc<Watched>) {
    let mut probes = FuturesUnordered::new();
    let mut under_way = BTreeSet::new();
    let mut last = None::<String>;
    let mut pause = INTERVAL;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(due) => {
                let view = watched.view();
                let mut mount = next(&view, last.as_deref());
                if mount.is_none() {
                    // All had their turn.
                    pause = pace(&view);
                    tell(&observatory, &watched, None);
                    mount = next(&view, None);
                }
                due = Instant::now() + pause;
                last.clone_from(&mount);
                let room = probes.len() < AT_ONCE && view.quorum.is_some();
                if let Some(mount) = mount.filter(|_| room)
                    && under_way.insert(mount.clone())
                {
                    let watched = Arc::clone(&watched);
                    probes.push(async move {
                        let said = probe(&watched, &mount).await;
                        (mount, said)
                    });
                }
            }
            Some((mount, said)) = probes.next() => {
                under_way.remove(&mount);
                let news = said.map(|fault| (mount, fault));
                tell(&observatory, &watched, news);
            }
        }
    }
}

/// Tells what is known now, if that is something else than before.
fn tell(observatory: &Observatory, watched: &Watched, news: Option<(String, Option<Fault>)>) {
    let view = watched.view();
    let before = watched.faults();
    let mut faults = BTreeMap::clone(&before);
    match news {
        Some((mount, Some(fault))) => drop(faults.insert(mount, fault)),
        Some((mount, None)) => drop(faults.remove(&mount)),
        None => {}
    }
    // Nobody knows anything of the store of a mount that went.
    faults.retain(|path, _| view.table.contains_key(path));
    if faults != *before {
        observatory.found(watched, faults);
    }
}

/// Mounts of Datasets that have an under store, by their paths.
fn probed<'a>(view: &'a View, after: Option<&'a str>) -> impl Iterator<Item = &'a String> {
    let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mounts = view.table.range::<str, _>((begin, Bound::Unbounded));
    let ours =
        mounts.filter(|(path, row)| row.uri != MountSpec::SCRATCH && dataset_of(path).is_some());
    ours.map(|(path, _)| path)
}

fn next(view: &View, last: Option<&str>) -> Option<String> {
    probed(view, last).next().cloned()
}

/// How long to wait from one mount to the next, so that each has its turn once in the interval.
fn pace(view: &View) -> Duration {
    let pause = match probed(view, None).count() as u32 {
        0 => INTERVAL,
        mounts => (INTERVAL / mounts).max(Duration::from_secs(1) / PER_SECOND),
    };
    jittered(pause, share())
}

/// What the leader says of a mount's store; nothing if no master can say, or is too old to.
async fn probe(watched: &Watched, mount: &str) -> Option<Option<Fault>> {
    let request = v1::ProbeMountRequest {
        path: mount.to_owned(),
    };
    let asking = watched.call("probe", |mut admin| async move {
        admin.probe_mount(request).await
    });
    let answer = timeout(ANSWER, asking).await.ok()?.ok()?.into_inner();
    Some(answer.refusal.and_then(fault))
}

fn fault(refusal: v1::Refusal) -> Option<Fault> {
    let v1::Refusal { code, message } = refusal;
    let code = Code::from_number(u8::try_from(code).unwrap_or_default());
    let of_store = [
        Code::PermissionDenied,
        Code::NotFound,
        Code::NotDirectory,
        Code::Timeout,
        Code::Unavailable,
    ];
    of_store.contains(&code).then(|| Fault {
        reason: reason(code),
        message: format!("the store does not answer as it did: {message}"),
    })
}
