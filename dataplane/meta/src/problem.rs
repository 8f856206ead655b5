//! Keys that a file system cannot show: recorded by directory, counted by mount.

use crate::{
    Result,
    command::{Problem, ProblemReason},
    outcome::Reply,
    schema,
    txn::{Fault, Txn, refused},
};
use bytes::Bytes;
use forebay_kv::Read;
use forebay_types::{Code, FileKind, Ino, MountId, Name};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Most rows of one mount; problems beyond are only counted.
const MOST_ROWS: u64 = 10_000;

/// A problem's row.
#[derive(Serialize, Deserialize)]
struct ProblemRow {
    mount: MountId,
    reason: ProblemReason,
}

/// How many problems a mount has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// With a row.
    recorded: u64,
    /// Without.
    beyond: u64,
}

/// Replaces the problems of the directory with the key `prefix`.
pub(crate) fn record(
    txn: &mut Txn,
    mount: MountId,
    prefix: &Bytes,
    problems: &[Problem],
) -> Result<Reply, Fault> {
    let Some(dir) = directory(txn, mount, prefix)? else {
        let prefix = String::from_utf8_lossy(prefix);
        return refused(
            Code::NotFound,
            format!("mount {mount} has no directory '{prefix}'"),
        );
    };
    let wanted: BTreeMap<&Bytes, ProblemReason> = problems
        .iter()
        .map(|problem| (&problem.key, problem.reason))
        .collect();
    let there: BTreeMap<Bytes, ProblemReason> = in_directory(txn.kv, dir)?
        .into_iter()
        .map(|(key, row)| (key, row.reason))
        .collect();
    let beyond_before = beyond(txn.kv, dir)?;
    let mut totals = txn.state.problems.get(&mount).copied().unwrap_or_default();
    totals.recorded -= there.len() as u64;
    totals.beyond -= beyond_before;
    let room = MOST_ROWS.saturating_sub(totals.recorded) as usize;
    let recorded: BTreeMap<_, _> = wanted.iter().take(room).map(|(k, v)| (*k, *v)).collect();
    for key in there.keys().filter(|key| !recorded.contains_key(key)) {
        txn.batch.delete(schema::problem(dir, key));
    }
    for (key, reason) in &recorded {
        if there.get(*key) != Some(reason) {
            let row = ProblemRow {
                mount,
                reason: *reason,
            };
            txn.batch
                .put(schema::problem(dir, key), schema::encode(&row));
        }
    }
    let beyond_after = (wanted.len() - recorded.len()) as u64;
    if beyond_after != beyond_before {
        put_beyond(txn, dir, beyond_after);
    }
    totals.recorded += recorded.len() as u64;
    totals.beyond += beyond_after;
    put_totals(txn, mount, totals);
    Ok(Reply::Done)
}

/// Drops the problems of a directory that is deleted.
pub(crate) fn forget_directory(txn: &mut Txn, dir: Ino, mount: Option<MountId>) -> Result<()> {
    let rows = in_directory(txn.kv, dir)?;
    let beyond = beyond(txn.kv, dir)?;
    if rows.is_empty() && beyond == 0 {
        return Ok(());
    }
    for (key, _) in &rows {
        txn.batch.delete(schema::problem(dir, key));
    }
    put_beyond(txn, dir, 0);
    // The totals of a mount go with it, perhaps long before its directories.
    if let Some(mount) = mount.filter(|mount| txn.state.mounts.get(*mount).is_some()) {
        let mut totals = txn.state.problems.get(&mount).copied().unwrap_or_default();
        totals.recorded -= rows.len() as u64;
        totals.beyond -= beyond;
        put_totals(txn, mount, totals);
    }
    Ok(())
}

/// Drops the totals of a mount that is gone; its rows go when its directories are reaped.
pub(crate) fn forget_mount(txn: &mut Txn, mount: MountId) {
    put_totals(txn, mount, Totals::default());
}

/// The totals of all mounts, for the memory of apply.
pub(crate) fn load_totals(reader: &dyn Read) -> Result<BTreeMap<MountId, Totals>> {
    let range = schema::all_problem_totals();
    let rows = reader.scan(range.start.as_slice()..range.end.as_slice());
    rows.map(|row| {
        let (key, value) = row?;
        Ok((
            schema::mount_of(&key)?,
            schema::decode(&value, "totals of problems")?,
        ))
    })
    .collect()
}

/// Up to `limit` problems of mounts that are there, and how many they have in all.
pub(crate) fn list(reader: &dyn Read, limit: usize) -> Result<(Vec<(MountId, Problem)>, u64)> {
    let totals = load_totals(reader)?;
    let mut problems = Vec::new();
    let range = schema::problems();
    for row in reader.scan(range.start.as_slice()..range.end.as_slice()) {
        if problems.len() >= limit {
            break;
        }
        let (key, value) = row?;
        let ProblemRow { mount, reason } = schema::decode(&value, "problem")?;
        if totals.contains_key(&mount) {
            problems.push((
                mount,
                Problem {
                    key: schema::into_problem_key(key),
                    reason,
                },
            ));
        }
    }
    Ok((
        problems,
        totals
            .values()
            .map(|totals| totals.recorded + totals.beyond)
            .sum(),
    ))
}

fn in_directory(reader: &dyn Read, dir: Ino) -> Result<Vec<(Bytes, ProblemRow)>> {
    let range = schema::problems_in(dir);
    let rows = reader.scan(range.start.as_slice()..range.end.as_slice());
    rows.map(|row| {
        let (key, value) = row?;
        Ok((
            schema::into_problem_key(key),
            schema::decode(&value, "problem")?,
        ))
    })
    .collect()
}

/// Problems of a directory that have no row.
fn beyond(reader: &dyn Read, dir: Ino) -> Result<u64> {
    let value = reader.get(&schema::problems_beyond(dir))?;
    value.map_or(Ok(0), |bytes| schema::decode(&bytes, "count of problems"))
}

fn put_beyond(txn: &mut Txn, dir: Ino, beyond: u64) {
    let key = schema::problems_beyond(dir);
    match beyond {
        0 => txn.batch.delete(key),
        _ => txn.batch.put(key, schema::encode(&beyond)),
    }
}

/// Totals of nothing have no row.
fn put_totals(txn: &mut Txn, mount: MountId, totals: Totals) {
    let key = schema::problem_totals(mount);
    let before = if totals == Totals::default() {
        Arc::make_mut(&mut txn.state.problems).remove(&mount)
    } else {
        Arc::make_mut(&mut txn.state.problems).insert(mount, totals)
    };
    match txn.state.problems.get(&mount) {
        Some(_) if before == Some(totals) => {}
        Some(_) => txn.batch.put(key, schema::encode(&totals)),
        None if before.is_some() => txn.batch.delete(key),
        None => {}
    }
}

/// The directory that shows the keys with a prefix.
fn directory(txn: &Txn, mount: MountId, prefix: &Bytes) -> Result<Option<Ino>> {
    let Some(row) = txn.state.mounts.get(mount) else {
        return Ok(None);
    };
    let mut at = txn.state.counters.inner(row.dir);
    for segment in prefix.split_inclusive(|byte| *byte == b'/') {
        let segment = segment.strip_suffix(b"/").unwrap_or(segment);
        let Ok(name) = Name::new(prefix.slice_ref(segment)) else {
            return Ok(None);
        };
        match txn.edge(at, &name)? {
            Some(edge) if edge.kind == FileKind::Directory => at = edge.ino,
            _ => return Ok(None),
        }
    }
    Ok(Some(at))
}
