//! Several tiers: admission, demotion, promotion.

use crate::fixture::{Fixture, MIB, check, disk, fill, id, put};
use forebay_types::{Medium, MountId};
use std::path::PathBuf;

fn two() -> Fixture {
    Fixture::tiered(
        &disk(),
        &[(Medium::Mem, 10 * MIB), (Medium::Ssd, 100 * MIB)],
    )
}

#[test]
fn small_files_start_fast_and_large_ones_lower() {
    let fixture = two();
    let store = fixture.open();
    assert_eq!(put(&store, id(1), MIB).unwrap().medium(), Medium::Mem);
    assert_eq!(put(&store, id(2), 2 * MIB).unwrap().medium(), Medium::Ssd);
}

#[test]
fn a_new_file_goes_lower_when_the_fast_tier_has_no_room_left() {
    let fixture = two();
    let store = fixture.open();
    let late = store.get_or_create(id(99), MountId(1), MIB).unwrap();
    assert_eq!(late.medium(), Medium::Mem);
    for ino in 1..=10 {
        put(&store, id(ino), MIB).unwrap();
    }
    fill(&store, &late, 0..1).unwrap();
    assert_eq!(late.medium(), Medium::Ssd);
    assert_eq!(check(&store, &late), [0]);
}

#[test]
fn victims_of_a_fast_tier_are_demoted_with_their_bytes() {
    let fixture = two();
    let store = fixture.open();
    for ino in 1..=10 {
        put(&store, id(ino), MIB).unwrap();
    }
    store.get(id(1));
    store.get(id(2));
    store.maintain();
    for ino in 1..=10 {
        let file = store.get(id(ino)).unwrap();
        let expected = if (3..=7).contains(&ino) {
            Medium::Ssd
        } else {
            Medium::Mem
        };
        assert_eq!(file.medium(), expected, "{ino}");
        check(&store, &file);
    }
    assert_eq!(store.counters().demoted_files, 5);
    assert_eq!(store.counters().evicted_pages, 0);
    let tiers = store.tiers();
    assert_eq!((tiers[0].used, tiers[0].files), (5 * MIB, 5));
    assert_eq!((tiers[1].used, tiers[1].files), (5 * MIB, 5));
    assert!(!fixture.path(0, id(3)).exists() && fixture.path(1, id(3)).exists());
    drop(store);
    let store = fixture.open();
    let file = store.get(id(3)).unwrap();
    assert_eq!(
        (file.medium(), check(&store, &file)),
        (Medium::Ssd, vec![0])
    );
}

#[test]
fn an_old_descriptor_reads_on_after_a_move() {
    let fixture = two();
    let store = fixture.open();
    let file = put(&store, id(1), MIB).unwrap();
    let old = file.file().unwrap();
    for ino in 2..=10 {
        put(&store, id(ino), MIB).unwrap();
    }
    store.maintain();
    assert_eq!(file.medium(), Medium::Ssd);
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&*old, &mut byte, MIB - 1).unwrap();
    assert_eq!(byte[..], crate::fixture::content(id(1), MIB - 1..MIB));
    assert_eq!(check(&store, &file), [0]);
}

#[test]
fn files_used_often_are_promoted_into_free_room() {
    let fixture = two();
    let store = fixture.open();
    for ino in 1..=10 {
        put(&store, id(ino), MIB).unwrap();
    }
    store.maintain();
    let file = store.get(id(1)).unwrap();
    assert_eq!(file.medium(), Medium::Ssd);
    for _ in 0..3 {
        store.get(id(1));
    }
    store.maintain();
    assert_eq!(
        file.medium(),
        Medium::Ssd,
        "no room below the low watermark"
    );
    store.free(id(9));
    store.free(id(10));
    let lease = store.lease(&file);
    for _ in 0..3 {
        store.get(id(1));
    }
    store.maintain();
    assert_eq!(file.medium(), Medium::Ssd, "leased");
    drop(lease);
    for _ in 0..3 {
        store.get(id(1));
    }
    store.maintain();
    assert_eq!(file.medium(), Medium::Mem);
    assert_eq!(store.counters().promoted_files, 1);
    assert_eq!(check(&store, &file), [0]);
}

#[test]
fn files_move_between_file_systems() {
    let shm = PathBuf::from("/dev/shm");
    let Ok(dir) = tempfile::tempdir_in(&shm) else {
        return;
    };
    let mut fixture = two();
    fixture.config.tiers[0].dir = dir.path().join("mem");
    let store = fixture.open();
    for ino in 1..=10 {
        put(&store, id(ino), MIB - ino).unwrap();
    }
    store.maintain();
    assert_eq!(store.counters().demoted_files, 5);
    for file in store.files() {
        assert_eq!(check(&store, &file), [0]);
    }
}
