//! `forebay fs location`.

use crate::{cluster::Target, failure::Failure, output};
use forebay_proto::v1::{LocationResponse, PathRequest};

/// Who has the target's file.
pub(crate) async fn replicas(target: &Target) -> Result<LocationResponse, Failure> {
    let answer = target
        .master
        .retrying("location", || {
            let mut admin = target.master.admin();
            let request = PathRequest {
                path: target.path.clone(),
                recursive: false,
            };
            async move { admin.location(request).await }
        })
        .await?;
    Ok(answer.into_inner())
}

/// One row for each worker that is a home of the file or has some of it.
pub(crate) async fn run(target: &Target, json: bool) -> Result<(), Failure> {
    let location = replicas(target).await?;
    let size = location
        .file
        .and_then(|f| f.fingerprint)
        .map_or(0, |f| f.size);
    if json {
        for r in &location.replicas {
            let line = serde_json::json!({
                "worker": r.worker.to_string(), "address": r.address, "medium": r.medium,
                "cached_bytes": r.cached_bytes, "size": size, "home": r.home, "pinned": r.pinned,
            });
            println!("{line}");
        }
        return Ok(());
    }
    let mut table = output::table(
        &[
            "WORKER", "ADDRESS", "TIER", "CACHED", "SHARE", "HOME", "PINNED",
        ],
        &[3, 4],
    );
    for r in location.replicas {
        let yes = |flag| if flag { "yes" } else { "" };
        table.add_row([
            format!("{:016x}", r.worker),
            r.address,
            r.medium,
            output::size(r.cached_bytes),
            output::percent(r.cached_bytes, size),
            yes(r.home).to_owned(),
            yes(r.pinned).to_owned(),
        ]);
    }
    output::print(&table);
    Ok(())
}
