//! Whether the under stores of mounts that are there still answer: nobody else would say so before somebody reads.
//!
//! Every few seconds one known file of each mount is compared with its store (`Admin.Sync` of a file): one request for
//! metadata, and no change of the tree unless the file has changed. A mount in which no file is known has its top
//! directory listed instead.

use crate::{
    masters::{Observatory, Watched},
    plan::{
        mount::{Fault, reason},
        name::dataset_of,
    },
};
use forebay_client::{
    Error as CallError,
    call::{error_of, jittered, share},
};
use forebay_proto::v1::{self, call::What, metadata_client::MetadataClient};
use forebay_types::{Code, MountSpec};
use futures::{StreamExt, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often each mount is probed …
const INTERVAL: Duration = Duration::from_secs(5);
/// … unless that were more than so many a second of a cluster.
const PER_SECOND: u32 = 20;
/// Probes of a cluster at the same time.
const AT_ONCE: usize = 32;
/// How long a store may take for a file, or for a small directory.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a directory of unknown size is waited for: it takes its time, and that is no fault.
const ANSWER_MOST: Duration = Duration::from_secs(10);
/// When a failure that may pass is tried again, before it is told.
const AGAIN: Duration = Duration::from_secs(1);
/// How deep a file is looked for, and among how many names.
const DEPTH: usize = 4;
const NAMES: u64 = 16;

/// What is known of a mount.
#[derive(Clone, Debug, Default)]
struct Known {
    /// A file in it.
    file: Option<Vec<u8>>,
    /// Whether its top directory has but a few names.
    small: bool,
}

/// Probes the mounts of a cluster until it is left alone: one after the other, evenly over the interval.
pub(crate) async fn run(observatory: Arc<Observatory>, watched: Arc<Watched>) {
    let mut known = BTreeMap::<String, Known>::new();
    loop {
        let view = watched.view();
        let mounts = view.table.iter();
        let ours = mounts
            .filter(|(path, row)| row.uri != MountSpec::SCRATCH && dataset_of(path).is_some());
        let ours: Vec<(String, Known)> = ours
            .map(|(path, _)| (path.clone(), known.remove(path).unwrap_or_default()))
            .collect();
        known.clear();
        let count = ours.len() as u32;
        let interval = INTERVAL.max(Duration::from_secs(1) * count / PER_SECOND);
        let interval = jittered(interval, share());
        if ours.is_empty() || view.quorum.is_none() {
            known.extend(ours);
            sleep(interval).await;
            continue;
        }
        let paths: BTreeSet<String> = ours.iter().map(|(path, _)| path.clone()).collect();
        let mut faults = BTreeMap::clone(&watched.faults());
        faults.retain(|path, _| paths.contains(path));
        observatory.found(&watched, faults.clone());
        let begun = stream::iter(ours).then(move |next| async move {
            sleep(interval / count).await;
            next
        });
        let probes = begun.map(|(path, known)| {
            let watched = Arc::clone(&watched);
            async move {
                let (known, fault) = twice(&watched, &path, known).await;
                (path, known, fault)
            }
        });
        let mut probed = pin!(probes.buffer_unordered(AT_ONCE));
        while let Some((path, now, fault)) = probed.next().await {
            // Masters that went meanwhile know nothing of stores, and nobody of a mount that went.
            let view = watched.view();
            let counts = view.quorum.is_some() && view.table.contains_key(&path);
            if counts && faults.get(&path) != fault.as_ref() {
                match fault {
                    Some(fault) => faults.insert(path.clone(), fault),
                    None => faults.remove(&path),
                };
                observatory.found(&watched, faults.clone());
            }
            known.insert(path, now);
        }
    }
}

async fn twice(watched: &Watched, mount: &str, known: Known) -> (Known, Option<Fault>) {
    let (known, fault) = probe(watched, mount, known).await;
    if fault
        .as_ref()
        .is_none_or(|fault| fault.reason != "StoreUnreachable")
    {
        return (known, fault);
    }
    sleep(AGAIN).await;
    probe(watched, mount, known).await
}

async fn probe(watched: &Watched, mount: &str, mut known: Known) -> (Known, Option<Fault>) {
    if known.file.is_none() {
        let found = timeout(ANSWER, find(watched, mount)).await;
        if let Ok(Ok(found)) = found {
            known = found;
        }
    }
    let path = known.file.clone();
    let is_file = path.is_some();
    let soon = is_file || known.small;
    let limit = if soon { ANSWER } else { ANSWER_MOST };
    let path = path.unwrap_or_else(|| mount.as_bytes().to_vec());
    let answer = match timeout(limit, sync(watched, path)).await {
        Ok(answer) => answer,
        Err(_) if soon => {
            let text = format!(
                "no answer within {} s: check the endpoint and the network",
                limit.as_secs()
            );
            Err(CallError::new(Code::Timeout, text))
        }
        Err(_) => return (known, None),
    };
    match answer {
        Ok(answer) => {
            // The file went. So it may be with all of them.
            if is_file && answer.removed > 0 {
                known.file = None;
                let top = timeout(ANSWER_MOST, sync(watched, mount.as_bytes().to_vec())).await;
                let fault = top
                    .ok()
                    .and_then(Result::err)
                    .and_then(|error| fault(&error));
                return (known, fault);
            }
            (known, None)
        }
        // It is not in the tree any more.
        Err(error) if is_file && error.code == Code::NotFound => {
            known.file = None;
            (known, None)
        }
        Err(error) => (known, fault(&error)),
    }
}

fn fault(error: &CallError) -> Option<Fault> {
    let of_store = [
        Code::PermissionDenied,
        Code::NotFound,
        Code::NotDirectory,
        Code::Timeout,
        Code::Unavailable,
    ];
    of_store.contains(&error.code).then(|| Fault {
        reason: reason(error.code),
        message: format!("the store does not answer as it did: {}", error.message),
    })
}

async fn sync(watched: &Watched, path: Vec<u8>) -> Result<v1::SyncResponse, CallError> {
    let request = v1::PathRequest {
        path: path.into(),
        recursive: false,
    };
    let answer = watched.call(
        "compare",
        |mut admin| async move { admin.sync(request).await },
    );
    Ok(answer.await?.into_inner())
}

/// A file in a mount, of the first names of the first directories.
async fn find(watched: &Watched, mount: &str) -> Result<Known, CallError> {
    let (address, channel) = watched.leader("look for a file")?;
    let mut metadata = MetadataClient::new(channel);
    let failed = |status: &tonic::Status| error_of(&address, "look for a file", status);
    let mut path = mount.as_bytes().to_vec();
    let resolve = v1::CallBatch {
        calls: vec![v1::Call {
            id: 1,
            request: None,
            what: Some(What::Resolve(v1::ResolveRequest {
                path: path.clone().into(),
            })),
        }],
    };
    // The stream stays open, or the answer may never come.
    let asked = stream::iter([resolve]).chain(stream::pending());
    let answers = metadata.calls(asked).await;
    let mut answers = answers.map_err(|status| failed(&status))?.into_inner();
    let batch = answers.message().await.map_err(|status| failed(&status))?;
    let answer = batch.and_then(|batch| batch.answers.into_iter().next()?.what);
    let Some(v1::answer::What::Resolve(v1::ResolveResponse {
        attr: Some(attr), ..
    })) = answer
    else {
        return Ok(Known::default());
    };
    let mut ino = attr.ino;
    let mut known = Known::default();
    for depth in 0..DEPTH {
        let request = v1::ReadDirRequest {
            ino,
            limit: NAMES,
            ..v1::ReadDirRequest::default()
        };
        let listing = metadata.read_dir(request).await;
        let mut listing = listing.map_err(|status| failed(&status))?.into_inner();
        let mut entries = Vec::new();
        while let Some(part) = listing.message().await.map_err(|status| failed(&status))? {
            entries.extend(part.entries);
        }
        let is_directory = |e: &v1::DirEntry| e.attr.as_ref().is_some_and(|a| a.directory);
        let file = entries.iter().position(|entry| !is_directory(entry));
        let Some(entry) = entries.get(file.unwrap_or(0)) else {
            known.small |= depth == 0;
            return Ok(known);
        };
        known.small |= depth == 0 && (entries.len() as u64) < NAMES;
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        if file.is_some() {
            known.file = Some(path);
            return Ok(known);
        }
        ino = entry.attr.as_ref().map_or(0, |attr| attr.ino);
    }
    Ok(known)
}
