//! The conformance suite over the stores that need no server.

use bytes::Bytes;
use forebay_ufs::{
    conformance::{self, Keys, Put},
    local::LocalStore,
    memory::MemStore,
};
use futures::FutureExt as _;
use std::{fs, sync::Arc};

#[tokio::test]
async fn memory() {
    let store = MemStore::new();
    let target = store.clone();
    let put: Put = Arc::new(move |key: &str, content: Bytes| {
        target.put(key, content);
        std::future::ready(()).boxed()
    });
    conformance::run(Arc::new(store), put, Keys::Any).await;
}

#[tokio::test]
async fn local() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    let put: Put = Arc::new(move |key: &str, content: Bytes| {
        let path = root.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A new inode each time: an overwrite is noticed whatever the clock of the file system.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, &content).unwrap();
        fs::rename(&fresh, &path).unwrap();
        std::future::ready(()).boxed()
    });
    conformance::run(Arc::new(LocalStore::new(dir.path())), put, Keys::Paths).await;
}
