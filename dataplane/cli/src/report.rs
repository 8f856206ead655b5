//! `forebay report`.

use crate::{args::ReportArgs, cluster::Target, failure::Failure, output};
use forebay_proto::v1::{Mount, MountUsage, ReportRequest, ReportResponse, WorkerCounters};

/// Capacity and use of each tier, what is cached of each mount, hit ratio, where bytes came from.
pub(crate) async fn run(args: ReportArgs) -> Result<(), Failure> {
    let target = Target::find(args.cluster.master.as_ref(), &args.path)?;
    let report = target
        .master
        .retrying("report", || {
            let mut admin = target.master.admin();
            async move { admin.report(ReportRequest {}).await }
        })
        .await?
        .into_inner();
    if args.cluster.json {
        println!("{}", json(&report));
    } else {
        print(&report);
    }
    Ok(())
}

/// The sum over all workers.
fn sum(report: &ReportResponse) -> WorkerCounters {
    let mut sum = WorkerCounters::default();
    for c in report.workers.iter().filter_map(|w| w.counters.as_ref()) {
        sum.bytes_from_cache += c.bytes_from_cache;
        sum.bytes_from_peers += c.bytes_from_peers;
        sum.bytes_from_ufs += c.bytes_from_ufs;
        sum.opens_whole += c.opens_whole;
        sum.opens_partial += c.opens_partial;
        sum.opens_absent += c.opens_absent;
        sum.bytes_opened_whole += c.bytes_opened_whole;
        sum.ufs_requests += c.ufs_requests;
        sum.evicted_pages += c.evicted_pages;
        sum.corrupt_pages += c.corrupt_pages;
        sum.uncached_reads += c.uncached_reads;
        sum.pages_from_cache += c.pages_from_cache;
    }
    sum
}

/// Opens of files that needed nothing from elsewhere, and all opens.
fn hits(c: &WorkerCounters) -> (u64, u64) {
    (
        c.opens_whole,
        c.opens_whole + c.opens_partial + c.opens_absent,
    )
}

fn print(report: &ReportResponse) {
    println!("cluster     {}", report.cluster);
    println!("inodes      {}", report.inodes);
    println!("journal     index {}", report.journal_index);
    if report.problems > 0 {
        println!(
            "problems    {} keys cannot be shown: 'forebay fs problems'",
            report.problems
        );
    }
    println!();
    let mut tiers = output::table(
        &[
            "WORKER",
            "TIER",
            "DIRECTORY",
            "USED",
            "QUOTA",
            "SHARE",
            "FILES",
            "STATE",
        ],
        &[3, 4, 5, 6],
    );
    for worker in &report.workers {
        let id = worker.worker.as_ref().map_or(0, |w| w.id);
        for tier in &worker.tiers {
            let state = if tier.fault.is_empty() {
                "ok"
            } else {
                &tier.fault
            };
            tiers.add_row([
                &format!("{id:016x}"),
                &tier.medium,
                &tier.dir,
                &output::size(tier.used),
                &output::size(tier.quota),
                &output::percent(tier.used, tier.quota),
                &tier.files.to_string(),
                state,
            ]);
        }
    }
    output::print(&tiers);
    println!();
    if !report.mounts.is_empty() {
        print_mounts(report);
        println!();
    }
    let c = sum(report);
    let (whole, opens) = hits(&c);
    println!(
        "opens       {opens}, of which {} found the file whole in the cache",
        output::percent(whole, opens)
    );
    println!(
        "from cache  {} (reads that the kernel serves by itself not counted)",
        output::size(c.bytes_from_cache)
    );
    println!("from peers  {}", output::size(c.bytes_from_peers));
    println!(
        "from store  {} in {} requests",
        output::size(c.bytes_from_ufs),
        c.ufs_requests
    );
    println!("evicted     {} pages", c.evicted_pages);
    if c.corrupt_pages + c.uncached_reads > 0 {
        println!(
            "faults      {} corrupt pages, {} reads without the cache",
            c.corrupt_pages, c.uncached_reads
        );
    }
}

/// Of each mount: what there is, how much of it is in a cache once and in all, and how opens went.
fn print_mounts(report: &ReportResponse) {
    let mut mounts = output::table(
        &[
            "MOUNT", "FILES", "SIZE", "UNLISTED", "CACHED", "SHARE", "COPIES", "OPENS", "WHOLE",
            "SYNCED",
        ],
        &[1, 2, 3, 4, 5, 6, 7, 8],
    );
    for (mount, usage) in usages(report) {
        mounts.add_row([
            &mount.path,
            &usage.files.to_string(),
            &output::size(usage.bytes),
            &usage.unlisted.to_string(),
            &output::size(usage.unique_bytes),
            &output::percent(usage.unique_bytes, usage.bytes),
            &output::size(usage.cached_bytes),
            &usage.opens.to_string(),
            &output::percent(usage.opens_whole, usage.opens),
            &output::time(usage.last_sync_ns),
        ]);
    }
    output::print(&mounts);
}

/// The mounts in the order of their paths, each with what is known of it.
fn usages(report: &ReportResponse) -> Vec<(&Mount, MountUsage)> {
    let known = |mount: &Mount| report.usage.iter().find(|usage| usage.mount == mount.id);
    let usage = |mount| (mount, known(mount).cloned().unwrap_or_default());
    let mut usages: Vec<_> = report.mounts.iter().map(usage).collect();
    usages.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    usages
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn json(report: &ReportResponse) -> serde_json::Value {
    let counters = |c: &WorkerCounters| {
        let (whole, opens) = hits(c);
        serde_json::json!({
            "bytes_from_cache": c.bytes_from_cache,
            "bytes_from_peers": c.bytes_from_peers,
            "bytes_from_ufs": c.bytes_from_ufs,
            "opens": opens,
            "opens_whole": whole,
            "opens_partial": c.opens_partial,
            "opens_absent": c.opens_absent,
            "bytes_opened_whole": c.bytes_opened_whole,
            "hit_ratio": ratio(whole, opens),
            "ufs_requests": c.ufs_requests,
            "pages_from_cache": c.pages_from_cache,
            "evicted_pages": c.evicted_pages,
            "corrupt_pages": c.corrupt_pages,
            "uncached_reads": c.uncached_reads,
        })
    };
    let workers: Vec<_> = report
        .workers
        .iter()
        .map(|w| {
            let tiers: Vec<_> = w
                .tiers
                .iter()
                .map(|t| {
                    serde_json::json!({
                        "medium": t.medium, "dir": t.dir, "quota": t.quota, "used": t.used,
                        "files": t.files, "fault": t.fault,
                    })
                })
                .collect();
            serde_json::json!({
                "id": format!("{:016x}", w.worker.as_ref().map_or(0, |w| w.id)),
                "address": w.worker.as_ref().map(|w| w.address.clone()),
                "heartbeat_age_ms": w.heartbeat_age_ms,
                "tiers": tiers,
                "counters": w.counters.as_ref().map(counters),
            })
        })
        .collect();
    let mounts = usages(report).into_iter().map(|(mount, usage)| {
        serde_json::json!({
            "path": mount.path,
            "uri": mount.uri,
            "files": usage.files,
            "bytes": usage.bytes,
            "unlisted": usage.unlisted,
            "last_sync_ns": usage.last_sync_ns,
            "cached_bytes": usage.cached_bytes,
            "unique_bytes": usage.unique_bytes,
            "cached_share": ratio(usage.unique_bytes, usage.bytes),
            "opens": usage.opens,
            "opens_whole": usage.opens_whole,
            "hit_ratio": ratio(usage.opens_whole, usage.opens),
        })
    });
    let mounts: Vec<_> = mounts.collect();
    serde_json::json!({
        "cluster": report.cluster,
        "inodes": report.inodes,
        "journal_index": report.journal_index,
        "problems": report.problems,
        "mounts": mounts,
        "workers": workers,
        "total": counters(&sum(report)),
    })
}
