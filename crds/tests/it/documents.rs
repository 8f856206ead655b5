//! YAML files of several documents.

use serde_json::Value;
use std::{fs, path::Path};

/// The documents of a file, which is named from the folder of this crate.
pub(crate) fn documents(path: &Path) -> Vec<Value> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split("\n---\n")
        .map(|text| {
            serde_saphyr::from_str(text)
                .unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()))
        })
        .collect()
}

/// The YAML files of a folder, which is named from the folder of this crate.
pub(crate) fn files(folder: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no YAML in {folder}");
    files
}
