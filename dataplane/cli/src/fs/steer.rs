//! `forebay fs free|pin|unpin|sync`.

use crate::{cluster::Target, failure::Failure, output};
use forebay_client::call::once;
use forebay_proto::v1::PathRequest;

fn request(target: &Target, recursive: bool) -> PathRequest {
    PathRequest {
        path: target.path.clone(),
        recursive,
    }
}

/// Drops what is cached of a path and below.
pub(crate) async fn free(target: &Target, json: bool) -> Result<(), Failure> {
    let mut admin = target.master.admin();
    let call = admin.free(request(target, true));
    let answer = once(target.master.address(), "free", call)
        .await?
        .into_inner();
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
    let mut admin = target.master.admin();
    let address = target.master.address();
    let request = request(target, true);
    let answer = if pinned {
        once(address, "pin", admin.pin(request)).await?
    } else {
        once(address, "unpin", admin.unpin(request)).await?
    };
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
    let mut admin = target.master.admin();
    let call = admin.sync(request(target, recursive));
    let done = once(target.master.address(), "sync", call)
        .await?
        .into_inner();
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
