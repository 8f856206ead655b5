//! Keys that a file system cannot show are listed and skipped; all others are there.

use crate::world::World;
use std::{collections::BTreeSet, fs};

#[test]
fn what_can_be_shown_is_shown_and_the_rest_is_listed() {
    let world = World::new();
    world.put("plain", 1, 10);
    world.put("both", 1, 10);
    world.put("both/below", 2, 20);
    world.put("double//slash", 3, 10);
    world.put("/leading", 3, 10);
    world.put("dots/./here", 4, 10);
    world.put("dots/../there", 5, 10);
    world.put("dots/fine", 6, 60);
    world.put(&format!("long/{}", "n".repeat(256)), 7, 10);
    world.put(&format!("long/{}", "n".repeat(255)), 8, 80);
    world.put("marker/", 9, 0);
    world.put("full-marker/", 9, 10);
    world.put("empty", 10, 0);
    world.put("späce and +%41?&#", 11, 110);
    world.put("control\u{1}\n", 12, 120);
    let _local = world.local("64MiB", &[]);
    let names = |dir: &str| -> BTreeSet<String> {
        fs::read_dir(world.at(dir))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let want = [
        "plain",
        "both",
        "double",
        "dots",
        "long",
        "marker",
        "full-marker",
        "empty",
        "späce and +%41?&#",
        "control\u{1}\n",
    ];
    assert_eq!(names(""), want.map(str::to_owned).into());
    assert!(world.at("both").is_dir());
    assert_eq!(fs::metadata(world.at("both/below")).unwrap().len(), 20);
    assert_eq!(names("dots"), ["fine".to_owned()].into());
    assert_eq!(names("long"), ["n".repeat(255)].into());
    assert_eq!(names("marker"), BTreeSet::new());
    assert_eq!(fs::read(world.at("empty")).unwrap(), b"");
    assert_eq!(fs::read(world.at("späce and +%41?&#")).unwrap().len(), 110);
    assert_eq!(fs::read(world.at("control\u{1}\n")).unwrap().len(), 120);
    assert_eq!(names("double"), BTreeSet::new());
    assert_eq!(names("full-marker"), BTreeSet::new());
    let told = world.fs(&["problems", "--json"], "");
    let keys: BTreeSet<String> = told
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|problem| problem["key"].as_str().unwrap().to_owned())
        .collect();
    let find = |needle: &str| keys.iter().any(|key| key.starts_with(needle));
    for needle in [
        "both",
        "double/",
        "/",
        "dots/.",
        "dots/..",
        "long/nnn",
        "full-marker/",
    ] {
        assert!(find(needle), "{needle} is not among {keys:?}");
    }
}

#[test]
fn an_object_larger_than_five_gib_reads_at_its_end() {
    let world = World::new();
    let size = (6u64 << 30) + 123;
    let content = world.put("huge", 1, size);
    let _local = world.local("64MiB", &[]);
    assert_eq!(fs::metadata(world.at("huge")).unwrap().len(), size);
    let got = crate::world::read_range(&world.at("huge"), size - 5000, 5000).unwrap();
    assert!(got == content.bytes(size - 5000..size).unwrap());
}
