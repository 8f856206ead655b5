//! `forebay fs free|pin|unpin|sync`.

use crate::{cluster::Target, failure::Failure, output};
use forebay_proto::v1::PathRequest;

fn request(target: &Target, recursive: bool) -> PathRequest {
    PathRequest {
        path: target.path.clone(),
        recursive,
    }
}

/// Drops what is cached of a path and below.
pub(crate) async fn free(target: &Target, json: bool) -> Result<(), Failure> {
    let call = || {
        let mut admin = target.master.admin();
        async move { admin.free(request(target, true)).await }
    };
    let answer = target.master.retrying("free", call).await?.into_inner();
    if json {
        println!(
            "{}",
            serde_json::json!({ "files": answer.files, "bytes": answer.bytes })
        );
    } else {
        println!(
            "freed {} files, {}",
            answer.files,
            output::size(answer.bytes)
        );
    }
    Ok(())
}

/// Pins or unpins a path and what is below.
pub(crate) async fn pin(target: &Target, pinned: bool, json: bool) -> Result<(), Failure> {
    let call = || {
        let mut admin = target.master.admin();
        let request = request(target, true);
        async move {
            if pinned {
                admin.pin(request).await
            } else {
                admin.unpin(request).await
            }
        }
    };
    let what = if pinned { "pin" } else { "unpin" };
    let answer = target.master.retrying(what, call).await?;
    let inodes = answer.into_inner().inodes;
    if json {
        println!(
            "{}",
            serde_json::json!({ "inodes": inodes, "pinned": pinned })
        );
    } else {
        println!(
            "{} {inodes} inodes",
            if pinned { "pinned" } else { "unpinned" }
        );
    }
    Ok(())
}

/// Compares metadata with the under store.
pub(crate) async fn sync(target: &Target, recursive: bool, json: bool) -> Result<(), Failure> {
    let call = || {
        let mut admin = target.master.admin();
        async move { admin.sync(request(target, recursive)).await }
    };
    let done = target.master.retrying("sync", call).await?.into_inner();
    if json {
        let line = serde_json::json!({
            "directories": done.directories, "added": done.added,
            "changed": done.changed, "removed": done.removed,
        });
        println!("{line}");
    } else {
        println!(
            "compared {} directories: {} added, {} changed, {} removed",
            done.directories, done.added, done.changed, done.removed
        );
    }
    Ok(())
}
