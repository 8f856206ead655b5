//! What must hold at every step, whoever fails: seen from outside of all nodes at once.

use crate::log::Log;
use raft::{GetEntriesContext, Raft, Storage, eraftpb::Entry};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// What went wrong in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Shrinking keeps it.
    pub(crate) rule: &'static str,
    /// One line.
    pub(crate) what: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, what: impl Into<String>) -> Violation {
        Violation {
            rule,
            what: what.into(),
        }
    }
}

/// The result of a step.
pub(crate) type Step<T = ()> = Result<T, Violation>;

/// An entry that was committed somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chosen {
    term: u64,
    data: u64,
}

/// Entries that a node puts into its journal.
pub(crate) struct Appended {
    /// Term of the entry before them.
    before: u64,
    /// Index, term and data of each.
    entries: Vec<(u64, u64, u64)>,
}

impl Appended {
    pub(crate) fn new(entries: &[Entry], raft: &Raft<Log>) -> Appended {
        let before = entries.first().map(|entry| entry.index - 1);
        let places = entries
            .iter()
            .map(|entry| (entry.index, entry.term, xxh3_64(&entry.data)));
        Appended {
            before: before.map_or(0, |index| raft.store().term(index).unwrap_or(0)),
            entries: places.collect(),
        }
    }

    /// All that a node finds in its journal: a crash may have kept what was not synced.
    pub(crate) fn found(raft: &Raft<Log>) -> Appended {
        let log = raft.store();
        let all = log.cut_index() + 1..log.last() + 1;
        let entries = if all.is_empty() {
            Vec::new()
        } else {
            let context = GetEntriesContext::empty(false);
            log.entries(all.start, all.end, u64::MAX, context)
                .expect("the journal was whole when it was opened")
        };
        Appended::new(&entries, raft)
    }
}

/// Everything seen so far.
#[derive(Default)]
pub(crate) struct Invariants {
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// Entry 1 and those after it.
    chosen: Vec<Chosen>,
    /// In which term each was first known to be committed.
    chosen_in: Vec<u64>,
    /// By index and term: the term of the entry before, and the data.
    entries: BTreeMap<(u64, u64), (u64, u64)>,
    /// By index: what applying it did.
    effects: BTreeMap<u64, u64>,
    /// By index: the state after it.
    states: BTreeMap<u64, u64>,
}

impl Invariants {
    /// Election safety, and leader completeness: a leader has everything that was committed.
    pub(crate) fn leads(&mut self, id: u64, raft: &Raft<Log>) -> Step {
        let term = raft.term;
        let first = *self.leaders.entry(term).or_insert(id);
        if first != id {
            let what = format!("{first} and {id} both lead in term {term}");
            return Err(Violation::new("election safety", what));
        }
        // In earlier terms: an old leader need not know what a new one commits.
        let Some(at) = self.chosen_in.iter().rposition(|known| *known < term) else {
            return Ok(());
        };
        let (index, chosen) = (at as u64 + 1, self.chosen[at]);
        let cut = raft.store().cut_index();
        if index > cut && raft.raft_log.term(index).ok() != Some(chosen.term) {
            let what = format!("{id} leads in term {term} without the committed entry {index}");
            return Err(Violation::new("leader completeness", what));
        }
        Ok(())
    }

    /// Log matching: entries of one index and term are the same, and so is all before them. Once
    /// they are on a disk: a lone voter may lose a whole term that nobody heard of.
    pub(crate) fn persisted(&mut self, id: u64, appended: &Appended) -> Step {
        let mut before = appended.before;
        for &(index, term, data) in &appended.entries {
            let this = (before, data);
            if *self.entries.entry((index, term)).or_insert(this) != this {
                let what = format!("{id} has another entry {index} of term {term}");
                return Err(Violation::new("log matching", what));
            }
            before = term;
        }
        Ok(())
    }

    /// State machine safety: what was committed at an index never changes. `term` is that of the
    /// node.
    pub(crate) fn committed(&mut self, id: u64, term: u64, entry: &Entry) -> Step {
        let this = Chosen {
            term: entry.term,
            data: xxh3_64(&entry.data),
        };
        let index = entry.index as usize;
        if !self.entries.contains_key(&(entry.index, entry.term)) {
            let what = format!("{id} commits entry {index}, which nobody has on disk");
            return Err(Violation::new("log matching", what));
        }
        if index == self.chosen.len() + 1 {
            self.chosen.push(this);
            self.chosen_in.push(term);
        }
        if index == 0 || self.chosen.get(index - 1) != Some(&this) {
            let what = format!("{id} commits another entry {index}, of term {}", entry.term);
            return Err(Violation::new("committed entries stay", what));
        }
        Ok(())
    }

    /// Every replica does the same at the same index.
    pub(crate) fn applied(&mut self, id: u64, index: u64, effect: u64) -> Step {
        if *self.effects.entry(index).or_insert(effect) != effect {
            let what = format!("{id} does something else at {index} than the first to apply it");
            return Err(Violation::new("replicas agree", what));
        }
        Ok(())
    }

    /// The whole state after an index is the same wherever it is looked at.
    pub(crate) fn state(&mut self, id: u64, index: u64, checksum: u64) -> Step {
        if *self.states.entry(index).or_insert(checksum) != checksum {
            let what = format!("{id} has another state after {index} than the first seen");
            return Err(Violation::new("replicas agree", what));
        }
        Ok(())
    }

    /// How many entries were committed.
    pub(crate) fn chosen(&self) -> u64 {
        self.chosen.len() as u64
    }

    /// How many terms had a leader.
    pub(crate) fn reigns(&self) -> u64 {
        self.leaders.len() as u64
    }
}
