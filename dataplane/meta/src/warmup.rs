//! The table of warm-ups: what is to be brought into the cache, and how the last run of each ended. Carrying
//! them out is the leader's work; what it needs after a restart is here.

use crate::{
    Meta, Result,
    outcome::Reply,
    schema,
    txn::{Fault, Txn, refused},
};
use bytes::Bytes;
use forebay_types::Code;
use serde::{Deserialize, Serialize};

/// Most warm-ups of a cluster.
const MOST: usize = 10_000;
/// Most bytes of a name, and of what tells its runs apart.
const LONGEST_NAME: usize = 256;
/// Most former settings whose pins are still to be let go.
const MOST_LEFT: usize = 8;

/// Which files go where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmupSpec {
    /// Where in the tree it begins.
    pub path: Bytes,
    /// Globs on the path relative to `path`; empty: everything.
    pub include: Vec<String>,
    /// Only files modified within so many seconds before the run began; 0: however old.
    pub newer_than_s: u64,
    /// On so many workers; 0: on all of them.
    pub copies: u32,
    /// Whether the files stay in the cache.
    pub pin: bool,
    /// Most bytes a second from the under stores; 0: no limit.
    pub bandwidth: u64,
}

impl WarmupSpec {
    /// Whether the two want the same files.
    fn same_files(&self, other: &WarmupSpec) -> bool {
        self.path == other.path && self.include == other.include
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmupEnd {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Its files.
    pub files_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Files that are whole wherever they should be.
    pub files_done: u64,
    /// Their bytes.
    pub bytes_done: u64,
    /// Files that could not be brought.
    pub files_failed: u64,
    /// The first of them, with the reasons.
    pub failures: Vec<(Bytes, String)>,
    /// How many workers there were.
    pub workers: u32,
}

/// A warm-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmup {
    /// Tells this run from others of the same name.
    pub run: String,
    /// What is wanted.
    pub spec: WarmupSpec,
    /// When the run began, nanoseconds since the Unix epoch.
    pub started_ns: i64,
    /// `None`: it is going on.
    pub end: Option<WarmupEnd>,
    /// Former settings of this name, whose pins are to be let go before the run begins.
    pub left: Vec<WarmupSpec>,
    /// It is to be forgotten as soon as its pins are let go.
    pub removed: bool,
}

impl Warmup {
    /// Whether it may hold pins.
    fn holds(&self) -> bool {
        self.spec.pin || !self.left.is_empty()
    }
}

/// Begins a run, unless it is the last one of that name already.
pub(crate) fn start(
    txn: &mut Txn,
    name: &str,
    run: &str,
    spec: &WarmupSpec,
) -> Result<Reply, Fault> {
    for (what, text) in [("name", name), ("run", run)] {
        if text.is_empty() || text.len() > LONGEST_NAME {
            let text = format!("{what} of a warm-up: 1 to {LONGEST_NAME} bytes");
            return refused(Code::InvalidArgument, text);
        }
    }
    let former = get(txn, name)?;
    let mut left = Vec::new();
    match former {
        Some(former) if former.run == run && !former.removed => return Ok(Reply::Done),
        Some(former) => {
            let pinned = former.spec.pin.then_some(former.spec);
            for old in former.left.into_iter().chain(pinned) {
                let again = spec.pin && old.same_files(spec);
                if !again && !left.iter().any(|spec: &WarmupSpec| spec.same_files(&old)) {
                    left.push(old);
                }
            }
            if left.len() > MOST_LEFT {
                let text = format!(
                    "warm-up {name} was changed {MOST_LEFT} times without a run that ended: wait for one, or remove it"
                );
                return refused(Code::Unavailable, text);
            }
        }
        None => {
            let rows = schema::warmups();
            let rows = txn.kv.scan(rows.start.as_slice()..rows.end.as_slice());
            if rows.count() >= MOST {
                let text = format!("{MOST} warm-ups are the most: remove some");
                return refused(Code::NoSpace, text);
            }
        }
    }
    let warmup = Warmup {
        run: run.to_owned(),
        spec: spec.clone(),
        started_ns: txn.now_ns(),
        end: None,
        left,
        removed: false,
    };
    put(txn, name, &warmup);
    Ok(Reply::Done)
}

/// The run has ended; nothing if another one has begun.
pub(crate) fn end(txn: &mut Txn, name: &str, run: &str, end: &WarmupEnd) -> Result<Reply, Fault> {
    if let Some(mut warmup) = get(txn, name)?
        && warmup.run == run
        && !warmup.removed
    {
        warmup.end = Some(end.clone());
        warmup.left.clear();
        put(txn, name, &warmup);
    }
    Ok(Reply::Done)
}

/// The warm-up is to go: at once if it holds no pins or they are let go, else it is marked.
pub(crate) fn remove(txn: &mut Txn, name: &str, let_go: bool) -> Result<Reply, Fault> {
    if let Some(mut warmup) = get(txn, name)? {
        if let_go && !warmup.removed {
            // Meanwhile it was started again.
            return Ok(Reply::Done);
        }
        if let_go || !warmup.holds() {
            txn.batch.delete(schema::warmup(name));
        } else {
            warmup.removed = true;
            put(txn, name, &warmup);
        }
    }
    Ok(Reply::Done)
}

fn get(txn: &Txn, name: &str) -> Result<Option<Warmup>> {
    let row = txn.kv.get(&schema::warmup(name))?;
    row.map(|row| schema::decode(&row, "warm-up")).transpose()
}

fn put(txn: &mut Txn, name: &str, warmup: &Warmup) {
    txn.batch.put(schema::warmup(name), schema::encode(warmup));
}

impl Meta {
    /// All warm-ups by their names.
    pub fn warmups(&self) -> Result<Vec<(String, Warmup)>> {
        let rows = schema::warmups();
        let rows = self.kv.scan(rows.start.as_slice()..rows.end.as_slice());
        rows.map(|row| {
            let (key, value) = row?;
            Ok((schema::warmup_of(&key)?, schema::decode(&value, "warm-up")?))
        })
        .collect()
    }
}
