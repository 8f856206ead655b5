//! The session table: a request takes effect exactly once, however often it is sent.

use crate::command::RequestId;
use crate::{
    Result,
    outcome::{Outcome, Reply},
    schema,
    txn::{Fault, Txn},
};
use forebay_types::{Code, SessionId};
use serde::{Deserialize, Serialize};

/// Most outcomes kept of one session; beyond, the oldest are forgotten and their requests, sent
/// again, are refused.
const MOST_OUTCOMES: u32 = 1024;
/// Most sessions that one command drops.
const EXPIRED_AT_ONCE: usize = 64;

/// A row of the session table.
#[derive(Serialize, Deserialize)]
struct SessionRow {
    /// For people.
    client: String,
    used_ns: i64,
    /// Outcomes of sequences below are forgotten.
    floor: u64,
    /// How many outcomes are kept.
    outcomes: u32,
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
    let used_ns = counters.now_ns;
    put(
        txn,
        id,
        &SessionRow {
            client: client.to_owned(),
            used_ns,
            floor: 0,
            outcomes: 0,
        },
    );
    Reply::Session(id)
}

/// Looks a request up.
pub(crate) fn admit(txn: &mut Txn, request: &RequestId) -> Result<Admission> {
    let RequestId {
        session, sequence, ..
    } = *request;
    let Some(mut row) = get(txn, session)? else {
        let reason = format!("session {session} is not known or expired: open a new one");
        return Ok(Admission::Answered(Outcome::refused(
            Code::NotFound,
            reason,
        )));
    };
    if let Some(bytes) = txn.kv.get(&schema::outcome(session, sequence))? {
        row.used_ns = txn.now_ns();
        put(txn, session, &row);
        return Ok(Admission::Answered(schema::decode(
            &bytes,
            "stored outcome",
        )?));
    }
    if sequence < row.floor {
        let reason = format!("the outcome of request {sequence} of session {session} is forgotten");
        return Ok(Admission::Answered(Outcome::refused(
            Code::InvalidArgument,
            reason,
        )));
    }
    Ok(Admission::First)
}

/// Keeps the outcome of a request that [`admit`] let in, and forgets acknowledged ones.
pub(crate) fn record(txn: &mut Txn, request: &RequestId, outcome: &Outcome) -> Result<()> {
    let RequestId {
        session,
        sequence,
        acknowledged,
    } = *request;
    let Some(mut row) = get(txn, session)? else {
        return Ok(());
    };
    row.used_ns = txn.now_ns();
    row.floor = row.floor.max(acknowledged.min(sequence));
    let kept = schema::outcomes(session);
    let kv = txn.kv;
    for pair in kv.scan(kept.start.as_slice()..kept.end.as_slice()) {
        let (key, _) = pair?;
        let old = schema::sequence_of(&key)?;
        if old >= row.floor && row.outcomes < MOST_OUTCOMES {
            break;
        }
        row.floor = row.floor.max(old + 1);
        row.outcomes -= 1;
        txn.batch.delete(key);
    }
    row.outcomes += 1;
    txn.batch
        .put(schema::outcome(session, sequence), schema::encode(outcome));
    put(txn, session, &row);
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
        rows += 1;
    }
    Ok(Reply::Reaped(rows))
}

fn get(txn: &Txn, session: SessionId) -> Result<Option<SessionRow>> {
    let value = txn.kv.get(&schema::session(session))?;
    value
        .map(|bytes| schema::decode(&bytes, "session"))
        .transpose()
}

fn put(txn: &mut Txn, session: SessionId, row: &SessionRow) {
    txn.batch.put(schema::session(session), schema::encode(row));
}
