//! RocksDB's errors as those of the trait.

use forebay_kv::Error;
use std::{fs, io, path::Path};

/// By kind; RocksDB tells a full disk only in its message.
pub(crate) fn mapped(error: rocksdb::Error) -> Error {
    let full = error.as_ref().contains("No space left on device")
        || error.as_ref().contains("Disk quota exceeded");
    match error.kind() {
        _ if full => Error::NoSpace(error.into()),
        rocksdb::ErrorKind::Corruption => Error::Corrupt(error.into()),
        _ => Error::Failed(error.into()),
    }
}

/// Of the file system around the database.
pub(crate) fn io_failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace(error.into()),
        _ => Error::Failed(error.into()),
    }
}

/// Of opening the database in `dir`.
pub(crate) fn not_opened(dir: &Path, error: rocksdb::Error) -> Error {
    match mapped(error) {
        Error::Corrupt(cause) => {
            let mut what = cause.to_string();
            // RocksDB names tables, and not the logs that it reads at opening.
            if !what.contains(".sst") {
                for log in logs(dir) {
                    what = format!("{what}, in {log}");
                }
            }
            let dir = dir.display();
            Error::Corrupt(
                format!(
                    "{what}; the database in {dir} is damaged: put back a copy of it, or remove it \
                     if this node can begin anew"
                )
                .into(),
            )
        }
        other => other,
    }
}

/// Paths of the logs in `dir` that hold anything.
fn logs(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let log = |file: fs::DirEntry| {
        let path = file.path();
        let holds_anything = file.metadata().is_ok_and(|meta| meta.len() > 0);
        (holds_anything && path.extension().is_some_and(|e| e == "log"))
            .then(|| path.display().to_string())
    };
    files.filter_map(log).collect()
}
