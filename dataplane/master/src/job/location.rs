//! Where a file is cached.

use super::fleet::{Client, Fleet};
use crate::{
    error::Result,
    namespace::{Namespace, Resolved},
};
use forebay_client::placement::EXTENT_SIZE;
use forebay_proto::v1::{self, location_response::Replica};
use forebay_types::{FileRef, WorkerId};
use std::collections::BTreeSet;

/// Workers that have something of the file at `start`, and those that are its homes.
pub(crate) async fn location(
    namespace: &Namespace,
    fleet: &Fleet,
    start: &Resolved,
) -> Result<v1::LocationResponse> {
    let file = namespace.file(start.attr.ino)?;
    let homes = homes(fleet, &file);
    let call = async |mut client: Client, request| client.stat(request).await;
    let answers = fleet.ask_all("stat", &[file.id], call).await?;
    let mut replicas = Vec::new();
    for (worker, answer) in answers {
        let found = answer.files.into_iter().next().unwrap_or_default();
        let home = homes.contains(&worker.id);
        if found.cached_bytes > 0 || found.pinned || home {
            replicas.push(Replica {
                worker: worker.id.0,
                address: worker.address.to_string(),
                medium: found.medium,
                cached_bytes: found.cached_bytes,
                home,
                pinned: found.pinned,
            });
        }
    }
    Ok(v1::LocationResponse {
        file: Some(file.into()),
        replicas,
    })
}

/// The first home of every extent.
fn homes(fleet: &Fleet, file: &FileRef) -> BTreeSet<WorkerId> {
    let topology = fleet.topology();
    (0..file.size().div_ceil(EXTENT_SIZE).max(1))
        .filter_map(|extent| {
            topology
                .homes(file.id, extent * EXTENT_SIZE)
                .first()
                .map(|w| w.id)
        })
        .collect()
}
