//! A journal that no node has open: to look at, or to begin one behind a state that is there already.

use crate::{
    Bootstrap, Fatal,
    conf::Conf,
    log::{self, Cut},
    wire::Wire,
};
use bytes::Bytes;
use forebay_kv::{Durability, Kv};
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, HardState};

/// The term that a journal begins with behind a state.
const FIRST_TERM: u64 = 1;

/// An entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// What it says.
    pub content: Content,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: how a leader begins its term.
    Empty,
    /// A command for the state machine.
    Command(Bytes),
    /// Who joins, counts, or leaves; for people.
    Membership(String),
}

/// The entries in `kv` from `index` on, in order. Those behind the commit index may yet be replaced.
pub fn records(kv: &dyn Kv, index: u64) -> impl Iterator<Item = Result<Record, Fatal>> {
    let keys = log::entry_keys(index..u64::MAX);
    let pairs = kv.scan(&keys.start..&keys.end);
    pairs.map(|pair| {
        let broken = |e| Fatal::caused("cannot read the journal", e);
        let (_, value) = pair.map_err(broken)?;
        let entry = Entry::from_bytes(&value)
            .map_err(|e| Fatal::caused("the journal is damaged: unreadable entry", e))?;
        record(entry)
    })
}

fn record(entry: Entry) -> Result<Record, Fatal> {
    let content = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => Content::Empty,
        EntryType::EntryNormal => Content::Command(entry.data.into()),
        _ => Content::Membership(membership(&entry.data)?),
    };
    Ok(Record {
        index: entry.index,
        term: entry.term,
        content,
    })
}

fn membership(bytes: &[u8]) -> Result<String, Fatal> {
    let change = ConfChangeV2::from_bytes(bytes)
        .map_err(|e| Fatal::caused("the journal is damaged: unreadable change of members", e))?;
    let singles = change.changes.iter().map(|single| {
        let what = single.get_change_type();
        format!("{what:?} {}", single.node_id)
    });
    Ok(singles.collect::<Vec<_>>().join(", "))
}

/// Begins a journal in the empty `kv`: of a new group whose only member is `id`, and whose state has
/// everything up to `index` already. Others join it.
pub fn begin_behind(kv: &dyn Kv, id: u64, context: Bytes, index: u64) -> Result<(), Fatal> {
    let broken = |e| Fatal::caused("cannot write the journal", e);
    if kv.scan(b"".as_slice()..b"\xff".as_slice()).next().is_some() {
        return Err(Fatal::new(
            "there is a journal already: give an empty directory",
        ));
    }
    let conf = Conf::begin(&Bootstrap::Found([(id, context)].into()));
    let hard = HardState {
        term: FIRST_TERM,
        commit: index,
        ..HardState::default()
    };
    let cut = Cut {
        index,
        term: FIRST_TERM,
    };
    let batch = log::first_batch(&conf, &hard, cut);
    kv.write(&batch, Durability::Synced).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Log;
    use forebay_kv::MemKv;
    use std::sync::Arc;

    #[test]
    fn a_journal_begins_behind_a_state_and_only_where_there_is_none() {
        let kv = Arc::new(MemKv::new());
        begin_behind(&*kv, 3, Bytes::from_static(b"here"), 77).unwrap();
        let (log, install) = Log::open(kv.clone(), &Bootstrap::Join).unwrap();
        assert!(install.is_none());
        assert_eq!((log.cut_index(), log.last()), (77, 77));
        assert!(log.conf().is_only_voter(3));
        assert_eq!(records(&*kv, 0).count(), 0);
        let again = begin_behind(&*kv, 3, Bytes::new(), 77).unwrap_err();
        assert!(again.message.contains("already"), "{again}");
    }

    #[test]
    fn entries_are_told_apart() {
        let kv = MemKv::new();
        let entry = |index, kind, data: Vec<u8>| {
            let mut entry = Entry {
                index,
                term: 2,
                data,
                ..Entry::default()
            };
            entry.set_entry_type(kind);
            entry
        };
        let change = crate::conf::Change::Remove(5).to_raft();
        let entries = [
            entry(4, EntryType::EntryNormal, Vec::new()),
            entry(5, EntryType::EntryNormal, b"x".to_vec()),
            entry(6, EntryType::EntryConfChangeV2, change.to_bytes()),
        ];
        let mut batch = forebay_kv::Batch::default();
        for entry in &entries {
            let key = log::entry_keys(entry.index..entry.index).start;
            batch.put(key, entry.to_bytes());
        }
        kv.write(&batch, Durability::Synced).unwrap();
        let read: Vec<_> = records(&kv, 5).map(Result::unwrap).collect();
        let content: Vec<_> = read.iter().map(|r| (r.index, &r.content)).collect();
        assert_eq!(
            content,
            [
                (5, &Content::Command(Bytes::from_static(b"x"))),
                (6, &Content::Membership("RemoveNode 5".to_owned())),
            ]
        );
    }
}
