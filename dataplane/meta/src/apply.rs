//! The single entry for changes.

use crate::{
    Error, Result,
    command::{Change, Command, Entry},
    entries, mount, orphan,
    outcome::{Outcome, Reply},
    pin, problem, schema, scratch,
    session::{self, Admission},
    txn::{Fault, Txn},
    warmup,
};
use forebay_types::Code;

/// Applies the commands of an entry within `txn`, which the caller then commits. In `txn` there
/// is either one command, or only small ones.
pub(crate) fn apply(txn: &mut Txn, entry: &Entry) -> Result<Vec<Outcome>> {
    txn.state.counters.applied = entry.index;
    let alone = entry.commands.len() == 1;
    let commands = entry.commands.iter();
    commands.map(|command| one(txn, command, alone)).collect()
}

fn one(txn: &mut Txn, command: &Command, alone: bool) -> Result<Outcome> {
    if !alone && !command.change.is_small() {
        let reason = "only small changes share an entry of the journal";
        return Ok(Outcome::refused(Code::InvalidArgument, reason));
    }
    let counters = &mut txn.state.counters;
    // Clocks of leaders differ; time in the state does not run backwards.
    counters.now_ns = counters.now_ns.max(command.now_ns);
    let Some(request) = &command.request else {
        return attempt(txn, &command.change);
    };
    match session::admit(txn, request)? {
        Admission::Answered(outcome) => Ok(outcome),
        Admission::First => {
            let outcome = attempt(txn, &command.change)?;
            session::record(txn, request, &outcome)?;
            Ok(outcome)
        }
    }
}

/// Makes the change whole, or refuses it and changes nothing.
fn attempt(txn: &mut Txn, change: &Change) -> Result<Outcome> {
    // Small ones are refused before they change anything; others are alone in the batch.
    let before = (!change.is_small()).then(|| txn.state.clone());
    match perform(txn, change) {
        Ok(reply) => Ok(Outcome {
            reply,
            invalidated: std::mem::take(&mut txn.invalidated),
        }),
        Err(Fault::Fatal(error)) => Err(error),
        Err(Fault::Refused { code, reason }) => {
            if let Some(before) = before {
                txn.clear();
                txn.state = before;
            }
            Ok(Outcome::refused(code, reason))
        }
    }
}

fn perform(txn: &mut Txn, change: &Change) -> Result<Reply, Fault> {
    let inner = |txn: &Txn, ino| txn.state.counters.inner(ino);
    match change {
        Change::InitCluster { cluster } => init_cluster(txn, cluster),
        Change::OpenSession { client } => Ok(session::open(txn, client)),
        Change::ExpireSessions { unused_since_ns } => session::expire(txn, *unused_since_ns),
        Change::Mount { spec, configured } => mount::mount(txn, spec, *configured),
        Change::Unmount { mount } => mount::unmount(txn, *mount),
        Change::UpsertEntries { parent, entries } => {
            entries::upsert(txn, inner(txn, *parent), entries)
        }
        Change::RemoveEntries { parent, names } => entries::remove(txn, inner(txn, *parent), names),
        Change::FinishSync { dir, started_ns } => {
            entries::finish_sync(txn, inner(txn, *dir), *started_ns)
        }
        Change::RecordProblems {
            mount,
            prefix,
            problems,
        } => problem::record(txn, *mount, prefix, problems),
        Change::SetPin { ino, pinned } => pin::set(txn, inner(txn, *ino), *pinned),
        Change::Reap { before_ns, limit } => orphan::reap(txn, *before_ns, *limit),
        Change::Create {
            parent,
            name,
            access,
        } => scratch::create(txn, inner(txn, *parent), name, *access),
        Change::Mkdir {
            parent,
            name,
            access,
        } => scratch::mkdir(txn, inner(txn, *parent), name, *access),
        Change::Rename {
            parent,
            name,
            new_parent,
            new_name,
            no_replace,
        } => scratch::rename(
            txn,
            (inner(txn, *parent), name),
            (inner(txn, *new_parent), new_name),
            *no_replace,
        ),
        Change::Remove { parent, name } => scratch::remove(txn, inner(txn, *parent), name),
        Change::RemoveDir { parent, name } => scratch::remove_dir(txn, inner(txn, *parent), name),
        Change::SetAttr { ino, set } => scratch::set_attr(txn, inner(txn, *ino), set),
        Change::StartWarmup { name, run, spec } => warmup::start(txn, name, run, spec),
        Change::EndWarmup { name, run, end } => warmup::end(txn, name, run, end),
        Change::RemoveWarmup { name, let_go } => warmup::remove(txn, name, *let_go),
    }
}

fn init_cluster(txn: &mut Txn, cluster: &str) -> Result<Reply, Fault> {
    let stored = txn
        .kv
        .get(&schema::cluster())?
        .map(String::from_utf8)
        .transpose();
    let stored =
        stored.map_err(|_| Error::Damaged("the cluster's identity is not UTF-8".to_owned()))?;
    let name = stored.unwrap_or_else(|| {
        txn.batch.put(schema::cluster(), cluster);
        cluster.to_owned()
    });
    Ok(Reply::Cluster(name))
}
