//! Pins: recorded in the metadata, and told to the workers that have the files now. Files that are
//! loaded later below a pin are pinned by the load.

use super::{
    fleet::{Client, Fleet},
    free::in_batches,
    walk::Filter,
};
use crate::{
    error::{Result, blocking},
    namespace::{Namespace, Resolved},
    proposer::Proposer,
};
use forebay_meta::Change;
use forebay_proto::v1;
use forebay_types::FileId;

/// Pins or unpins the inode at `start`, a directory with all below it.
pub(crate) async fn set(
    namespace: &Namespace,
    fleet: &Fleet,
    proposer: &Proposer,
    start: Resolved,
    pinned: bool,
) -> Result<v1::PinResponse> {
    let ino = start.attr.ino;
    // Recorded first: what is loaded from now on is pinned by the load.
    proposer.propose(Change::SetPin { ino, pinned }).await?;
    let inodes = in_batches(namespace, start, Filter::default(), async |files| {
        let mut files: Vec<FileId> = files.iter().map(|file| file.id).collect();
        if !pinned {
            files = free_to_go(namespace, files).await?;
        }
        let call = async |mut client: Client, request| {
            if pinned {
                client.pin(request).await
            } else {
                client.unpin(request).await
            }
        };
        fleet
            .ask_all(if pinned { "pin" } else { "unpin" }, &files, call)
            .await?;
        Ok(())
    })
    .await?;
    tracing::info!(inode = ino.0, pinned, inodes, "pin set");
    Ok(v1::PinResponse { inodes })
}

/// Those of the files that no pin holds.
pub(crate) async fn free_to_go(namespace: &Namespace, files: Vec<FileId>) -> Result<Vec<FileId>> {
    let meta = namespace.meta().clone();
    let free = blocking(move || {
        let mut free = Vec::with_capacity(files.len());
        for file in files {
            if !meta.is_pinned(file.ino)? {
                free.push(file);
            }
        }
        Ok::<_, forebay_meta::Error>(free)
    });
    Ok(free.await??)
}
