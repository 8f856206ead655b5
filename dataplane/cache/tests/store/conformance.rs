//! What a page store promises, on every kind of device.

use crate::fixture::{Fixture, MIB, bases, check, content, disk, fill, id, put};
use forebay_cache::{Error, PolicyKind, Store};
use forebay_kv::Kv;
use forebay_types::{Code, MountId};
use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Arc, atomic::Ordering::SeqCst},
};

/// Runs a test on each device.
fn everywhere(test: impl Fn(&std::path::Path)) {
    for base in bases() {
        test(&base);
    }
}

#[test]
fn a_filled_file_is_one_plain_file_with_its_bytes() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        let file = put(&store, id(0x1234), 2 * MIB + 5).unwrap();
        assert!(file.is_whole() && file.is_verified());
        assert_eq!(file.cached_bytes(), 2 * MIB + 5);
        let bytes = std::fs::read(fixture.path(0, id(0x1234))).unwrap();
        assert!(bytes == content(id(0x1234), 0..2 * MIB + 5));
        assert_eq!(store.tiers()[0].used, 2 * MIB + 5);
        assert_eq!(store.tiers()[0].files, 1);
    });
}

#[test]
fn a_page_is_present_when_its_last_byte_is_in() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        let file = store.get_or_create(id(1), MountId(1), 3 * MIB).unwrap();
        let bytes = content(id(1), MIB..3 * MIB);
        let mut writer = store.writer(&file, 1, 2 * MIB).unwrap();
        writer.write(&bytes[..MIB as usize - 1]).unwrap();
        assert_eq!(file.missing(0..3), [0..3]);
        writer
            .write(&bytes[MIB as usize - 1..MIB as usize + 9])
            .unwrap();
        assert_eq!(file.missing(0..3), [0..1, 2..3]);
        assert_eq!(file.missing(1..2), []);
        assert_eq!(writer.position(), 2 * MIB + 9);
        drop(writer);
        assert_eq!(file.missing(0..9), [0..1, 2..3], "half a page is none");
        fill(&store, &file, 0..3).unwrap();
        assert_eq!(check(&store, &file), [0, 1, 2]);
    });
}

#[test]
fn half_a_page_that_was_given_up_leaves_no_blocks() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        let file = store.get_or_create(id(1), MountId(1), 3 * MIB).unwrap();
        let bytes = content(id(1), 0..2 * MIB);
        let mut writer = store.writer(&file, 0, 2 * MIB).unwrap();
        writer.write(&bytes[..MIB as usize + 500_000]).unwrap();
        drop(writer);
        let raw = File::open(fixture.path(0, id(1))).unwrap();
        raw.sync_all().unwrap();
        assert!(raw.metadata().unwrap().blocks() * 512 <= MIB + 8192);
        assert_eq!(check(&store, &file), [0]);
    });
}

#[test]
fn an_empty_file_is_whole_at_once() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        let file = store.get_or_create(id(1), MountId(1), 0).unwrap();
        assert!(file.is_whole() && file.is_verified());
        assert_eq!(file.file().unwrap().metadata().unwrap().len(), 0);
    });
}

#[test]
fn a_write_past_the_end_is_refused() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = store.get_or_create(id(1), MountId(1), 10).unwrap();
    let mut writer = store.writer(&file, 0, 10).unwrap();
    let error = writer.write(&[0; 11]).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(file.is_whole());
}

#[test]
fn pages_survive_a_reopen_and_are_proven_before_use() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        put(&store, id(1), 3 * MIB + 1).unwrap();
        let part = store.get_or_create(id(2), MountId(1), 100 * MIB).unwrap();
        fill(&store, &part, 70..72).unwrap();
        drop((store, part));
        let store = fixture.open();
        let file = store.get(id(1)).unwrap();
        assert!(file.is_whole() && !file.is_verified());
        assert_eq!(check(&store, &file), [0, 1, 2, 3]);
        assert!(file.is_verified());
        let part = store.get(id(2)).unwrap();
        assert_eq!(part.missing(0..100), [0..70, 72..100]);
        store.verify(&part, 70..71).unwrap();
        assert!(!part.is_verified());
        assert_eq!(check(&store, &part), [70, 71]);
        assert_eq!(store.tiers()[0].used, 5 * MIB + 1);
        assert_eq!(store.counters().corrupt_pages, 0);
    });
}

#[test]
fn a_wrong_page_is_dropped_and_the_others_stay() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        put(&fixture.open(), id(1), 3 * MIB).unwrap();
        let raw = File::options()
            .write(true)
            .open(fixture.path(0, id(1)))
            .unwrap();
        raw.write_all_at(b"x", MIB + 77).unwrap();
        let store = fixture.open();
        let file = store.get(id(1)).unwrap();
        assert_eq!(check(&store, &file), [0, 2]);
        assert_eq!(store.counters().corrupt_pages, 1);
        assert_eq!(store.tiers()[0].used, 2 * MIB);
        fill(&store, &file, 1..2).unwrap();
        assert_eq!(check(&store, &file), [0, 1, 2]);
        drop((store, file));
        let store = fixture.open();
        assert_eq!(check(&store, &store.get(id(1)).unwrap()), [0, 1, 2]);
    });
}

#[test]
fn a_truncated_file_loses_its_tail_only() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        put(&fixture.open(), id(1), 3 * MIB).unwrap();
        let raw = File::options()
            .write(true)
            .open(fixture.path(0, id(1)))
            .unwrap();
        raw.set_len(MIB + 5).unwrap();
        let store = fixture.open();
        let file = store.get(id(1)).unwrap();
        store.verify(&file, 0..3).unwrap();
        assert_eq!(file.missing(0..3), [1..3]);
        assert_eq!(store.counters().corrupt_pages, 2);
        fill(&store, &file, 1..3).unwrap();
        assert_eq!(check(&store, &file), [0, 1, 2]);
    });
}

#[test]
fn files_without_rows_and_rows_without_files_are_dropped() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        for ino in 1..=3 {
            put(&store, id(ino), MIB).unwrap();
        }
        drop(store);
        std::fs::remove_file(fixture.path(0, id(1))).unwrap();
        std::fs::write(fixture.path(0, id(9)), "stray").unwrap();
        let stranger = fixture.config.tiers[0].dir.join("files/00/README");
        std::fs::write(&stranger, "not ours").unwrap();
        let store = fixture.open();
        assert!(store.get(id(1)).is_none());
        assert!(!fixture.path(0, id(9)).exists());
        assert!(stranger.exists());
        assert_eq!(check(&store, &store.get(id(2)).unwrap()), [0]);
        assert_eq!(store.tiers()[0].files, 2);
        assert_eq!(fixture.rows(), 4, "a row for each file and each page");
    });
}

#[test]
fn free_gives_the_space_back_and_a_descriptor_stays_readable() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 64 * MIB);
        let store = fixture.open();
        let file = put(&store, id(1), 2 * MIB).unwrap();
        let open = file.file().unwrap();
        assert_eq!(store.free(id(1)), 2 * MIB);
        assert_eq!(store.free(id(1)), 0);
        assert!(store.get(id(1)).is_none());
        assert!(!file.is_whole());
        assert!(!fixture.path(0, id(1)).exists());
        assert_eq!((store.tiers()[0].used, fixture.rows()), (0, 0));
        let mut bytes = vec![0; MIB as usize];
        open.read_exact_at(&mut bytes, MIB).unwrap();
        assert!(bytes == content(id(1), MIB..2 * MIB));
        let again = put(&store, id(1), 2 * MIB).unwrap();
        assert_eq!(check(&store, &again), [0, 1]);
    });
}

#[test]
fn free_waits_for_the_last_lease() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = put(&store, id(1), 2 * MIB).unwrap();
    let leases = [store.lease(&file), store.lease(&file)];
    assert_eq!(store.free(id(1)), 2 * MIB);
    let [first, last] = leases;
    drop(first);
    store.maintain();
    assert_eq!(check(&store, &file), [0, 1]);
    drop(last);
    assert!(store.needs_maintenance());
    store.maintain();
    assert!(store.get(id(1)).is_none());
    assert_eq!((store.tiers()[0].used, fixture.rows()), (0, 0));
}

#[test]
fn eviction_ends_below_the_low_watermark_and_spares_pinned_and_leased_files() {
    for policy in [PolicyKind::Lru, PolicyKind::Lfu, PolicyKind::S3Fifo] {
        everywhere(|base| {
            let mut fixture = Fixture::new(base, 10 * MIB);
            fixture.config.policy = policy;
            let store = fixture.open();
            for ino in 1..=9 {
                put(&store, id(ino), MIB).unwrap();
            }
            assert!(store.maintain().is_empty());
            assert_eq!(
                store.tiers()[0].used,
                9 * MIB,
                "not above the high watermark"
            );
            let leased = store.get(id(1)).unwrap();
            let lease = store.lease(&leased);
            store.set_pinned(id(2), true).unwrap();
            put(&store, id(10), MIB).unwrap();
            assert!(store.needs_maintenance());
            store.maintain();
            assert!(!store.needs_maintenance());
            assert_eq!(store.tiers()[0].used, 5 * MIB, "{policy:?}");
            assert_eq!(store.counters().evicted_pages, 5);
            assert_eq!(check(&store, &leased), [0]);
            assert_eq!(check(&store, &store.get(id(2)).unwrap()), [0]);
            assert_eq!(fixture.rows(), 11);
            drop(lease);
        });
    }
}

#[test]
fn leased_files_in_the_way_are_named() {
    let fixture = Fixture::new(&disk(), 4 * MIB);
    let store = fixture.open();
    let leases: Vec<_> = (1..=4)
        .map(|ino| store.lease(&put(&store, id(ino), MIB).unwrap()))
        .collect();
    let asked: BTreeSet<_> = store.maintain().into_iter().collect();
    assert_eq!(asked, (1..=4).map(id).collect());
    assert_eq!(store.tiers()[0].used, 4 * MIB);
    let file = store.get_or_create(id(5), MountId(1), MIB).unwrap();
    assert!(matches!(
        store.writer(&file, 0, MIB),
        Err(Error::NoSpace(_))
    ));
    drop(leases);
    store.maintain();
    assert_eq!(store.tiers()[0].used, 2 * MIB);
    fill(&store, &file, 0..1).unwrap();
}

#[test]
fn a_large_victim_loses_only_as_much_of_its_end_as_is_needed() {
    everywhere(|base| {
        let fixture = Fixture::new(base, 20 * MIB);
        let store = fixture.open();
        put(&store, id(1), 15 * MIB + 7).unwrap();
        put(&store, id(2), 4 * MIB).unwrap();
        let blocks = || fixture.path(0, id(1)).metadata().unwrap().blocks() * 512;
        let before = blocks();
        store.maintain();
        let file = store.get(id(1)).unwrap();
        assert_eq!(file.missing(0..16), [6..16]);
        assert_eq!(store.tiers()[0].used, 10 * MIB);
        assert!(before - blocks() >= 9 * MIB, "holes are punched");
        assert_eq!(check(&store, &file), [0, 1, 2, 3, 4, 5]);
        assert!(store.get(id(2)).unwrap().is_whole());
        drop((file, store));
        let store = fixture.open();
        assert_eq!(check(&store, &store.get(id(1)).unwrap()).len(), 6);
    });
}

#[test]
fn a_writer_without_room_is_refused_and_finds_some_after_maintenance() {
    let fixture = Fixture::new(&disk(), 10 * MIB);
    let store = fixture.open();
    for ino in 1..=8 {
        put(&store, id(ino), MIB).unwrap();
    }
    store.maintain();
    let file = store.get_or_create(id(9), MountId(1), 4 * MIB).unwrap();
    assert!(matches!(
        store.writer(&file, 0, 4 * MIB),
        Err(Error::NoSpace(_))
    ));
    assert!(store.needs_maintenance());
    store.maintain();
    fill(&store, &file, 0..4).unwrap();
    assert!(file.is_whole());
}

#[test]
fn parallel_fills_never_exceed_the_quota() {
    let fixture = Fixture::new(&disk(), 10 * MIB);
    let store = fixture.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..10 {
                    let _ = put(store, id(thread * 100 + n), MIB + n);
                    assert!(store.tiers()[0].used <= 10 * MIB);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                store.maintain();
            }
        });
    });
    let files = store.files();
    let sum: u64 = files.iter().map(|file| file.cached_bytes()).sum();
    assert_eq!(sum, store.tiers()[0].used);
    for file in files {
        check(&store, &file);
    }
}

#[test]
fn a_writer_given_up_gives_its_room_back() {
    let fixture = Fixture::new(&disk(), 4 * MIB);
    let store = fixture.open();
    let file = store.get_or_create(id(1), MountId(1), 4 * MIB).unwrap();
    for _ in 0..3 {
        let mut writer = store.writer(&file, 0, 4 * MIB).unwrap();
        writer.write(&[1; 100]).unwrap();
        assert!(matches!(store.writer(&file, 1, 1), Err(Error::NoSpace(1))));
    }
    fill(&store, &file, 0..4).unwrap();
    assert_eq!(check(&store, &file), [0, 1, 2, 3]);
}

#[test]
fn pins_survive_a_reopen() {
    let fixture = Fixture::new(&disk(), 4 * MIB);
    let store = fixture.open();
    assert!(matches!(
        store.set_pinned(id(1), true),
        Err(Error::Unknown(_))
    ));
    put(&store, id(1), 2 * MIB).unwrap();
    store.set_pinned(id(1), true).unwrap();
    store.get_or_create(id(2), MountId(1), MIB).unwrap();
    store.set_pinned(id(2), true).unwrap();
    drop(store);
    let store = fixture.open();
    assert!(store.get(id(2)).is_some(), "pinned before its first page");
    put(&store, id(3), 2 * MIB).unwrap();
    store.maintain();
    let file = store.get(id(1)).unwrap();
    assert!(file.is_pinned() && file.is_whole());
    store.set_pinned(id(1), false).unwrap();
    drop((store, file));
    let store = fixture.open();
    assert!(!store.get(id(1)).unwrap().is_pinned());
    store.free(id(1));
    store.free(id(2));
    store.free(id(3));
    assert_eq!(fixture.rows(), 0);
}

#[test]
fn files_of_other_mounts_are_dropped() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    for mount in 1..=3 {
        let file = store
            .get_or_create(id(mount), MountId(mount as u32), 10)
            .unwrap();
        fill(&store, &file, 0..1).unwrap();
    }
    drop(store);
    let store = fixture.open();
    store.retain_mounts(&[MountId(2), MountId(7)]);
    let left: Vec<_> = store.files().iter().map(|file| file.id()).collect();
    assert_eq!(left, [id(2)]);
}

#[test]
fn a_small_file_costs_one_index_write() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let before = fixture.kv.writes.load(SeqCst);
    put(&store, id(1), 110_000).unwrap();
    assert_eq!(fixture.kv.writes.load(SeqCst) - before, 1);
}

#[test]
fn a_broken_index_costs_pages_and_never_shows_one_too_many() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = put(&store, id(1), 2 * MIB).unwrap();
    fixture.kv.broken.store(true, SeqCst);
    let other = store.get_or_create(id(2), MountId(1), MIB).unwrap();
    assert!(matches!(fill(&store, &other, 0..1), Err(Error::Index(_))));
    assert_eq!(other.missing(0..1), [0..1]);
    assert_eq!(check(&store, &file), [0, 1]);
    store.free(id(1));
    assert!(store.get(id(1)).is_none());
    fixture.kv.broken.store(false, SeqCst);
    fill(&store, &other, 0..1).unwrap();
    drop((store, file, other));
    let store = fixture.open();
    assert!(store.get(id(1)).is_none());
    assert_eq!(check(&store, &store.get(id(2)).unwrap()), [0]);
    assert_eq!(fixture.rows(), 2);
}

#[test]
fn descriptors_are_open_only_while_somebody_holds_them() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let open = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|path| path.starts_with(fixture.dir.path().join("tier0/files/00")))
            .count()
    };
    let files: Vec<_> = (1..=200)
        .map(|ino| put(&store, id(ino << 8), 10).unwrap())
        .collect();
    assert_eq!(open(), 0);
    let held: Vec<_> = files[..5].iter().map(|file| file.file().unwrap()).collect();
    let shared = files[0].file().unwrap();
    assert_eq!(open(), 5);
    assert!(Arc::ptr_eq(&shared, &held[0]));
    drop((held, shared));
    assert_eq!(open(), 0);
}

#[test]
fn files_that_were_never_filled_do_not_pile_up() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    for ino in 0..6000 {
        store.get_or_create(id(ino), MountId(1), 10).unwrap();
    }
    assert!(store.needs_maintenance());
    store.maintain();
    assert_eq!(store.files().len(), 4096);
    assert!(store.get(id(5999)).is_some() && store.get(id(0)).is_none());
}

#[test]
fn settings_that_cannot_be_are_refused_with_the_remedy() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let open = |config| Store::open(config, Arc::clone(&fixture.kv) as Arc<dyn Kv>);
    let _first = fixture.open();
    let mut huge = Fixture::new(&disk(), 1 << 60).config;
    for (config, word) in [
        (fixture.config.clone(), "in use by another process"),
        (huge.clone(), "give it a smaller size"),
    ] {
        let error = open(config).err().unwrap();
        assert!(matches!(error, Error::Config(_)));
        assert!(error.to_string().contains(word), "{error}");
    }
    huge.tiers[0].dir = "/proc/nowhere".into();
    let error = open(huge).err().unwrap();
    assert_eq!(error.code(), Code::Unavailable);
}

#[test]
fn the_waker_is_called_once_for_each_need() {
    let fixture = Fixture::new(&disk(), 10 * MIB);
    let store = fixture.open();
    store.maintain();
    let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&calls);
    store.on_pressure(move || {
        seen.fetch_add(1, SeqCst);
    });
    for round in 1..=2 {
        for ino in 0..10 {
            let _ = put(&store, id(round * 100 + ino), MIB);
        }
        assert_eq!(calls.load(SeqCst), round);
        store.maintain();
    }
}
