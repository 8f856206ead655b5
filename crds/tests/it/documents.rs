//! YAML files of several documents.

use serde_json::Value;
use std::{fs, path::Path};

/// The documents of a file, which is named from the folder of this crate.
pub(crate) fn documents(path: &Path) -> Vec<Value> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    read(&text, &path.display().to_string())
}

/// The documents of a text that is of that origin, less those that say nothing.
pub(crate) fn read(text: &str, origin: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(|text| {
            serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{origin}: {error}\n{text}"))
        })
        .filter(|document: &Value| !document.is_null())
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

/// Those of a folder, and of the folders in it.
pub(crate) fn files_below(folder: &str) -> Vec<std::path::PathBuf> {
    let mut found = files(folder);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(path.to_str().unwrap()));
        }
    }
    found
}
