//! Metadata of a quorum of three masters, by `forebay bench meta`.

use super::{Row, Scale, table::Unit};
use crate::{
    disk::Scratch,
    process::{Forebay, Member, Playground},
};
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::fs;

/// What a measured operation says of itself.
#[derive(Deserialize)]
struct Measured {
    count: u64,
    per_second: f64,
    seconds: f64,
    p99_us: u64,
    errors: serde_json::Value,
    #[serde(default)]
    first_max_us: u64,
}

/// Processor time in seconds, and fsyncs of journals, of all masters together.
#[derive(Clone, Copy)]
struct Spent {
    processor: f64,
    syncs: u64,
}

struct Quorum {
    playground: Playground,
    masters: String,
}

pub(super) fn run(scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    let scratch = Scratch::new("masters")?;
    scratch.need(2 << 30)?;
    let command = Forebay::new("playground")?.arg(scratch.path().join("pg"));
    let command = command.args(["--masters", "3", "--workers", "0", "--mounts", "0"]);
    let playground = Playground::start(command)?;
    let addresses = playground
        .role("master")
        .filter_map(|m| m.address.as_deref());
    let masters = addresses.collect::<Vec<_>>().join(",");
    let quorum = Quorum {
        playground,
        masters,
    };
    let mut rows = Vec::new();
    for in_flight in [1_u32, 8, 32, 128] {
        say(&format!("masters: creates, {in_flight} in flight"));
        // The same time for each, about.
        let count = scale.creates * u64::from(in_flight.min(32)) / 32;
        let before = quorum.spent()?;
        let made = quorum.measure("create", count, in_flight, &[])?;
        let after = quorum.spent()?;
        let per_create = |spent: f64| spent / made.count as f64;
        let syncs = per_create((after.syncs - before.syncs) as f64);
        let processor = per_create(after.processor - before.processor) * 1e6;
        let what = format!(
            "creates with {in_flight} in flight; p99 {:.1} ms, {syncs:.2} fsyncs and {processor:.0} µs of processor \
             of three masters each",
            made.p99_us as f64 / 1e3
        );
        let rate = made.per_second;
        rows.push(match in_flight {
            32 => Row::least("masters-create", &what, Unit::PerS, rate, 12_000.0),
            _ => Row::figure("masters-create", &what, Unit::PerS, rate),
        });
    }
    for operation in ["lookup", "getattr"] {
        say(&format!("masters: {operation}"));
        let read = quorum.measure(operation, scale.lookups, 64, &[])?;
        let what = format!(
            "linearizable {operation}s, 64 in flight; p99 {:.1} ms",
            read.p99_us as f64 / 1e3
        );
        let name = if operation == "lookup" {
            "masters-lookup"
        } else {
            "masters-getattr"
        };
        rows.push(Row::least(
            name,
            &what,
            Unit::PerS,
            read.per_second,
            60_000.0,
        ));
        let spread = quorum.measure(operation, scale.lookups, 64, &["--spread-reads"])?;
        let what = format!("{operation}s of a voter drawn by lot, 64 in flight");
        rows.push(Row::figure(name, &what, Unit::PerS, spread.per_second));
    }
    say("masters: a large directory");
    let files = scale.directory;
    let prepared = format!("create:{files}");
    let listed = quorum.last(&format!("{prepared},list:3"), 128)?;
    let each = listed.seconds / listed.count.max(1) as f64;
    rows.push(Row::bound(
        "masters-list",
        &format!("whole list of {files} files"),
        Unit::Seconds,
        each,
        1.5 * files as f64 / 1e6,
    ));
    rows.push(Row::bound(
        "masters-list-first",
        "… its first entries",
        Unit::Milliseconds,
        listed.first_max_us as f64 / 1e3,
        10.0,
    ));
    let renamed = quorum.last(&format!("{prepared},rename-dir:20"), 128)?;
    rows.push(Row::figure(
        "masters-rename",
        &format!("rename of a directory with {files} files, at p99"),
        Unit::Milliseconds,
        renamed.p99_us as f64 / 1e3,
    ));
    quorum.playground.stop()?;
    Ok(rows)
}

impl Quorum {
    fn measure(
        &self,
        operation: &str,
        count: u64,
        in_flight: u32,
        more: &[&str],
    ) -> anyhow::Result<Measured> {
        let operations = format!("{operation}:{count}");
        let said = self.bench(&operations, in_flight, more)?;
        last(&said)
    }

    /// Several operations; what the last one came to.
    fn last(&self, operations: &str, in_flight: u32) -> anyhow::Result<Measured> {
        last(&self.bench(operations, in_flight, &[])?)
    }

    fn bench(&self, operations: &str, in_flight: u32, more: &[&str]) -> anyhow::Result<String> {
        Forebay::new("bench")?
            .args(["meta", "--json", "--master", &self.masters])
            .args(["--operations", operations])
            .args(["--in-flight", &in_flight.to_string()])
            .args(more)
            .output()
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        let mut all = Spent {
            processor: 0.0,
            syncs: 0,
        };
        for master in self.playground.role("master") {
            all.processor += processor(master.pid)?;
            all.syncs += syncs(master)?;
        }
        Ok(all)
    }
}

fn last(said: &str) -> anyhow::Result<Measured> {
    let line = said.lines().last().context("bench meta said nothing")?;
    let measured: Measured = serde_json::from_str(line)?;
    let failed = measured.errors.as_object().is_some_and(|e| !e.is_empty());
    ensure!(!failed, "operations failed: {}", measured.errors);
    Ok(measured)
}

/// Processor time of a process so far, in seconds.
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("a process without a name")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Fsyncs of a master's journal so far.
fn syncs(master: &Member) -> anyhow::Result<u64> {
    let (_, metrics) = crate::http::get(&master.http, "/metrics").context("no metrics")?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("forebay_master_raft_syncs_total "));
    Ok(line.context("no count of fsyncs")?.parse()?)
}
