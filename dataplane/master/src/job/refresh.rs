//! Compares a part of the tree with its under stores on request.

use super::walk::{Filter, Found, Unlisted, walk};
use crate::{
    error::Result,
    namespace::{Namespace, Resolved},
    proposer::Changes,
};
use forebay_proto::v1;
use forebay_types::{Code, FileKind, Ino};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

/// Directories that are compared at the same time.
const PARALLEL: usize = 16;

/// Compares what stands at `start`; if `recursive`, every directory below that was listed before
/// (the others will be listed when they are first touched).
pub(crate) async fn refresh(
    namespace: &Namespace,
    start: Resolved,
    recursive: bool,
) -> Result<v1::SyncResponse> {
    let mut total = Changes::default();
    let mut directories = 0;
    let ino = start.attr.ino;
    if start.attr.kind == FileKind::File {
        total += namespace.sync().compare(ino).await?;
    } else {
        total += namespace.sync().now(ino).await?;
        directories += 1;
    }
    if recursive && start.attr.kind == FileKind::Directory {
        let (out, mut found) = mpsc::channel(4);
        let walking = walk(
            namespace.clone(),
            start,
            Filter::default(),
            Unlisted::Skip,
            out,
        );
        let comparing = async {
            let mut running = FuturesUnordered::new();
            let mut open = true;
            while open || !running.is_empty() {
                tokio::select! {
                    next = found.recv(), if open && running.len() < PARALLEL => match next {
                        Some(Found::Directory(dir)) if dir != ino && was_listed(namespace, dir)? => {
                            running.push(namespace.sync().now(dir));
                        }
                        Some(Found::Failed(_, error)) => return Err(error),
                        Some(_) => {}
                        None => open = false,
                    },
                    Some(compared) = running.next() => match compared {
                        Ok(changes) => {
                            total += changes;
                            directories += 1;
                        }
                        // Its parent's comparison took it out of the tree meanwhile.
                        Err(error) if error.code == Code::NotFound => {}
                        Err(error) => return Err(error),
                    },
                }
            }
            Ok(())
        };
        let walking = async {
            walking.await;
            Ok(())
        };
        futures::future::try_join(walking, comparing).await?;
    }
    let Changes {
        added,
        changed,
        removed,
    } = total;
    Ok(v1::SyncResponse {
        directories,
        added,
        changed,
        removed,
    })
}

fn was_listed(namespace: &Namespace, dir: Ino) -> Result<bool> {
    let state = namespace.meta().dir_state(dir)?;
    Ok(state.is_some_and(|s| s.mount.is_some() && s.synced_ns.is_some()))
}
