//! The in-memory store against the suite.

use forebay_kv::{Durability, Kv, MemKv, conformance};
use std::sync::Arc;

#[test]
fn keeps_what_every_store_promises() {
    conformance::run(Durability::Volatile, &|| Arc::new(MemKv::new()));
}

#[test]
fn checkpoints_are_copies() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        |dir: &std::path::Path| -> Arc<dyn Kv> { Arc::new(MemKv::from_checkpoint(dir).unwrap()) };
    conformance::checkpoints(
        Durability::Volatile,
        &MemKv::new(),
        &dir.path().join("c"),
        &open,
    );
}

#[test]
fn a_cut_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemKv::new();
    let mut batch = forebay_kv::Batch::default();
    batch.put(b"key".to_vec(), b"value".to_vec());
    store.write(&batch, Durability::Volatile).unwrap();
    store.checkpoint(&dir.path().join("c")).unwrap();
    let file = dir.path().join("c/pairs");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(
        MemKv::from_checkpoint(&dir.path().join("c")),
        Err(forebay_kv::Error::Corrupt(_))
    ));
}
