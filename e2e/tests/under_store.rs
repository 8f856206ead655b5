//! The S3 under store against a real server: the suite that every under store is held to.

use forebay_e2e::s3::{Backend, Content, Memory, S3Server};
use forebay_ufs::conformance::{self, Keys, Put};
use std::{collections::BTreeMap, sync::Arc};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_is_an_under_store() {
    let memory = Arc::new(Memory::new(&["bucket"]));
    let server = S3Server::start(memory.clone(), None).unwrap();
    let options = BTreeMap::from([
        ("endpoint".to_owned(), server.endpoint.clone()),
        ("anonymous".to_owned(), "true".to_owned()),
    ]);
    // Below a prefix, with something beside it that must never show.
    for key in ["a", "a/b", "a/bc", "a/c/d", "z"] {
        memory
            .put("bucket", key, Content::from(bytes::Bytes::new()))
            .unwrap();
    }
    let store = forebay_ufs::open("s3://bucket/a/b", &options).unwrap();
    let put: Put = Arc::new(move |key, bytes| {
        let key = format!("a/b/{key}");
        memory.put("bucket", &key, Content::from(bytes)).unwrap();
        Box::pin(async {})
    });
    conformance::run(store, put, Keys::Any).await;
}
