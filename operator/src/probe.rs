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
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(due) => {
                let view = watched.view();
                let mount = next(&view, last.as_deref());
                if mount.is_none() {
                    // All had their turn; of those that went, nothing is known.
                    tell(&observatory, &watched, None);
                }
                let mount = mount.or_else(|| next(&view, None));
                due = Instant::now() + jittered(pause(view.table.len()), share());
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

/// The mount after `last`, by path, of those of Datasets that have an under store.
fn next(view: &View, last: Option<&str>) -> Option<String> {
    let begin = last.map_or(Bound::Unbounded, Bound::Excluded);
    let mut mounts = view.table.range::<str, _>((begin, Bound::Unbounded));
    let next =
        mounts.find(|(path, row)| row.uri != MountSpec::SCRATCH && dataset_of(path).is_some());
    next.map(|(path, _)| path.clone())
}

/// How long to wait from one mount to the next, so that each has its turn once in the interval.
fn pause(mounts: usize) -> Duration {
    let mounts = mounts.clamp(1, u32::MAX as usize) as u32;
    (INTERVAL / mounts).max(Duration::from_secs(1) / PER_SECOND)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::mount::{Held, Row};
    use forebay_types::SyncPolicy;

    #[test]
    fn mounts_have_their_turn_by_path() {
        let row = |path: &str, uri: &str| {
            let row = Row {
                uri: uri.to_owned(),
                options: BTreeMap::new(),
                sync: SyncPolicy::default(),
                held: Held::Nothing,
            };
            (path.to_owned(), row)
        };
        let rows = [
            row("/ns/a", "s3://a"),
            row("/ns/b", MountSpec::SCRATCH),
            row("/ns/c", "s3://c"),
            row("/alone", "s3://d"),
        ];
        let view = View {
            table: Arc::new(rows.into()),
            ..View::default()
        };
        let mut turns = Vec::new();
        let mut last = None;
        while let Some(mount) = next(&view, last.as_deref()) {
            turns.push(mount.clone());
            last = Some(mount);
        }
        assert_eq!(turns, ["/ns/a", "/ns/c"]);
        assert_eq!(
            next(&view, Some("/ns/b")).as_deref(),
            Some("/ns/c"),
            "it went"
        );
        assert_eq!(next(&View::default(), None), None);
    }

    #[test]
    fn many_mounts_are_not_probed_more_often_than_that() {
        let pauses = [0, 1, 3, 30, 2_000].map(|mounts| pause(mounts).as_millis());
        assert_eq!(pauses, [3_000, 3_000, 1_000, 100, 50]);
    }
}
