//! Reading the tree.

use crate::{cluster::Target, failure::Failure};
use bytes::Bytes;
use forebay_client::Master;
use forebay_proto::v1::{self, DirEntry, ReadDirRequest, ReadDirResponse, ResolveRequest};
use forebay_types::Code;
use futures::{Stream, stream};
use tokio::sync::Mutex;
use tonic::Streaming;

/// What the target's path leads to.
pub(crate) async fn resolve(target: &Target) -> Result<v1::ResolveResponse, Failure> {
    let answer = target
        .master
        .retrying("resolve", || {
            let calls = target.master.calls();
            let path = target.path.clone();
            async move { calls.resolve(ResolveRequest { path }).await }
        })
        .await;
    match answer {
        Ok(response) => Ok(response),
        Err(error) if error.code == Code::NotFound => Err(Failure::run(format!(
            "{}: no such file or directory",
            target.shown()
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Attributes out of an answer that must have them.
pub(crate) fn attr(attr: Option<v1::Attr>) -> Result<v1::Attr, Failure> {
    attr.ok_or_else(|| Failure::run("the master's answer lacks attributes: versions differ?"))
}

/// The entries of a directory, in batches as they come. Goes on after the last name where a master
/// went away in the middle.
pub(crate) async fn read_dir(
    target: &Target,
    ino: u64,
) -> Result<impl Stream<Item = Result<Vec<DirEntry>, Failure>> + use<>, Failure> {
    let listing = Listing {
        master: target.master.clone(),
        ino,
        after: Bytes::new(),
        stream: Mutex::new(None),
    };
    // The first batch here: a directory that cannot be listed fails before anything is printed.
    let first = listing.next().await?;
    let rest = stream::try_unfold(first, async |listed| match listed {
        Some((batch, listing)) => Ok(Some((batch, listing.next().await?))),
        None => Ok(None),
    });
    Ok(rest)
}

/// A directory that is being listed.
struct Listing {
    master: Master,
    ino: u64,
    /// The last name that came.
    after: Bytes,
    stream: Mutex<Option<Streaming<ReadDirResponse>>>,
}

impl Listing {
    async fn next(mut self) -> Result<Option<(Vec<DirEntry>, Listing)>, Failure> {
        let ask = || async {
            let mut open = self.stream.lock().await;
            let mut stream = if let Some(stream) = open.take() {
                stream
            } else {
                let request = ReadDirRequest {
                    ino: self.ino,
                    after: self.after.clone(),
                    limit: 0,
                };
                self.master.metadata().read_dir(request).await?.into_inner()
            };
            let batch = stream.message().await?;
            *open = Some(stream);
            Ok(batch)
        };
        let Some(batch) = self.master.retrying("list", ask).await? else {
            return Ok(None);
        };
        if let Some(last) = batch.entries.last() {
            self.after = last.name.clone();
        }
        Ok(Some((batch.entries, self)))
    }
}
