//! The benchmark: a native directory against the mount of `forebay local` on the same disk.
//!
//! Every figure is taken on both sides in turn, native first, and repeated; what counts is the
//! median of the ratios. The S3 server is a process of its own with its objects in memory, so it
//! shares the processors with what is measured, and nothing else.

mod bare;
mod cached;
mod cold;
mod masters;
mod memory;
mod op;
mod scale;
mod stage;
mod table;

pub use scale::{Group, Scale};
pub use table::{Outcome, Row};

use std::path::Path;

/// Runs the groups and returns their rows; `say` is told what is going on.
pub fn run(groups: &[Group], scale: &Scale, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let chosen = |group: Group| groups.is_empty() || groups.contains(&group);
    let cached: Vec<Group> = Group::CACHED.into_iter().filter(|g| chosen(*g)).collect();
    if !cached.is_empty() {
        rows.extend(cached::run(&cached, scale, say)?);
    }
    if chosen(Group::FirstRead) || chosen(Group::Amplification) {
        rows.extend(cold::reads(
            chosen(Group::FirstRead),
            chosen(Group::Amplification),
            scale,
            say,
        )?);
    }
    if chosen(Group::Load) {
        rows.extend(cold::load(scale, say)?);
    }
    if chosen(Group::Memory) {
        rows.extend(memory::run(scale, say)?);
    }
    if chosen(Group::Masters) {
        rows.extend(masters::run(scale, say)?);
    }
    Ok(rows)
}

/// Prints the rows as a table and writes them to `json`.
pub fn publish(rows: &[Row], scale: &Scale, json: &Path) -> anyhow::Result<()> {
    table::print(rows);
    table::write_json(rows, scale, json)
}
