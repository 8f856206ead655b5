//! `forebay fs mounts`.

use crate::{cluster::Target, failure::Failure, output};
use forebay_proto::v1::TopologyRequest;

/// The mount table. Options are shown: they hold no secrets (credentials are refused there).
pub(crate) async fn run(target: &Target, json: bool) -> Result<(), Failure> {
    let answer = target
        .master
        .retrying("mounts", || {
            let mut registry = target.master.registry();
            async move { registry.topology(TopologyRequest::default()).await }
        })
        .await?;
    let mut mounts = answer.into_inner().mounts;
    mounts.sort_by(|a, b| a.path.cmp(&b.path));
    if json {
        for m in mounts {
            let line = serde_json::json!({
                "path": m.path, "uri": m.uri, "options": m.options, "sync": m.sync,
            });
            println!("{line}");
        }
        return Ok(());
    }
    let mut table = output::table(&["PATH", "URI", "SYNC", "OPTIONS"], &[]);
    for m in mounts {
        let options: Vec<String> = m.options.iter().map(|(k, v)| format!("{k}={v}")).collect();
        table.add_row([m.path, m.uri, m.sync, options.join(" ")]);
    }
    output::print(&table);
    Ok(())
}
