//! Pins: recorded in the metadata, and told to the workers that have the files now. Files that are
//! loaded later below a pin are pinned by the load.

use super::{
    fleet::{Client, Fleet},
    free::in_batches,
};
use crate::{
    error::{Result, blocking},
    namespace::{Namespace, Resolved},
    proposer::Proposer,
};
use forebay_meta::Change;
use forebay_proto::v1;

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
    let inodes = in_batches(namespace, start, async |mut files| {
        if !pinned {
            // Another pin may hold them still.
            let meta = namespace.meta().clone();
            let kept = blocking(move || {
                let mut kept = Vec::with_capacity(files.len());
                for file in files {
                    if !meta.is_pinned(file.ino)? {
                        kept.push(file);
                    }
                }
                Ok::<_, forebay_meta::Error>(kept)
            });
            files = kept.await??;
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
