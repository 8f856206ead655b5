//! What every under store promises, as checks to run on each implementation.
//!
//! Panics with what is wrong: for tests only.

use crate::{Depth, ListPage, Object, UnderStore};
use bytes::Bytes;
use forebay_types::Code;
use futures::{TryStreamExt as _, future::BoxFuture};
use std::{collections::BTreeMap, sync::Arc};

/// Stores an object; returns when it is there.
pub type Put = Arc<dyn Fn(&str, Bytes) -> BoxFuture<'static, ()> + Send + Sync>;

/// Which keys a store can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Any: `//`, dot segments, a trailing `/`, an object `a` beside `a/b`.
    Any,
    /// Those that are paths of files.
    Paths,
}

/// Runs every check on `store`, which is empty. `put` writes to it.
pub async fn run(store: Arc<dyn UnderStore>, put: Put, keys: Keys) {
    empty(&*store).await;
    listing(&*store, &put, keys).await;
    stat(&*store, &put, keys).await;
    reading(&*store, &put).await;
    stale(&*store, &put).await;
    large_directory(&*store, &put).await;
    counters(&*store).await;
}

async fn pages(store: &dyn UnderStore, prefix: &str, depth: Depth) -> Vec<ListPage> {
    let listed = store.list(prefix.as_bytes(), depth).try_collect().await;
    listed.unwrap_or_else(|e| panic!("listing '{prefix}' fails: {e}"))
}

/// Objects and prefixes of a listing, sorted; panics if something is listed twice.
async fn listed(store: &dyn UnderStore, prefix: &str, depth: Depth) -> (Vec<Object>, Vec<Bytes>) {
    let pages = pages(store, prefix, depth).await;
    let mut objects: Vec<_> = pages.iter().flat_map(|p| p.objects.clone()).collect();
    let mut prefixes: Vec<_> = pages.iter().flat_map(|p| p.prefixes.clone()).collect();
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    prefixes.sort();
    assert!(
        objects.is_sorted_by(|a, b| a.key < b.key),
        "an object is listed twice"
    );
    assert!(
        prefixes.is_sorted_by(|a, b| a < b),
        "a prefix is listed twice"
    );
    (objects, prefixes)
}

async fn empty(store: &dyn UnderStore) {
    store.probe().await.expect("an empty store can be used");
    for depth in [Depth::Directory, Depth::Recursive] {
        assert_eq!(listed(store, "", depth).await, (vec![], vec![]));
        assert_eq!(listed(store, "none/", depth).await, (vec![], vec![]));
    }
    let error = store.stat(b"none").await.expect_err("nothing is there");
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

async fn listing(store: &dyn UnderStore, put: &Put, keys: Keys) {
    let mut content = vec![
        "top",
        "dir/a",
        "dir/b",
        "dir/sub/c",
        "dir/sub/deep/d",
        "dir0",
        "dir.txt",
        "dir-x/y",
        "späce and %25+&=?#/ü",
        "empty",
        "~/'\"<>",
    ];
    if keys == Keys::Any {
        content.extend([
            "top/beside",
            "dir/line\nbreak",
            "dir/",
            "dir//x",
            "//lead",
            "dots/./a",
            "dots/../b",
            "dots/..",
            "end/",
            "dir/sub//",
            "control/\u{1}\u{7f}",
        ]);
    }
    for key in &content {
        let bytes = if *key == "empty" {
            Bytes::new()
        } else {
            Bytes::from(format!("of {key}"))
        };
        put(key, bytes).await;
    }
    content.sort_unstable();
    let (objects, prefixes) = listed(store, "", Depth::Recursive).await;
    let got: Vec<_> = objects
        .iter()
        .map(|o| String::from_utf8_lossy(&o.key))
        .collect();
    assert_eq!(got, content, "a recursive listing shows every key as it is");
    assert!(prefixes.is_empty());
    for prefix in ["", "dir/", "dir/sub/", "dots/", "/", "end/", "top/"] {
        // What a naive listing of the same keys would show.
        let mut below = BTreeMap::new();
        for rest in content.iter().filter_map(|key| key.strip_prefix(prefix)) {
            match rest.find('/') {
                Some(slash) => below.insert(format!("{prefix}{}", &rest[..=slash]), true),
                None => below.insert(format!("{prefix}{rest}"), false),
            };
        }
        let (objects, prefixes) = listed(store, prefix, Depth::Directory).await;
        let names = |of: bool| {
            let names = below.iter().filter(move |(_, prefix)| **prefix == of);
            names
                .map(|(name, _)| Bytes::copy_from_slice(name.as_bytes()))
                .collect::<Vec<_>>()
        };
        let keys: Vec<_> = objects.iter().map(|o| o.key.clone()).collect();
        assert_eq!(keys, names(false), "objects directly in '{prefix}'");
        assert_eq!(prefixes, names(true), "prefixes in '{prefix}'");
    }
    // Each key that is listed can be asked for and read, and is the same then.
    let (objects, _) = listed(store, "", Depth::Recursive).await;
    for object in objects {
        let key = String::from_utf8_lossy(&object.key).into_owned();
        let found = store.stat(&object.key).await;
        let found = found.unwrap_or_else(|e| panic!("stat of '{key}' fails: {e}"));
        assert_eq!(
            found.fingerprint, object.fingerprint,
            "'{key}' is listed as it is"
        );
        assert_eq!(found.key, object.key);
        assert!(found.mtime_ns > 0);
        if key != "empty" {
            assert_eq!(
                read_all(store, &found).await,
                format!("of {key}"),
                "content of '{key}'"
            );
        }
    }
}

async fn read(store: &dyn UnderStore, object: &Object, range: std::ops::Range<u64>) -> Bytes {
    let body = store
        .read(&object.key, range.clone(), &object.fingerprint)
        .await;
    let body = body.unwrap_or_else(|e| panic!("reading {range:?} fails: {e}"));
    assert_eq!(body.fingerprint, object.fingerprint);
    let pieces: Vec<Bytes> = body
        .bytes
        .try_collect()
        .await
        .expect("the body comes whole");
    pieces.concat().into()
}

async fn read_all(store: &dyn UnderStore, object: &Object) -> Bytes {
    read(store, object, 0..object.fingerprint.size).await
}

async fn stat(store: &dyn UnderStore, put: &Put, keys: Keys) {
    put("stat/x", Bytes::from_static(b"12345")).await;
    let object = store.stat(b"stat/x").await.expect("it is there");
    assert_eq!(object.fingerprint.size, 5);
    for none in [
        "stat",
        "stat/",
        "stat/x/",
        "stat/xx",
        "stat/x/below",
        "stat//x",
        "stat/./x",
    ] {
        let error = store.stat(none.as_bytes()).await.expect_err(none);
        // Or it is no key at all there.
        let unnamed = keys == Keys::Paths && error.code() == Code::Unsupported;
        assert!(
            error.code() == Code::NotFound || unnamed,
            "'{none}': {error}"
        );
    }
}

/// Bytes whose place shows.
fn pattern(length: usize, seed: u32) -> Bytes {
    let words = (0..length as u32).map(|i| (i ^ seed).wrapping_mul(0x9e37_79b9) >> 24);
    words.map(|word| word as u8).collect()
}

async fn reading(store: &dyn UnderStore, put: &Put) {
    let content = pattern(3_000_001, 1);
    put("reading/x", content.clone()).await;
    let object = store.stat(b"reading/x").await.expect("it is there");
    let size = content.len() as u64;
    for range in [
        0..1,
        0..size,
        size - 1..size,
        1_048_575..1_048_577,
        5..2_500_000,
    ] {
        let want = content.slice(range.start as usize..range.end as usize);
        assert!(
            read(store, &object, range.clone()).await == want,
            "bytes {range:?} differ"
        );
    }
    for bad in [0..0, 5..5, size..size + 1, 0..size + 1] {
        let error = store
            .read(b"reading/x", bad.clone(), &object.fingerprint)
            .await
            .err();
        let error = error.unwrap_or_else(|| panic!("{bad:?} is not within the object"));
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let all = (0..8).map(|i| read(store, &object, i * 300_000..(i + 1) * 300_000));
    let parts = futures::future::join_all(all).await;
    assert!(
        parts.concat() == content[..2_400_000],
        "parallel ranges make up the object"
    );
}

async fn stale(store: &dyn UnderStore, put: &Put) {
    let (old, new) = (pattern(100_000, 2), pattern(100_000, 3));
    put("stale/x", old).await;
    let before = store.stat(b"stale/x").await.expect("it is there");
    put("stale/x", new.clone()).await;
    let after = store.stat(b"stale/x").await.expect("it is there");
    assert_ne!(
        before.fingerprint, after.fingerprint,
        "an overwrite changes the fingerprint"
    );
    let range = 10..20;
    let error = store
        .read(b"stale/x", range, &before.fingerprint)
        .await
        .err();
    let error = error.expect("the old content cannot be read");
    assert_eq!(error.code(), Code::Stale, "{error}");
    assert!(read_all(store, &after).await == new, "the new content can");
    put("stale/x", pattern(50_000, 4)).await;
    let error = store
        .read(b"stale/x", 90_000..100_000, &after.fingerprint)
        .await
        .err();
    let error = error.expect("a range beyond the new end cannot be read");
    assert_eq!(error.code(), Code::Stale, "{error}");
    let error = store
        .read(b"stale/gone", 0..1, &after.fingerprint)
        .await
        .err();
    let error = error.expect("what is gone cannot be read");
    assert_eq!(error.code(), Code::Stale, "{error}");
}

async fn large_directory(store: &dyn UnderStore, put: &Put) {
    const FILES: usize = 3500;
    for i in 0..FILES {
        put(&format!("large/{i:05}"), Bytes::from_static(b"x")).await;
    }
    put("large/sub/x", Bytes::new()).await;
    let pages = pages(store, "large/", Depth::Directory).await;
    let most = pages
        .iter()
        .map(|p| p.objects.len() + p.prefixes.len())
        .max();
    assert!(
        most <= Some(2000),
        "pieces are bounded, not {most:?} entries"
    );
    let (objects, prefixes) = listed(store, "large/", Depth::Directory).await;
    assert_eq!((objects.len(), prefixes.len()), (FILES, 1));
    let (objects, _) = listed(store, "large/", Depth::Recursive).await;
    assert_eq!(objects.len(), FILES + 1);
}

async fn counters(store: &dyn UnderStore) {
    let before = store.requests();
    let object = store.stat(b"reading/x").await.expect("it is there");
    read(store, &object, 0..1000).await;
    listed(store, "reading/", Depth::Directory).await;
    let after = store.requests();
    assert_eq!(after.stat, before.stat + 1);
    assert_eq!(after.read, before.read + 1);
    assert_eq!(after.list, before.list + 1);
    assert!(after.bytes >= before.bytes + 1000);
}
