//! The options of a mount are those of the under stores.

use forebay_crds::MOUNT_OPTIONS;
use std::{collections::BTreeSet, fs};

#[test]
fn every_option_of_the_under_stores_is_known_or_left_out_on_purpose() {
    let page = fs::read_to_string("../docs/options.md").unwrap();
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
        .map(|(key, _)| key)
        .filter(|key| *key != "key")
        .collect();
    let here = MOUNT_OPTIONS.iter().map(|option| option.key);
    let elsewhere = ["sync", "profile"];
    assert_eq!(here.chain(elsewhere).collect::<BTreeSet<_>>(), documented);
    for option in MOUNT_OPTIONS {
        let snake: String = option
            .name
            .chars()
            .flat_map(|c| {
                c.is_uppercase()
                    .then_some('_')
                    .into_iter()
                    .chain(c.to_lowercase())
            })
            .collect();
        assert_eq!(snake, option.key);
    }
}
