//! The journal over a store in memory.

use super::*;
use forebay_kv::{MemKv, Read};
use raft::GetEntriesContext;

fn entry(index: u64, term: u64, len: usize) -> Entry {
    Entry {
        index,
        term,
        data: vec![index as u8; len],
        ..Entry::default()
    }
}

fn hard(term: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote: 1,
        commit,
    }
}

fn open(kv: &Arc<MemKv>) -> Result<Log, String> {
    Log::open(Arc::<MemKv>::clone(kv), &Bootstrap::found([1]))
        .map(|(log, _)| log)
        .map_err(|e| forebay_types::error::chain(&e))
}

fn write(kv: &MemKv, batch: &Batch) {
    kv.write(batch, Durability::Synced).unwrap();
}

fn indexes(log: &Log, range: Range<u64>, max: Option<u64>) -> Vec<(u64, u64)> {
    let entries = log.entries(
        range.start,
        range.end,
        max.unwrap_or(u64::MAX),
        GetEntriesContext::empty(false),
    );
    entries.unwrap().iter().map(|e| (e.index, e.term)).collect()
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let kv = Arc::new(MemKv::new());
    let mut log = open(&kv).unwrap();
    let entries = vec![entry(1, 1, 3), entry(2, 1, 3), entry(3, 4, 3)];
    write(&kv, &log.append(entries, Some(hard(4, 2)), true));
    for log in [log, open(&kv).unwrap()] {
        assert_eq!(indexes(&log, 1..4, None), [(1, 1), (2, 1), (3, 4)]);
        assert_eq!((log.last(), log.hard.commit), (3, 2));
        assert!(log.conf().is_alone(1));
        assert_eq!([0, 1, 2, 3].map(|i| log.term(i).unwrap()), [0, 1, 1, 4]);
        assert_eq!(log.start_of_last_term(4), Some(3));
        assert_eq!(log.start_of_last_term(5), None);
    }
}

#[test]
fn new_entries_replace_a_conflicting_tail() {
    let kv = Arc::new(MemKv::new());
    let mut log = open(&kv).unwrap();
    let entries = (1..=5).map(|i| entry(i, 1, 1)).collect();
    write(&kv, &log.append(entries, Some(hard(1, 1)), true));
    write(
        &kv,
        &log.append(vec![entry(3, 2, 1)], Some(hard(2, 1)), true),
    );
    for log in [log, open(&kv).unwrap()] {
        assert_eq!(indexes(&log, 1..4, None), [(1, 1), (2, 1), (3, 2)]);
        assert_eq!(log.last(), 3);
        assert!(log.term(4).is_err());
    }
}

#[test]
fn a_cut_removes_entries_and_keeps_the_term_of_the_last() {
    let kv = Arc::new(MemKv::new());
    let mut log = open(&kv).unwrap();
    let entries = vec![
        entry(1, 1, 1),
        entry(2, 1, 1),
        entry(3, 2, 1),
        entry(4, 2, 1),
    ];
    write(&kv, &log.append(entries, Some(hard(2, 4)), true));
    for (index, left) in [(2, vec![(3, 2), (4, 2)]), (3, vec![(4, 2)]), (4, vec![])] {
        write(&kv, &log.cut(index).unwrap());
        assert!(log.cut(index).is_none());
        for log in [&log, &open(&kv).unwrap()] {
            assert_eq!(log.first_index().unwrap(), index + 1);
            assert_eq!(log.term(index).unwrap(), if index == 2 { 1 } else { 2 });
            assert_eq!(indexes(log, index + 1..5, None), left);
            assert!(
                log.entries(index, 5, 0, GetEntriesContext::empty(false))
                    .is_err()
            );
            assert!(index == 4 || log.term(4).unwrap() == 2);
        }
        assert_eq!(kv.scan(b"e"..b"f").count(), left.len());
    }
    assert!(log.cut(5).is_none());
    write(
        &kv,
        &log.append(vec![entry(5, 3, 1)], Some(hard(3, 4)), true),
    );
    assert_eq!(indexes(&open(&kv).unwrap(), 5..6, None), [(5, 3)]);
}

#[test]
fn memory_is_bounded_and_evicted_entries_are_read_back() {
    let kv = Arc::new(MemKv::new());
    let mut log = open(&kv).unwrap();
    let big = 1 << 20;
    let entries: Vec<_> = (1..=40).map(|i| entry(i, 1, big)).collect();
    write(&kv, &log.append(entries, Some(hard(1, 40)), true));
    log.evict(30);
    assert_eq!(log.recent.front().map(|e| e.index), Some(26));
    log.evict(10);
    for log in [log, open(&kv).unwrap()] {
        assert!(log.recent_bytes <= RECENT_BYTES);
        let all: Vec<_> = (1..41).map(|i| (i, 1)).collect();
        assert_eq!(indexes(&log, 1..41, None), all);
        assert_eq!(indexes(&log, 3..41, Some(0)), [(3, 1)]);
        assert_eq!(indexes(&log, 24..41, Some(4 << 20)).len(), 3);
        assert!(log.take_fault().is_none());
    }
}

#[test]
fn unwritten_entries_stay_in_memory() {
    let kv = Arc::new(MemKv::new());
    let mut log = open(&kv).unwrap();
    let entries: Vec<_> = (1..=40).map(|i| entry(i, 1, 1 << 20)).collect();
    let _not_written = log.append(entries, Some(hard(1, 0)), true);
    log.evict(1);
    assert_eq!(indexes(&log, 1..41, None).len(), 40);
}

#[test]
fn damage_is_found_at_opening_or_reported_at_reading() {
    let kv = Arc::new(MemKv::new());
    let mut log = open(&kv).unwrap();
    let entries: Vec<_> = (1..=40).map(|i| entry(i, 1, 1 << 20)).collect();
    write(&kv, &log.append(entries, Some(hard(1, 40)), true));
    log.evict(u64::MAX);
    let mut hole = Batch::default();
    hole.delete(entry_key(5));
    write(&kv, &hole);
    assert_eq!(indexes(&log, 1..41, None), []);
    assert!(matches!(
        log.take_fault(),
        Some(forebay_kv::Error::Corrupt(_))
    ));
    assert!(open(&kv).err().unwrap().contains("entry 5 is missing"));

    let lost_tail = Arc::new(MemKv::new());
    let mut log = open(&lost_tail).unwrap();
    write(
        &lost_tail,
        &log.append(vec![entry(1, 1, 1)], Some(hard(1, 1)), true),
    );
    let mut cut = Batch::default();
    cut.delete(entry_key(1));
    write(&lost_tail, &cut);
    assert!(
        open(&lost_tail)
            .err()
            .unwrap()
            .contains("do not fit together")
    );
}
