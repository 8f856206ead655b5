//! What every [`Kv`] promises, as a suite that panics where a store does not keep it.
//!
//! Call [`run`] from a test of each implementation, once for each [`Durability`], and [`reopens`]
//! and [`checkpoints`] where the store can do so.

use crate::{Batch, Durability, Kv, Op, Read};
use std::{
    collections::BTreeMap,
    ops::{ControlFlow, Range},
    path::Path,
    sync::Arc,
};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Runs the suite; `make` gives an empty store at every call.
pub fn run(durability: Durability, make: &dyn Fn() -> Arc<dyn Kv>) {
    puts_gets_and_deletes(durability, &*make());
    scans_are_ordered_and_half_open(durability, &*make());
    batches_apply_in_order(durability, &*make());
    ranges_are_deleted_half_open(durability, &*make());
    snapshots_and_scans_stay_as_they_were(durability, &*make());
    batches_are_seen_whole(durability, &make());
    for seed in 1..=8 {
        behaves_like_a_map(durability, &*make(), seed);
    }
}

/// What was written and flushed is there when the store in `dir` is opened again.
pub fn reopens(durability: Durability, dir: &Path, open: &dyn Fn(&Path) -> Arc<dyn Kv>) {
    let mut model = BTreeMap::new();
    let mut random = Random(7);
    for round in 0..4 {
        let store = open(dir);
        assert_eq!(all(&*store), pairs(&model), "round {round}");
        for _ in 0..50 {
            let batch = random.batch();
            store.write(&batch, durability).expect("write");
            apply(&mut model, &batch);
        }
        store.flush().expect("flush");
    }
    assert_eq!(all(&*open(dir)), pairs(&model));
}

/// A checkpoint in `dir` (which must not exist) holds what was there when it was made, and later
/// writes to either do not reach the other.
pub fn checkpoints(
    durability: Durability,
    store: &dyn Kv,
    dir: &Path,
    open: &dyn Fn(&Path) -> Arc<dyn Kv>,
) {
    put(store, durability, b"a", b"1");
    put(store, durability, b"b", b"2");
    store.checkpoint(dir).expect("checkpoint");
    put(store, durability, b"a", b"3");
    let copy = open(dir);
    assert_eq!(all(&*copy), owned(&[(b"a", b"1"), (b"b", b"2")]));
    put(&*copy, durability, b"c", b"4");
    assert_eq!(all(store), owned(&[(b"a", b"3"), (b"b", b"2")]));
    assert!(
        store.checkpoint(dir).is_err(),
        "a checkpoint never overwrites"
    );
}

fn puts_gets_and_deletes(durability: Durability, store: &dyn Kv) {
    assert_eq!(store.get(b"k").expect("get"), None);
    put(store, durability, b"k", b"v");
    assert_eq!(store.get(b"k").expect("get"), Some(b"v".to_vec()));
    put(store, durability, b"k", b"");
    assert_eq!(
        store.get(b"k").expect("get"),
        Some(Vec::new()),
        "an empty value is a value"
    );
    put(store, durability, &[0, 0xff], b"binary");
    let keys = [
        vec![0, 0xff],
        b"absent".to_vec(),
        b"k".to_vec(),
        b"k".to_vec(),
    ];
    let values = store.multi_get(&keys).expect("multi_get");
    assert_eq!(
        values,
        [
            Some(b"binary".to_vec()),
            None,
            Some(Vec::new()),
            Some(Vec::new())
        ]
    );
    assert_eq!(
        store.snapshot().multi_get(&keys).expect("multi_get"),
        values
    );
    assert!(store.multi_get(&[]).expect("multi_get").is_empty());

    let mut batch = Batch::default();
    batch.delete(b"k".to_vec());
    batch.delete(b"never there".to_vec());
    store.write(&batch, durability).expect("write");
    assert_eq!(store.get(b"k").expect("get"), None);
    store
        .write(&Batch::default(), durability)
        .expect("an empty batch is written");
    store.flush().expect("flush");
    assert_eq!(
        store.get(&[0, 0xff]).expect("get"),
        Some(b"binary".to_vec())
    );
}

fn scans_are_ordered_and_half_open(durability: Durability, store: &dyn Kv) {
    for key in [&b"b"[..], b"a", b"ab", b"a\0", b"\xff", b"\xff\xff", b"c"] {
        put(store, durability, key, key);
    }
    let keys = |range: Range<&[u8]>| -> Vec<Vec<u8>> {
        let pairs = collect(store, range.clone());
        assert_eq!(visited(store, range.clone(), usize::MAX), pairs);
        assert_eq!(visited(store, range, 1), pairs[..pairs.len().min(1)]);
        pairs.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(b"a"..b"c"), [&b"a"[..], b"a\0", b"ab", b"b"]);
    assert_eq!(keys(b"a\0"..b"ab"), [b"a\0"]);
    assert_eq!(keys(b"aa"..b"ab"), Vec::<Vec<u8>>::new());
    assert_eq!(keys(b"c"..b"c"), Vec::<Vec<u8>>::new());
    assert_eq!(keys(b"c"..b"a"), Vec::<Vec<u8>>::new());
    assert_eq!(keys(b""..b"a"), Vec::<Vec<u8>>::new());
    assert_eq!(keys(b"d"..b"\xff\xff\xff"), [&b"\xff"[..], b"\xff\xff"]);
}

fn batches_apply_in_order(durability: Durability, store: &dyn Kv) {
    let mut batch = Batch::default();
    batch.put(b"a".to_vec(), b"1".to_vec());
    batch.delete(b"a".to_vec());
    batch.put(b"b".to_vec(), b"1".to_vec());
    batch.put(b"b".to_vec(), b"2".to_vec());
    batch.put(b"c".to_vec(), b"1".to_vec());
    batch.delete_range(b"b".to_vec()..b"d".to_vec());
    batch.put(b"c".to_vec(), b"2".to_vec());
    batch.delete(b"d".to_vec());
    batch.put(b"d".to_vec(), b"1".to_vec());
    store.write(&batch, durability).expect("write");
    assert_eq!(all(store), owned(&[(b"c", b"2"), (b"d", b"1")]));
}

fn ranges_are_deleted_half_open(durability: Durability, store: &dyn Kv) {
    let mut batch = Batch::default();
    for n in 0..1000_u16 {
        batch.put(n.to_be_bytes(), b"x".to_vec());
    }
    store.write(&batch, durability).expect("write");
    let key = |n: u16| n.to_be_bytes().to_vec();
    let mut batch = Batch::default();
    batch.delete_range(key(10)..key(900));
    batch.delete_range(key(950)..key(950));
    batch.delete_range(key(960)..key(955));
    store.write(&batch, durability).expect("write");
    store.flush().expect("flush");
    assert_eq!(all(store).len(), 110);
    assert_eq!(store.get(&key(9)).expect("get"), Some(b"x".to_vec()));
    assert_eq!(store.get(&key(10)).expect("get"), None);
    assert_eq!(store.get(&key(899)).expect("get"), None);
    assert_eq!(store.get(&key(900)).expect("get"), Some(b"x".to_vec()));
    put(store, durability, &key(10), b"again");
    assert_eq!(store.get(&key(10)).expect("get"), Some(b"again".to_vec()));
}

fn snapshots_and_scans_stay_as_they_were(durability: Durability, store: &dyn Kv) {
    put(store, durability, b"a", b"1");
    put(store, durability, b"b", b"1");
    let snapshot = store.snapshot();
    let mut scan = store.scan(b"a"..b"z");
    let mut batch = Batch::default();
    batch.put(b"a".to_vec(), b"2".to_vec());
    batch.delete_range(b"b".to_vec()..b"c".to_vec());
    batch.put(b"c".to_vec(), b"2".to_vec());
    store.write(&batch, durability).expect("write");
    store.flush().expect("flush");
    let before = owned(&[(b"a", b"1"), (b"b", b"1")]);
    assert_eq!(all(&*snapshot), before);
    assert_eq!(snapshot.get(b"b").expect("get"), Some(b"1".to_vec()));
    assert_eq!(scan.next().expect("a pair").expect("scan"), before[0]);
    assert_eq!(scan.next().expect("a pair").expect("scan"), before[1]);
    assert!(scan.next().is_none());
    assert_eq!(all(store), owned(&[(b"a", b"2"), (b"c", b"2")]));
}

/// A writer puts the same number under many keys in each batch; readers never see two numbers in
/// one snapshot or scan.
fn batches_are_seen_whole(durability: Durability, store: &Arc<dyn Kv>) {
    let batch_of = |n: u8| {
        let mut batch = Batch::default();
        for key in 0..50_u8 {
            batch.put(vec![key], vec![n]);
        }
        batch
    };
    store.write(&batch_of(0), durability).expect("write");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..100 {
                store.write(&batch_of(n), durability).expect("write");
            }
        });
        for _ in 0..100 {
            let snapshot = store.snapshot();
            let first = snapshot.get(&[0]).expect("get");
            for pairs in [all(&*snapshot), all(&**store)] {
                assert_eq!(pairs.len(), 50);
                assert!(
                    pairs.iter().all(|(_, value)| *value == pairs[0].1),
                    "a torn batch"
                );
            }
            assert_eq!(snapshot.get(&[49]).expect("get"), first);
        }
    });
}

fn behaves_like_a_map(durability: Durability, store: &dyn Kv, seed: u64) {
    let mut random = Random(seed);
    let mut model = BTreeMap::new();
    for round in 0..60 {
        let batch = random.batch();
        store.write(&batch, durability).expect("write");
        apply(&mut model, &batch);
        if random.below(8) == 0 {
            store.flush().expect("flush");
        }
        let context = || format!("seed {seed}, round {round}");
        assert_eq!(all(store), pairs(&model), "{}", context());
        let (a, b) = (random.key(), random.key());
        let expected: Pairs = if a < b {
            model
                .range(a.clone()..b.clone())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        } else {
            Vec::new()
        };
        assert_eq!(collect(store, &a..&b), expected, "{}", context());
        let visited = visited(&*store.snapshot(), &a..&b, usize::MAX);
        assert_eq!(visited, expected, "{}", context());
        assert_eq!(
            store.get(&a).expect("get"),
            model.get(&a).cloned(),
            "{}",
            context()
        );
        let keys = [a, b];
        let values = keys
            .iter()
            .map(|key| model.get(key).cloned())
            .collect::<Vec<_>>();
        assert_eq!(
            store.multi_get(&keys).expect("multi_get"),
            values,
            "{}",
            context()
        );
    }
}

fn apply(model: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: &Batch) {
    for op in &batch.ops {
        match op {
            Op::Put(key, value) => {
                model.insert(key.clone(), value.clone());
            }
            Op::Delete(key) => {
                model.remove(key);
            }
            Op::DeleteRange(range) => model.retain(|key, _| !range.contains(key)),
        }
    }
}

fn put(store: &dyn Kv, durability: Durability, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(key, value);
    store.write(&batch, durability).expect("write");
}

fn collect(store: &dyn Read, range: Range<&[u8]>) -> Pairs {
    store.scan(range).map(|pair| pair.expect("scan")).collect()
}

/// The first pairs of a range, at least one if there is any.
fn visited(store: &dyn Read, range: Range<&[u8]>, limit: usize) -> Pairs {
    let mut pairs = Pairs::new();
    let visitor = &mut |key: &[u8], value: &[u8]| {
        pairs.push((key.to_vec(), value.to_vec()));
        if pairs.len() < limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    store.visit(range, visitor).expect("visit");
    pairs
}

fn all(store: &dyn Read) -> Pairs {
    collect(store, b""..&[0xff; 9])
}

fn pairs(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> Pairs {
    model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn owned(pairs: &[(&[u8], &[u8])]) -> Pairs {
    pairs
        .iter()
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

/// splitmix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// Few and short, so that operations meet.
    fn key(&mut self) -> Vec<u8> {
        let length = 1 + self.below(3);
        (0..length).map(|_| self.below(4) as u8 * 85).collect()
    }

    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..self.below(8) {
            match self.below(8) {
                0 => batch.delete_range(self.key()..self.key()),
                1 | 2 => batch.delete(self.key()),
                _ => {
                    let length = self.below(4) * 20;
                    let value: Vec<u8> = (0..length).map(|_| self.below(256) as u8).collect();
                    batch.put(self.key(), value);
                }
            }
        }
        batch
    }
}
