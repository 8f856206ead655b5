//! The options of a mount are those of the under stores.

use forebay_crds::MOUNT_OPTIONS;
use std::{collections::BTreeSet, fs};

#[test]
fn every_option_of_the_under_stores_is_known_or_left_out_on_purpose() {
    let page = fs::read_to_string("../docs/options.md").unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ").map(str::to_owned);
        Some((cells.next()?, cells.next()?))
    };
    let documented: BTreeSet<_> = page.lines().filter_map(row).skip(1).collect();
    let here = MOUNT_OPTIONS.map(|option| (option.key.to_owned(), option.schemes.join(", ")));
    let elsewhere = [("sync", "all"), ("profile", "s3")];
    let elsewhere = elsewhere.map(|(key, schemes)| (key.to_owned(), schemes.to_owned()));
    let known: BTreeSet<_> = here.into_iter().chain(elsewhere).collect();
    assert_eq!(known, documented);
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
