//! The journal: entries, hard state and configuration of one node in a [`Kv`].
//!
//! Memory holds the terms of all entries (as runs), every entry that is not yet on disk, and the
//! newest of the others up to a bound. Changes come back as a [`Batch`] for the caller to write;
//! batches must reach the disk in the order in which they were made.

use crate::{
    Bootstrap, Fatal,
    conf::Conf,
    extent::Extent,
    snapshot::{Manifest, SnapshotFile},
    wire::Wire,
};
use forebay_kv::{Batch, Durability, Kv};
use raft::{
    Storage,
    eraftpb::{Entry, EntryType, HardState},
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
    sync::Arc,
};

mod storage;

/// Bytes of recent entries kept in memory, for apply and for followers close behind.
const RECENT_BYTES: usize = 16 << 20;

const HARD: &[u8] = b"hard";
const CONF: &[u8] = b"conf";
const CUT: &[u8] = b"cut";
/// The manifest of a snapshot that the state machine may not have taken over yet. The batch that
/// writes it is the moment at which the node goes from the old state to the new one.
const INSTALL: &[u8] = b"install";
const ENTRY: u8 = b'e';

fn entry_key(index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(ENTRY);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

pub(crate) fn entry_keys(indexes: Range<u64>) -> Range<Vec<u8>> {
    entry_key(indexes.start)..entry_key(indexes.end)
}

/// What an entry costs in memory, and about what it costs in the journal.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 64
}

/// The last index that was cut off, and its term; `0, 0` in a whole journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl Cut {
    fn to_bytes(self) -> Vec<u8> {
        [self.index.to_be_bytes(), self.term.to_be_bytes()].concat()
    }
}

/// The journal of one node.
pub(crate) struct Log {
    kv: Arc<dyn Kv>,
    cut: Cut,
    /// Last index; the cut's if there are no entries.
    last: u64,
    /// `(first index, term)` of each run of entries of one term, ascending.
    runs: Vec<(u64, u64)>,
    /// The newest entries, contiguous up to `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    hard: HardState,
    /// The hard state in memory is newer than what was put into a batch.
    hard_changed: bool,
    /// The configuration, and former ones as far as a snapshot may need them; ascending, never
    /// empty.
    confs: VecDeque<Conf>,
    /// Indexes of the entries that change the configuration.
    changes: VecDeque<u64>,
    extent: Extent,
    /// The snapshot that can be sent.
    snapshot: Option<Manifest>,
    /// A follower needs a snapshot, and there is none that serves.
    snapshot_wanted: Cell<bool>,
    /// A failed read. The library panics on storage errors, so it is given nothing instead, and
    /// the node looks here before it acts on anything.
    fault: RefCell<Option<forebay_kv::Error>>,
}

impl Log {
    /// Opens the journal in `kv`, or begins one, and checks that it is whole. The second value: a
    /// snapshot that the journal continues, and that the state machine may not have.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        bootstrap: &Bootstrap,
    ) -> Result<(Log, Option<Manifest>), Fatal> {
        let broken = |e| Fatal::caused("cannot read the journal", e);
        let hard = kv.get(HARD).map_err(broken)?;
        let conf = kv.get(CONF).map_err(broken)?;
        let cut = kv.get(CUT).map_err(broken)?;
        let install = kv.get(INSTALL).map_err(broken)?;
        let install = install
            .map(|bytes| Manifest::from_bytes(&bytes))
            .transpose()?;
        let mut log = Log {
            kv,
            cut: Cut { index: 0, term: 0 },
            last: 0,
            runs: Vec::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            hard: decode("hard state", hard)?.unwrap_or_default(),
            hard_changed: false,
            confs: VecDeque::new(),
            changes: VecDeque::new(),
            extent: Extent::default(),
            snapshot: None,
            snapshot_wanted: Cell::new(false),
            fault: RefCell::new(None),
        };
        if let Some(bytes) = cut {
            let (index, term) = bytes
                .split_first_chunk()
                .and_then(|(index, rest)| Some((index, rest.try_into().ok()?)))
                .ok_or_else(|| damaged("cut mark of a wrong length"))?;
            log.cut = Cut {
                index: u64::from_be_bytes(*index),
                term: u64::from_be_bytes(term),
            };
        }
        log.last = log.cut.index;
        log.load()?;
        if let Some(bytes) = conf {
            let conf = postcard::from_bytes(&bytes).map_err(|e| {
                Fatal::caused("the journal is damaged: unreadable configuration", e)
            })?;
            log.confs.push_back(conf);
        } else {
            log.begin(bootstrap)?;
        }
        // Hard states are written with the entries of their term, and commit only what is there.
        if log.hard.term < log.last_term() || log.hard.commit > log.last {
            return Err(damaged("hard state and entries do not fit together"));
        }
        Ok((log, install))
    }

    /// Writes the first configuration. A node that waits to join writes none: what it knows of
    /// the group comes with the first snapshot.
    fn begin(&mut self, bootstrap: &Bootstrap) -> Result<(), Fatal> {
        let conf = Conf::begin(bootstrap);
        if self.last > 0 || !conf.is_empty() && self.hard != HardState::default() {
            return Err(damaged("no configuration"));
        }
        if !conf.is_empty() {
            let mut batch = Batch::default();
            batch.put(CONF, conf_bytes(&conf));
            self.kv
                .write(&batch, Durability::Synced)
                .map_err(|e| Fatal::caused("cannot begin a journal", e))?;
        }
        self.confs.push_back(conf);
        Ok(())
    }

    /// Reads all entries once: the terms, the newest, and whether any is missing.
    fn load(&mut self) -> Result<(), Fatal> {
        let kv = Arc::clone(&self.kv);
        let keys = entry_keys(self.cut.index + 1..u64::MAX);
        for pair in kv.scan(&keys.start..&keys.end) {
            let (key, value) = pair.map_err(|e| Fatal::caused("cannot read the journal", e))?;
            let entry: Entry = decode("entry", Some(value))?.expect("given bytes");
            let expected = self.last + 1;
            if key != entry_key(expected) || entry.index != expected {
                return Err(damaged(&format!("entry {expected} is missing")));
            }
            if entry.term < self.last_term() || entry.term == 0 {
                return Err(damaged(&format!("entry {expected} has an impossible term")));
            }
            self.push(entry);
            self.evict(u64::MAX);
        }
        Ok(())
    }

    /// Takes in entries (which replace those from their first index on) and a hard state. Changes
    /// of the hard state alone are put into the batch only if `must_sync`: the commit index is a
    /// hint that the next entries carry along.
    pub(crate) fn append(
        &mut self,
        entries: Vec<Entry>,
        hard: Option<HardState>,
        must_sync: bool,
    ) -> Batch {
        let mut batch = Batch::default();
        if let Some(hard) = hard {
            self.hard = hard;
            self.hard_changed = true;
        }
        if let Some(first) = entries.first().map(|entry| entry.index) {
            let old_last = self.last;
            self.truncate(first);
            for entry in entries {
                batch.put(entry_key(entry.index), entry.to_bytes());
                self.push(entry);
            }
            if old_last > self.last {
                batch.delete_range(entry_keys(self.last + 1..old_last + 1));
            }
        }
        if must_sync && self.hard_changed {
            batch.put(HARD, self.hard.to_bytes());
            self.hard_changed = false;
        }
        batch
    }

    /// Forgets, in memory, the entries from `first` on.
    fn truncate(&mut self, first: u64) {
        assert!(
            first > self.cut.index && first <= self.last + 1,
            "entries from {first} on do not fit a journal of {}..={}",
            self.cut.index + 1,
            self.last
        );
        while self.runs.last().is_some_and(|(start, _)| *start >= first) {
            self.runs.pop();
        }
        while self.recent.back().is_some_and(|entry| entry.index >= first) {
            let entry = self.recent.pop_back().expect("just seen");
            self.recent_bytes -= entry_bytes(&entry);
        }
        while self.changes.pop_back_if(|index| *index >= first).is_some() {}
        self.extent.truncate(first);
        self.last = first - 1;
    }

    fn push(&mut self, entry: Entry) {
        if self.runs.last().is_none_or(|(_, term)| *term != entry.term) {
            self.runs.push((entry.index, entry.term));
        }
        if entry.get_entry_type() != EntryType::EntryNormal {
            self.changes.push_back(entry.index);
        }
        self.last = entry.index;
        self.extent.push(entry.index, entry_bytes(&entry) as u64);
        self.recent_bytes += entry_bytes(&entry);
        self.recent.push_back(entry);
    }

    /// Frees memory over the bound; entries from `unwritten` on are not on disk and stay.
    pub(crate) fn evict(&mut self, unwritten: u64) {
        while self.recent_bytes > RECENT_BYTES
            && self
                .recent
                .front()
                .is_some_and(|entry| entry.index < unwritten)
        {
            let entry = self.recent.pop_front().expect("just seen");
            self.recent_bytes -= entry_bytes(&entry);
        }
    }

    /// Cuts off the entries up to `index`, if there are any; the batch removes them from disk.
    pub(crate) fn cut(&mut self, index: u64) -> Option<Batch> {
        if index <= self.cut.index || index > self.last {
            return None;
        }
        let term = self
            .term(index)
            .expect("an index of the journal has a term");
        let mut batch = Batch::default();
        batch.put(CUT, Cut { index, term }.to_bytes());
        batch.delete_range(entry_keys(self.cut.index + 1..index + 1));
        if index == self.last {
            self.runs.clear();
        } else {
            // The run that holds the first entry that stays now begins with it.
            let live = self.runs.partition_point(|(start, _)| *start <= index + 1) - 1;
            self.runs.drain(..live);
            self.runs[0].0 = self.runs[0].0.max(index + 1);
        }
        while self
            .recent
            .front()
            .is_some_and(|entry| entry.index <= index)
        {
            let entry = self.recent.pop_front().expect("just seen");
            self.recent_bytes -= entry_bytes(&entry);
        }
        while self
            .changes
            .pop_front_if(|change| *change <= index)
            .is_some()
        {}
        self.extent.cut(index);
        self.cut = Cut { index, term };
        Some(batch)
    }

    /// Begins anew after the snapshot: the batch removes all entries, and says that the state
    /// machine has to take the snapshot over.
    pub(crate) fn restore(&mut self, manifest: &Manifest) -> Batch {
        let mut batch = Batch::default();
        batch.delete_range(entry_keys(self.cut.index + 1..self.last + 1));
        self.cut = Cut {
            index: manifest.index,
            term: manifest.term,
        };
        self.last = manifest.index;
        self.runs.clear();
        self.recent.clear();
        self.recent_bytes = 0;
        self.changes.clear();
        self.extent = Extent::default();
        self.confs.clear();
        self.confs.push_back(manifest.conf.clone());
        self.snapshot = None;
        batch.put(CUT, self.cut.to_bytes());
        batch.put(CONF, conf_bytes(&manifest.conf));
        batch.put(INSTALL, manifest.to_bytes());
        batch
    }

    /// The state machine has taken over what [`Log::restore`] named.
    pub(crate) fn installed() -> Batch {
        let mut batch = Batch::default();
        batch.delete(INSTALL);
        batch
    }

    /// Bytes of the entries, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.extent.bytes()
    }

    /// The last index that can be cut off so that entries of `bytes` stay.
    pub(crate) fn cut_keeping(&self, bytes: u64) -> u64 {
        self.extent.cut_keeping(bytes)
    }

    /// The configuration.
    pub(crate) fn conf(&self) -> &Conf {
        self.confs.back().expect("never empty")
    }

    /// The configuration has changed; `applied` is the state machine's index, before which no
    /// snapshot will be taken.
    pub(crate) fn set_conf(&mut self, conf: Conf, applied: u64) -> Batch {
        let mut batch = Batch::default();
        batch.put(CONF, conf_bytes(&conf));
        self.confs.push_back(conf);
        while self.confs.get(1).is_some_and(|conf| conf.index <= applied) {
            self.confs.pop_front();
        }
        batch
    }

    /// Makes the snapshot available that was taken after `index`, if the journal continues it.
    pub(crate) fn offer(&mut self, id: String, index: u64, files: Vec<SnapshotFile>) -> bool {
        let conf = self.confs.iter().rfind(|conf| conf.index <= index);
        let (Some(conf), Ok(term)) = (conf, self.term(index)) else {
            return false;
        };
        self.snapshot = Some(Manifest {
            id,
            index,
            term,
            conf: conf.clone(),
            files,
        });
        true
    }

    /// The snapshot that was offered is gone.
    pub(crate) fn withdraw(&mut self) {
        self.snapshot = None;
    }

    /// Whether a follower has needed a snapshot since the last call that was not there.
    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// The last index that is not in the journal any more.
    pub(crate) fn cut_index(&self) -> u64 {
        self.cut.index
    }

    /// The last index.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Raises the commit index to `index`: known from elsewhere to be committed.
    pub(crate) fn committed_at_least(&mut self, index: u64) {
        self.hard.commit = self.hard.commit.max(index);
    }

    /// The first index of `term`, if the journal ends in that term.
    pub(crate) fn start_of_last_term(&self, term: u64) -> Option<u64> {
        self.runs
            .last()
            .filter(|(_, last)| *last == term)
            .map(|(start, _)| *start)
    }

    fn last_term(&self) -> u64 {
        self.runs.last().map_or(self.cut.term, |(_, term)| *term)
    }

    /// The read that failed, if one did: nothing that the library said since then counts.
    pub(crate) fn take_fault(&self) -> Option<forebay_kv::Error> {
        self.fault.take()
    }
}

/// What a journal begins with whose state is there already.
pub(crate) fn first_batch(conf: &Conf, hard: &HardState, cut: Cut) -> Batch {
    let mut batch = Batch::default();
    batch.put(CONF, conf_bytes(conf));
    batch.put(HARD, hard.to_bytes());
    batch.put(CUT, cut.to_bytes());
    batch
}

fn conf_bytes(conf: &Conf) -> Vec<u8> {
    postcard::to_allocvec(conf).expect("a configuration has no unserializable part")
}

fn decode<T: Wire>(what: &str, bytes: Option<Vec<u8>>) -> Result<Option<T>, Fatal> {
    bytes
        .map(|bytes| T::from_bytes(&bytes))
        .transpose()
        .map_err(|e| Fatal::caused(format!("the journal is damaged: unreadable {what}"), e))
}

fn damaged(what: &str) -> Fatal {
    Fatal::new(format!(
        "the journal is damaged: {what}; put back a copy of the master's directory, or empty it and let it join under a new id"
    ))
}

#[cfg(test)]
mod tests;
