//! Keeps the store's knowledge of homes true while the topology changes.
//!
//! To compare each file with every worker would take seconds with a million files and a thousand
//! workers. But a file that had its first home here can only lose it to a worker that is new or has
//! grown, and one that had not can only get it from a worker that left or shrank.

use forebay_cache::{HomeRule, Store};
use forebay_client::{
    Topology,
    placement::{Candidate, is_first},
};
use forebay_types::{FileId, WorkerId};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Tells the store which files have their first home here, by the latest topology.
pub(crate) struct Homes {
    own: WorkerId,
    store: Arc<Store>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By which every file was judged.
    judged: Option<Arc<Field>>,
    /// By which they are to be.
    latest: Option<Arc<Field>>,
    /// Somebody is at it.
    busy: bool,
}

/// This worker and all others; by default nobody, as long as nothing is known.
#[derive(Debug, Default, PartialEq)]
struct Field {
    /// None: it does not count as live.
    own: Option<Candidate>,
    rivals: Vec<Candidate>,
}

impl Field {
    fn of(own: WorkerId, candidates: &[Candidate]) -> Field {
        let (mine, rivals): (Vec<_>, Vec<_>) =
            candidates.iter().cloned().partition(|c| c.id == own);
        Field {
            own: mine.into_iter().next(),
            rivals,
        }
    }

    fn has(&self, file: FileId, offset: u64) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| is_first(file, offset, own, &self.rivals))
    }

    /// The same by what was true of another field.
    fn change(self: &Arc<Self>, before: &Field) -> impl Fn(FileId, u64, bool) -> bool + use<> {
        let now = self.clone();
        let comparable = before.own == now.own;
        let capacities = |field: &Field| -> HashMap<WorkerId, u64> {
            let rivals = field.rivals.iter();
            rivals.map(|rival| (rival.id, rival.capacity)).collect()
        };
        let (old, new) = (capacities(before), capacities(&now));
        let less =
            |a: Option<&u64>, b: Option<&u64>| a.copied().unwrap_or(0) < b.copied().unwrap_or(0);
        let stronger = now.rivals.iter().filter(|rival| {
            less(old.get(&rival.id), Some(&rival.capacity)) || !old.contains_key(&rival.id)
        });
        let stronger: Vec<Candidate> = stronger.cloned().collect();
        let weaker = before.rivals.iter().filter(|rival| {
            let now = new.get(&rival.id);
            now.is_none() || less(now, Some(&rival.capacity))
        });
        let weaker: Vec<Candidate> = weaker.cloned().collect();
        move |file, offset, was| match &now.own {
            Some(own) if comparable && was => is_first(file, offset, own, &stronger),
            // Whoever was before us is none of these.
            Some(own) if comparable && is_first(file, offset, own, &weaker) => false,
            _ => now.has(file, offset),
        }
    }
}

impl Homes {
    /// Of this worker and its store; nothing is known yet.
    pub(crate) fn new(own: WorkerId, store: Arc<Store>) -> Homes {
        Homes {
            own,
            store,
            state: Mutex::default(),
        }
    }

    /// Goes by a topology from now on; soon, in the background.
    pub(crate) fn follow(self: &Arc<Self>, topology: &Topology) {
        let field = Field::of(self.own, topology.candidates());
        let mut state = self.state.lock();
        if state.latest.as_deref() == Some(&field) {
            return;
        }
        state.latest = Some(Arc::new(field));
        if !std::mem::replace(&mut state.busy, true) {
            let homes = self.clone();
            tokio::task::spawn_blocking(move || while homes.step() {});
        }
    }

    /// Judges every file by the latest topology; false if that is done already.
    fn step(&self) -> bool {
        let (judged, latest) = {
            let mut state = self.state.lock();
            let known = |a: &Arc<Field>, b: &Arc<Field>| Arc::ptr_eq(a, b);
            match (&state.judged, &state.latest) {
                (before, Some(latest)) if !before.as_ref().is_some_and(|b| known(b, latest)) => {
                    (before.clone(), latest.clone())
                }
                _ => {
                    state.busy = false;
                    return false;
                }
            }
        };
        let by_rule = latest.clone();
        let rule: HomeRule = Arc::new(move |file, offset| by_rule.has(file, offset));
        let before = judged.unwrap_or_default();
        self.store.set_homes(rule, latest.change(&before));
        self.state.lock().judged = Some(latest);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_cache::{PolicyKind, StoreConfig, TierConfig};
    use forebay_client::placement::homes;
    use forebay_kv::MemKv;
    use forebay_types::{ContentVersion, Ino, Medium, MountId};
    use proptest::prelude::*;

    const OWN: WorkerId = WorkerId(77);

    fn file(ino: u64) -> FileId {
        FileId {
            ino: Ino(ino),
            version: ContentVersion(1),
        }
    }

    fn field(workers: &[(u64, u64)]) -> (Arc<Field>, Vec<Candidate>) {
        let candidate = |(id, capacity): &(u64, u64)| Candidate {
            id: WorkerId(*id),
            capacity: *capacity,
        };
        let candidates: Vec<_> = workers.iter().map(candidate).collect();
        (Arc::new(Field::of(OWN, &candidates)), candidates)
    }

    fn any_workers() -> impl Strategy<Value = Vec<(u64, u64)>> {
        // The own one is among them more often than not.
        let one = (
            prop::sample::select(vec![1, 2, 3, 4, 77, 77, 77, 90]),
            0_u64..3,
        );
        prop::collection::btree_map(
            one.clone().prop_map(|(id, _)| id),
            one.prop_map(|(_, c)| c),
            1..6,
        )
        .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_changed_tells_as_much_as_a_look_at_everything(
            old in any_workers(),
            new in any_workers(),
        ) {
            let ((before, _), (now, candidates)) = (field(&old), field(&new));
            let change = now.change(&before);
            for ino in 0..50 {
                let first = candidates[homes(file(ino), 0, &candidates)[0]].id;
                prop_assert_eq!(now.has(file(ino), 0), first == OWN);
                let was = before.has(file(ino), 0);
                prop_assert_eq!(change(file(ino), 0, was), first == OWN, "{:?}", file(ino));
            }
        }
    }

    fn store(dir: &std::path::Path) -> Arc<Store> {
        let tier = TierConfig {
            medium: Medium::Mem,
            dir: dir.to_owned(),
            quota: 1 << 20,
        };
        let config = StoreConfig {
            tiers: vec![tier],
            policy: PolicyKind::Lru,
            high_watermark: 0.9,
            low_watermark: 0.5,
        };
        Store::open(config, Arc::new(MemKv::new())).unwrap()
    }

    /// `cargo test --release -p forebay-worker -- --ignored --nocapture a_million_files`
    #[test]
    #[ignore = "a measurement"]
    fn a_million_files_are_judged() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for ino in 0..1_000_000 {
            store.get_or_create(file(ino), MountId(1), 100_000).unwrap();
        }
        let judge = |text: &str, workers: &[(u64, u64)], homes: &Homes| {
            homes.state.lock().latest = Some(field(workers).0);
            let begun = std::time::Instant::now();
            while homes.step() {}
            eprintln!("{:5} workers, {text}: {:?}", workers.len(), begun.elapsed());
        };
        for count in [10, 1000] {
            // A cache that holds what its worker is home of has more of those than by chance.
            for share in [1, count / 2] {
                let homes = Homes::new(OWN, store.clone());
                let mut workers: Vec<_> = (100..100 + count - 1).map(|id| (id, 10)).collect();
                workers.push((OWN.0, 10 * share));
                judge(&format!("weight {share}, the first time"), &workers, &homes);
                workers.push((99, 10));
                judge("one more", &workers, &homes);
                workers.pop();
                judge("one fewer", &workers, &homes);
            }
        }
        let begun = std::time::Instant::now();
        assert_eq!(store.mounts().len(), 0);
        eprintln!("what a heartbeat tells: {:?}", begun.elapsed());
    }
}
