//! Random operations against a model of what must be there.

use crate::fixture::{Fixture, MIB, check, fast, fill, id};
use forebay_cache::{CachedFile, Error, HomeRule, Lease, MountBytes, PolicyKind, Store};
use forebay_types::{FileId, Medium, MountId, page::page_count};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt,
    sync::Arc,
};

#[derive(Clone, Debug)]
enum Op {
    Fill(u64, u32, u32),
    Abandon(u64, u32),
    Get(u64),
    Lease(u64),
    Return(u64),
    Free(u64),
    Pin(u64, bool),
    Maintain,
    Reopen,
    /// Files whose numbers are divided by this have their first home here; 0: none has.
    Topology(u64),
    /// Reopen with a byte of this file changed.
    Damage(u64, u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let ino = 0u64..8;
    let page = 0u32..5;
    let op = prop_oneof![
        8 => (ino.clone(), page.clone(), 1u32..5).prop_map(|(f, p, n)| Op::Fill(f, p, n)),
        1 => (ino.clone(), page.clone()).prop_map(|(f, p)| Op::Abandon(f, p)),
        4 => ino.clone().prop_map(Op::Get),
        2 => ino.clone().prop_map(Op::Lease),
        2 => ino.clone().prop_map(Op::Return),
        1 => ino.clone().prop_map(Op::Free),
        2 => (ino.clone(), any::<bool>()).prop_map(|(f, on)| Op::Pin(f, on)),
        4 => Just(Op::Maintain),
        1 => Just(Op::Reopen),
        1 => (0u64..4).prop_map(Op::Topology),
        1 => (ino, page).prop_map(|(f, p)| Op::Damage(f, p)),
    ];
    prop::collection::vec(op, 1..40)
}

/// Sizes from nothing to several pages, none a multiple of a page but two.
fn size(ino: u64) -> u64 {
    [
        0,
        100,
        110_000,
        MIB,
        MIB + 1,
        2 * MIB,
        3 * MIB + 17,
        4 * MIB + 4097,
    ][ino as usize]
}

type Pages = BTreeMap<u64, BTreeSet<u32>>;

struct Run {
    fixture: Fixture,
    store: Option<Arc<Store>>,
    leases: BTreeMap<u64, Lease>,
    pinned: BTreeSet<u64>,
    /// As in [`Op::Topology`]; nothing is known after a reopen.
    homes: u64,
}

impl Run {
    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().unwrap()
    }

    fn file(&self, ino: u64) -> Option<Arc<CachedFile>> {
        let mount = MountId(1 + (ino % 2) as u32);
        let created = self.store().get_or_create(id(ino), mount, size(ino));
        match created {
            Ok(file) => Some(file),
            Err(Error::Busy(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn present(&self) -> Pages {
        let pages = |file: &Arc<CachedFile>| {
            let all = 0..page_count(file.size());
            let missing: BTreeSet<u32> = file.missing(all.clone()).into_iter().flatten().collect();
            all.filter(|page| !missing.contains(page)).collect()
        };
        self.store()
            .files()
            .iter()
            .map(|file| (file.id().ino.0, pages(file)))
            .collect()
    }

    fn reopen(&mut self) {
        self.leases.clear();
        self.store().maintain();
        let before: Pages = self.present();
        self.store = None;
        self.homes = 0;
        self.store = Some(self.fixture.open());
        let after = self.present();
        for (ino, pages) in before {
            let kept = after.get(&ino).cloned().unwrap_or_default();
            assert_eq!(kept, pages, "file {ino} across a reopen");
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Fill(ino, first, count) => {
                let pages = page_count(size(ino));
                let Some(file) = self.file(ino) else { return };
                let range = first.min(pages)..(first + count).min(pages);
                match fill(self.store(), &file, range.clone()) {
                    Ok(()) => assert!(file.missing(range).is_empty()),
                    Err(Error::NoSpace(_)) => assert!(self.store().needs_maintenance()),
                    Err(error) => panic!("{error}"),
                }
            }
            Op::Abandon(ino, page) => {
                let Some(file) = self.file(ino) else { return };
                if page < page_count(size(ino))
                    && let Ok(mut writer) = self.store().writer(&file, page, MIB)
                {
                    // Half of a page: the right bytes, as always.
                    let start = u64::from(page) * MIB;
                    let end = (start + MIB / 2).min(size(ino) - 1);
                    let bytes = crate::fixture::content(id(ino), start..end.max(start));
                    let _ = writer.write(&bytes);
                }
            }
            Op::Get(ino) => {
                if let Some(file) = self.store().get(id(ino)) {
                    check(self.store(), &file);
                }
            }
            Op::Lease(ino) => {
                if let Some(file) = self.file(ino) {
                    let lease = self.store().lease(&file);
                    self.leases.entry(ino).or_insert(lease);
                }
            }
            Op::Return(ino) => {
                self.leases.remove(&ino);
            }
            Op::Free(ino) => {
                self.store().free(id(ino));
                if !self.leases.contains_key(&ino) {
                    assert!(self.store().get(id(ino)).is_none());
                }
                self.pinned.remove(&ino);
            }
            Op::Pin(ino, on) => {
                if self.store().get(id(ino)).is_some() {
                    self.store().set_pinned(id(ino), on).unwrap();
                    if on {
                        self.pinned.insert(ino);
                    } else {
                        self.pinned.remove(&ino);
                    }
                }
            }
            Op::Maintain => {
                let before = self.present();
                self.store().maintain();
                let after = self.present();
                for (ino, pages) in &before {
                    if self.pinned.contains(ino) || self.leases.contains_key(ino) {
                        assert_eq!(after.get(ino), Some(pages), "file {ino} was kept");
                    }
                }
                if self.leases.is_empty() && self.pinned.is_empty() {
                    for tier in self.store().tiers() {
                        assert!(tier.used <= tier.quota * 9 / 10, "{tier:?}");
                    }
                }
            }
            Op::Reopen => self.reopen(),
            Op::Topology(divisor) => {
                let is_home = move |id: FileId| divisor > 0 && id.ino.0.is_multiple_of(divisor);
                let now: HomeRule = Arc::new(move |id, _| is_home(id));
                let before = std::mem::replace(&mut self.homes, divisor);
                // Told apart from nothing known only where something was.
                self.store().set_homes(now, move |id, _, was| {
                    assert!(!was || before > 0 && id.ino.0.is_multiple_of(before));
                    is_home(id)
                });
            }
            Op::Damage(ino, page) => {
                self.leases.clear();
                self.store().maintain();
                let present = self.present();
                let has = present.get(&ino).is_some_and(|pages| pages.contains(&page));
                self.store = None;
                self.homes = 0;
                for tier in 0..2 {
                    let path = self.fixture.path(tier, id(ino));
                    if has
                        && let Ok(raw) = std::fs::File::options().read(true).write(true).open(path)
                    {
                        let at = u64::from(page) * MIB;
                        let mut byte = [0];
                        raw.read_exact_at(&mut byte, at).unwrap();
                        raw.write_all_at(&[!byte[0]], at).unwrap();
                    }
                }
                self.store = Some(self.fixture.open());
                if let Some(file) = self.store().get(id(ino)) {
                    assert!(!check(self.store(), &file).contains(&page) || !has);
                }
                assert_eq!(self.store().counters().corrupt_pages, u64::from(has));
            }
        }
    }

    /// What is true at all times.
    fn invariants(&self) {
        let tiers = self.store().tiers();
        let files = self.store().files();
        for tier in &tiers {
            assert!(tier.used <= tier.quota, "{tier:?}");
            let here: Vec<_> = files
                .iter()
                .filter(|file| file.medium() == tier.medium)
                .collect();
            let sum: u64 = here.iter().map(|file| file.cached_bytes()).sum();
            assert_eq!(tier.used, sum);
            let count = here.iter().filter(|file| file.cached_bytes() > 0).count();
            assert_eq!(tier.files, count as u64);
        }
        let mut mounts = BTreeMap::<_, MountBytes>::new();
        for file in &files {
            let bytes = mounts.entry(file.mount()).or_default();
            bytes.cached += file.cached_bytes();
            if self.homes > 0 && file.id().ino.0.is_multiple_of(self.homes) {
                bytes.home += file.cached_bytes();
            }
        }
        let counted = |bytes: &MountBytes| bytes.cached > 0;
        mounts.retain(|_, bytes| counted(bytes));
        let mut told = self.store().mounts();
        told.retain(|_, bytes| counted(bytes) || bytes.home > 0);
        assert_eq!(told, mounts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn random_operations_keep_every_promise(
        policy in prop::sample::select(vec![PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::S3Fifo]),
        ops in ops(),
    ) {
        let mut fixture = Fixture::tiered(
            &fast(),
            &[(Medium::Mem, 4 * MIB), (Medium::Ssd, 6 * MIB)],
        );
        fixture.config.policy = policy;
        let store = Some(fixture.open());
        let mut run = Run { fixture, store, leases: BTreeMap::new(), pinned: BTreeSet::new(), homes: 0 };
        for op in &ops {
            run.step(op);
            run.invariants();
        }
        run.leases.clear();
        run.store().maintain();
        for file in run.store().files() {
            check(run.store(), &file);
        }
        for ino in 0..8 {
            run.store().free(id(ino));
        }
        prop_assert_eq!(run.fixture.rows(), 0);
        prop_assert!(run.store().tiers().iter().all(|tier| tier.used == 0 && tier.files == 0));
    }
}
