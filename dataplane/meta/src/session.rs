//! The session table: a request takes effect exactly once, however often it is sent.
//!
//! Sessions in use are also in memory, with the numbers of the outcomes kept: a new request costs
//! no read.

use crate::command::RequestId;
use crate::{
    Result,
    outcome::{Outcome, Reply},
    schema,
    txn::{Fault, Txn},
};
use forebay_kv::{Batch, Kv};
use forebay_types::{Code, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, btree_map::Entry};

/// Most outcomes kept of one session; beyond, the oldest are forgotten and their requests, sent
/// again, are refused.
const MOST_OUTCOMES: usize = 1024;
/// Most sessions that one command drops.
const EXPIRED_AT_ONCE: usize = 64;
/// Most sessions in memory between batches.
const MOST_IN_MEMORY: usize = 4096;

/// A row of the session table.
#[derive(Serialize, Deserialize)]
struct SessionRow {
    /// For people.
    client: String,
    used_ns: i64,
    /// Outcomes of sequences below are forgotten.
    floor: u64,
}

/// Sessions in use.
#[derive(Default)]
pub(crate) struct Sessions {
    known: BTreeMap<SessionId, Session>,
    /// Those whose rows differ from the store.
    changed: Vec<SessionId>,
}

struct Session {
    row: SessionRow,
    /// Sequences whose outcomes are kept; the bytes of those that are not in the store yet.
    kept: BTreeMap<u64, Option<Vec<u8>>>,
    /// Sequences that were added, perhaps forgotten since.
    added: Vec<u64>,
    /// Sequences whose rows are to be deleted.
    forgotten: Vec<u64>,
    /// The row differs from the store.
    changed: bool,
}

impl Session {
    fn new(row: SessionRow) -> Session {
        Session {
            row,
            kept: BTreeMap::new(),
            added: Vec::new(),
            forgotten: Vec::new(),
            changed: false,
        }
    }

    /// Forgets outcomes below the floor, and the oldest while there are too many.
    fn trim(&mut self) {
        while let Some(oldest) = self.kept.first_entry() {
            let sequence = *oldest.key();
            if sequence >= self.row.floor && self.kept.len() < MOST_OUTCOMES {
                break;
            }
            if let Some((sequence, None)) = self.kept.pop_first() {
                self.forgotten.push(sequence);
            }
            self.row.floor = self.row.floor.max(sequence + 1);
        }
    }
}

impl Sessions {
    fn get(&mut self, kv: &dyn Kv, id: SessionId) -> Result<Option<&Session>> {
        if let Entry::Vacant(place) = self.known.entry(id) {
            let Some(bytes) = kv.get(&schema::session(id))? else {
                return Ok(None);
            };
            let mut session = Session::new(schema::decode(&bytes, "session")?);
            // Below the floor there are only the tombstones of what was forgotten.
            let start = schema::outcome(id, session.row.floor);
            let end = schema::outcomes(id).end;
            for pair in kv.scan(start.as_slice()..end.as_slice()) {
                let sequence = schema::sequence_of(&pair?.0)?;
                session.kept.insert(sequence, None);
            }
            place.insert(session);
        }
        Ok(self.known.get(&id))
    }

    /// A session of which [`Sessions::get`] has just been told was used.
    fn used(&mut self, id: SessionId, now_ns: i64) -> &mut Session {
        let session = self.known.get_mut(&id).expect("it was just there");
        session.row.used_ns = now_ns;
        if !std::mem::replace(&mut session.changed, true) {
            self.changed.push(id);
        }
        session
    }

    /// Puts what changed into the batch.
    pub(crate) fn put(&mut self, batch: &mut Batch) {
        for id in self.changed.drain(..) {
            let Some(session) = self.known.get_mut(&id) else {
                continue;
            };
            session.changed = false;
            batch.put(schema::session(id), schema::encode(&session.row));
            for sequence in session.forgotten.drain(..) {
                batch.delete(schema::outcome(id, sequence));
            }
            for sequence in session.added.drain(..) {
                if let Some(bytes) = session.kept.get_mut(&sequence).and_then(Option::take) {
                    batch.put(schema::outcome(id, sequence), bytes);
                }
            }
        }
        if self.known.len() > MOST_IN_MEMORY {
            self.known.clear();
        }
    }
}

/// What is to be done with a request.
pub(crate) enum Admission {
    /// It is new.
    First,
    /// It was answered before, or cannot be.
    Answered(Outcome),
}

/// Opens a session.
pub(crate) fn open(txn: &mut Txn, client: &str) -> Reply {
    let counters = &mut txn.state.counters;
    let id = SessionId(counters.next_session);
    counters.next_session += 1;
    let row = SessionRow {
        client: client.to_owned(),
        used_ns: counters.now_ns,
        floor: 0,
    };
    txn.batch.put(schema::session(id), schema::encode(&row));
    Reply::Session(id)
}

/// Looks a request up.
pub(crate) fn admit(txn: &mut Txn, request: &RequestId) -> Result<Admission> {
    let RequestId {
        session: id,
        sequence,
        ..
    } = *request;
    let now_ns = txn.now_ns();
    let answered = |code, reason| Ok(Admission::Answered(Outcome::refused(code, reason)));
    let Some(session) = txn.sessions.get(txn.kv, id)? else {
        let reason = format!("session {id} is not known or expired: open a new one");
        return answered(Code::Stale, reason);
    };
    if let Some(kept) = session.kept.get(&sequence) {
        let outcome = match kept {
            Some(bytes) => schema::decode(bytes, "outcome")?,
            None => stored(txn.kv, id, sequence)?,
        };
        txn.sessions.used(id, now_ns);
        return Ok(Admission::Answered(outcome));
    }
    if sequence < session.row.floor {
        let reason = format!("the outcome of request {sequence} of session {id} is forgotten");
        return answered(Code::InvalidArgument, reason);
    }
    Ok(Admission::First)
}

fn stored(kv: &dyn Kv, id: SessionId, sequence: u64) -> Result<Outcome> {
    let bytes = kv.get(&schema::outcome(id, sequence))?;
    let bytes = bytes.ok_or_else(|| {
        crate::Error::Damaged(format!("outcome {sequence} of session {id} is missing"))
    })?;
    schema::decode(&bytes, "stored outcome")
}

/// Keeps the outcome of a request that [`admit`] let in, and forgets acknowledged ones.
pub(crate) fn record(txn: &mut Txn, request: &RequestId, outcome: &Outcome) -> Result<()> {
    let RequestId {
        session,
        sequence,
        acknowledged,
    } = *request;
    let now_ns = txn.now_ns();
    // Its own request may have ended it.
    if txn.sessions.get(txn.kv, session)?.is_none() {
        return Ok(());
    }
    let session = txn.sessions.used(session, now_ns);
    session.row.floor = session.row.floor.max(acknowledged.min(sequence));
    session.trim();
    session.kept.insert(sequence, Some(schema::encode(outcome)));
    session.added.push(sequence);
    Ok(())
}

/// Drops sessions that were last used before a time, a number of them at once.
pub(crate) fn expire(txn: &mut Txn, unused_since_ns: i64) -> Result<Reply, Fault> {
    let mut expired = Vec::new();
    let range = schema::sessions();
    let kv = txn.kv;
    for pair in kv.scan(range.start.as_slice()..range.end.as_slice()) {
        let (key, value) = pair?;
        let row: SessionRow = schema::decode(&value, "session")?;
        if row.used_ns < unused_since_ns {
            expired.push(schema::session_of(&key)?);
        }
        if expired.len() == EXPIRED_AT_ONCE {
            break;
        }
    }
    let mut rows = 0;
    for session in expired {
        let kept = schema::outcomes(session);
        for pair in kv.scan(kept.start.as_slice()..kept.end.as_slice()) {
            txn.batch.delete(pair?.0);
            rows += 1;
        }
        txn.batch.delete(schema::session(session));
        txn.sessions.known.remove(&session);
        rows += 1;
    }
    Ok(Reply::Reaped(rows))
}
