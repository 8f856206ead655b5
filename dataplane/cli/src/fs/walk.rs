//! Reading the tree.

use crate::{cluster::Target, failure::Failure};
use bytes::Bytes;
use forebay_client::call::error_of;
use forebay_proto::v1::{self, DirEntry, ReadDirRequest, ResolveRequest};
use forebay_types::Code;
use futures::{Stream, TryStreamExt};

/// What the target's path leads to.
pub(crate) async fn resolve(target: &Target) -> Result<v1::ResolveResponse, Failure> {
    let answer = target
        .master
        .retrying("resolve", || {
            let calls = target.master.calls().clone();
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

/// The entries of a directory, in batches as they come.
pub(crate) async fn read_dir(
    target: &Target,
    ino: u64,
) -> Result<impl Stream<Item = Result<Vec<DirEntry>, Failure>> + use<>, Failure> {
    let address = target.master.address().clone();
    let request = ReadDirRequest {
        ino,
        after: Bytes::new(),
        limit: 0,
    };
    let stream = target
        .master
        .metadata()
        .read_dir(request)
        .await
        .map_err(|status| error_of(&address, "list", &status))?
        .into_inner();
    Ok(stream
        .map_ok(|batch| batch.entries)
        .map_err(move |status| error_of(&address, "list", &status).into()))
}
