//! Drops the cached data of files, on all workers.

use super::{
    fleet::{FILES, Fleet},
    walk::{File, Filter, Found, Unlisted, walk},
};
use crate::{
    error::{Error, Result},
    namespace::{Namespace, Resolved},
};
use forebay_proto::v1;
use forebay_types::FileId;
use futures::FutureExt;
use std::future::Future;
use tokio::sync::mpsc;

/// Hands the known files at and below `start` that are wanted to `each`, some thousand at a time; how many inodes
/// there are.
pub(crate) async fn in_batches<F>(
    namespace: &Namespace,
    start: Resolved,
    filter: Filter,
    mut each: impl FnMut(Vec<File>) -> F,
) -> Result<u64>
where
    F: Future<Output = Result<()>>,
{
    let (out, mut found) = mpsc::channel(4);
    let walking = walk(namespace.clone(), start, filter, Unlisted::Skip, out).map(Ok::<_, Error>);
    let working = async {
        let mut inodes = 0;
        let mut batch = Vec::new();
        while let Some(found) = found.recv().await {
            match found {
                Found::Directory(_) => inodes += 1,
                Found::Files(files) => {
                    inodes += files.len() as u64;
                    batch.extend(files);
                    if batch.len() >= FILES {
                        each(std::mem::take(&mut batch)).await?;
                    }
                }
                Found::Failed(_, error) => return Err(error),
            }
        }
        if !batch.is_empty() {
            each(batch).await?;
        }
        Ok(inodes)
    };
    Ok(futures::future::try_join(walking, working).await?.1)
}

/// Frees the files at and below `start`.
pub(crate) async fn free(
    namespace: &Namespace,
    fleet: &Fleet,
    start: Resolved,
) -> Result<v1::FreeResponse> {
    let mut freed = v1::FreeResponse::default();
    let total = parking_lot::Mutex::new(&mut freed);
    in_batches(namespace, start, Filter::default(), async |files| {
        let files: Vec<FileId> = files.iter().map(|file| file.id).collect();
        let call = async |mut client: super::fleet::Client, request| client.free(request).await;
        for (_, answer) in fleet.ask_all("free", &files, call).await? {
            let mut total = total.lock();
            total.files += answer.files;
            total.bytes += answer.bytes;
        }
        Ok(())
    })
    .await?;
    Ok(freed)
}
