//! Disks that vanish, fill up, lose files: never a wrong byte, never an error that lasts.

use crate::fixture::{Fixture, MIB, check, disk, fill, id, put};
use forebay_cache::Error;
use forebay_types::{Code, Medium, MountId};
use std::path::Path;

#[test]
fn a_directory_that_vanishes_takes_its_tier_out_of_service_until_it_is_back() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = put(&store, id(1), 2 * MIB).unwrap();
    let tier = fixture.config.tiers[0].dir.clone();
    let away = fixture.dir.path().join("away");
    std::fs::rename(&tier, &away).unwrap();
    std::fs::write(fixture.dir.path().join("tier0"), "in the way").unwrap();
    store.maintain();
    assert!(store.tiers()[0].fault.is_some());
    assert!(store.get(id(1)).is_none());
    assert!(!file.is_whole());
    assert_eq!(file.missing(0..2), [0..2]);
    assert_eq!(file.file().unwrap_err().code(), Code::Unavailable);
    assert!(store.writer(&file, 0, 1).is_err());
    assert!(store.get_or_create(id(2), MountId(1), 1).is_err());
    store.maintain();
    assert!(store.tiers()[0].fault.is_some());
    std::fs::remove_file(&tier).unwrap();
    std::fs::rename(&away, &tier).unwrap();
    store.maintain();
    assert_eq!(store.tiers()[0].fault, None);
    let file = store.get(id(1)).unwrap();
    assert!(!file.is_verified(), "who knows what happened to it");
    assert_eq!(check(&store, &file), [0, 1]);
    put(&store, id(2), MIB).unwrap();
}

#[test]
fn a_directory_that_was_replaced_is_an_empty_tier() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = put(&store, id(1), 2 * MIB).unwrap();
    let lease = store.lease(&file);
    std::fs::remove_dir_all(&fixture.config.tiers[0].dir).unwrap();
    assert!(put(&store, id(2), MIB).is_err());
    assert!(store.tiers()[0].fault.is_some());
    store.maintain();
    assert_eq!(store.tiers()[0].fault, None);
    assert_eq!(store.tiers()[0].used, 0);
    assert!(store.get(id(1)).is_none());
    assert_eq!(fixture.rows(), 0);
    drop(lease);
    let file = put(&store, id(1), 2 * MIB).unwrap();
    assert_eq!(check(&store, &file), [0, 1]);
}

#[test]
fn the_files_of_a_tier_that_was_replaced_while_closed_are_dropped() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    put(&fixture.open(), id(1), 2 * MIB).unwrap();
    let tier = &fixture.config.tiers[0].dir;
    // The files are there, but the tier is another: they may be anybody's.
    std::fs::remove_file(tier.join("tier.id")).unwrap();
    let store = fixture.open();
    assert!(store.get(id(1)).is_none());
    assert!(!fixture.path(0, id(1)).exists());
    assert_eq!(fixture.rows(), 0);
}

#[test]
fn a_leased_file_of_a_tier_that_failed_is_not_trusted_again() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = put(&store, id(1), MIB).unwrap();
    let lease = store.lease(&file);
    let tier = &fixture.config.tiers[0].dir;
    let away = fixture.dir.path().join("away");
    std::fs::rename(tier, &away).unwrap();
    std::fs::write(tier, "").unwrap();
    store.maintain();
    std::fs::remove_file(tier).unwrap();
    std::fs::rename(&away, tier).unwrap();
    store.maintain();
    assert!(store.get(id(1)).is_none());
    assert!(!fixture.path(0, id(1)).exists());
    let again = put(&store, id(1), MIB).unwrap();
    drop(lease);
    assert_eq!(check(&store, &again), [0]);
    assert_eq!(store.tiers()[0].used, MIB);
}

#[test]
fn other_tiers_serve_while_one_is_out() {
    let fixture = Fixture::tiered(&disk(), &[(Medium::Mem, 10 * MIB), (Medium::Ssd, 64 * MIB)]);
    let store = fixture.open();
    put(&store, id(1), MIB).unwrap();
    let tier = &fixture.config.tiers[0].dir;
    let away = fixture.dir.path().join("away");
    std::fs::rename(tier, &away).unwrap();
    std::fs::write(tier, "").unwrap();
    store.maintain();
    let file = put(&store, id(1), MIB).unwrap();
    assert_eq!(file.medium(), Medium::Ssd);
    std::fs::remove_file(tier).unwrap();
    std::fs::rename(&away, tier).unwrap();
    store.maintain();
    assert!(!fixture.path(0, id(1)).exists(), "the old copy is removed");
    let file = store.get(id(1)).unwrap();
    assert_eq!(
        (file.medium(), check(&store, &file)),
        (Medium::Ssd, vec![0])
    );
    assert_eq!(store.tiers()[0].used, 0);
}

#[test]
fn one_file_that_vanished_does_not_stop_its_tier() {
    let fixture = Fixture::new(&disk(), 64 * MIB);
    let store = fixture.open();
    let file = put(&store, id(1), MIB).unwrap();
    put(&store, id(2), MIB).unwrap();
    std::fs::remove_file(fixture.path(0, id(1))).unwrap();
    assert_eq!(file.file().unwrap_err().code(), Code::Unavailable);
    assert_eq!(store.tiers()[0].fault, None);
    store.maintain();
    assert!(store.get(id(1)).is_none());
    assert_eq!(store.tiers()[0].used, MIB);
    check(&store, &put(&store, id(1), MIB).unwrap());
}

/// A tmpfs of its own; taken down whatever happens.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, bytes: u64) -> Option<SmallDisk<'a>> {
        use rustix::mount::{MountFlags, mount};
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        mount("none", at, "tmpfs", MountFlags::empty(), size.as_c_str()).ok()?;
        Some(SmallDisk(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Needs the right to mount; passes over itself without.
#[test]
fn a_disk_that_is_full_below_the_quota_evicts_and_admits_less() {
    let fixture = Fixture::new(&disk(), 16 * MIB);
    let at = fixture.dir.path().join("small");
    std::fs::create_dir(&at).unwrap();
    let Some(_small) = SmallDisk::mount(&at, 16 * MIB) else {
        eprintln!("passed over: cannot mount a tmpfs");
        return;
    };
    let mut fixture = fixture;
    fixture.config.tiers[0].dir = at.join("tier");
    let store = fixture.open();
    for ino in 1..=6 {
        put(&store, id(ino), MIB).unwrap();
    }
    let foreign = at.join("foreign");
    std::fs::write(&foreign, vec![1; 9 * MIB as usize]).unwrap();
    let full = (7..=10).any(|ino| matches!(put(&store, id(ino), MIB), Err(Error::NoSpace(_))));
    assert!(full && store.needs_maintenance());
    assert_eq!(store.tiers()[0].fault, None);
    store.maintain();
    let file = store.get_or_create(id(20), MountId(1), MIB).unwrap();
    fill(&store, &file, 0..1).unwrap();
    assert!(store.tiers()[0].used < 6 * MIB);
    for file in store.files() {
        check(&store, &file);
    }
    std::fs::remove_file(foreign).unwrap();
    store.maintain();
    for ino in 30..38 {
        put(&store, id(ino), MIB).unwrap();
    }
}

/// Needs the right to mount; passes over itself without.
#[test]
fn an_unmounted_disk_leaves_an_empty_mount_point_that_is_not_filled() {
    let fixture = Fixture::new(&disk(), 8 * MIB);
    let at = fixture.dir.path().join("small");
    std::fs::create_dir(&at).unwrap();
    let Some(small) = SmallDisk::mount(&at, 16 * MIB) else {
        eprintln!("passed over: cannot mount a tmpfs");
        return;
    };
    let mut fixture = fixture;
    fixture.config.tiers[0].dir = at.clone();
    let store = fixture.open();
    put(&store, id(1), MIB).unwrap();
    drop(small);
    store.maintain();
    assert!(store.tiers()[0].fault.is_some());
    store.maintain();
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    assert!(store.get(id(1)).is_none());
}
