//! `forebay fs problems`.

use crate::{
    cluster::{Target, shown},
    failure::Failure,
    output,
};
use forebay_proto::v1::ProblemsRequest;

/// Keys of the under stores that a file system cannot show, and why.
pub(crate) async fn run(target: &Target, limit: u64, json: bool) -> Result<(), Failure> {
    let answer = target
        .master
        .retrying("problems", || {
            let mut admin = target.master.admin();
            async move { admin.problems(ProblemsRequest { limit }).await }
        })
        .await?
        .into_inner();
    if json {
        for p in &answer.problems {
            let line = serde_json::json!({
                "mount": p.mount, "key": shown(&p.key), "reason": p.reason,
            });
            println!("{line}");
        }
        return Ok(());
    }
    if answer.total == 0 {
        println!("no problems in what has been listed so far");
        return Ok(());
    }
    let mut table = output::table(&["MOUNT", "KEY", "REASON"], &[]);
    let printed = answer.problems.len() as u64;
    for p in answer.problems {
        table.add_row([p.mount, shown(&p.key), p.reason]);
    }
    output::print(&table);
    if printed < answer.total {
        println!("… and {} more (--limit)", answer.total - printed);
    }
    Ok(())
}
