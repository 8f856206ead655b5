//! What the examples show is accepted.

use crate::{
    api_server::admit,
    documents::{documents, files_below},
};
use forebay_crds::{CacheCluster, Dataset, WarmupPolicy};
use serde_json::{Value, from_value};

const FOLDER: &str = "../examples";

#[test]
fn examples_are_accepted_and_read() {
    for file in files_below(FOLDER) {
        for object in documents(&file) {
            if !object["apiVersion"]
                .as_str()
                .unwrap()
                .starts_with("forebay.io/")
            {
                continue;
            }
            let name = format!("{}, {}", file.display(), object["metadata"]["name"]);
            let stored = admit(&object, None).unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
            // An object that is applied again is still accepted, with its defaults.
            assert_eq!(admit(&object, Some(&stored)), Ok(stored.clone()), "{name}");
            assert_eq!(read(stored.clone()), stored, "{name}");
        }
    }
}

/// Through the Rust type and back.
fn read(object: Value) -> Value {
    let kind = object["kind"].as_str().unwrap().to_owned();
    let again = match kind.as_str() {
        "CacheCluster" => serde_json::to_value(from_value::<CacheCluster>(object).unwrap()),
        "Dataset" => serde_json::to_value(from_value::<Dataset>(object).unwrap()),
        "WarmupPolicy" => serde_json::to_value(from_value::<WarmupPolicy>(object).unwrap()),
        other => panic!("no such kind: {other}"),
    };
    again.unwrap()
}

#[test]
fn the_first_example_is_short() {
    let text = std::fs::read_to_string(format!("{FOLDER}/first.yaml")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    assert!(lines.count() <= 22, "the README promises some twenty lines");
}
