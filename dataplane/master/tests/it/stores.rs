//! Under stores that misbehave.

use async_trait::async_trait;
use forebay_types::{Code, Fingerprint};
use forebay_ufs::{
    Body, Depth, Error, ListPage, Object, Requests, Result, UnderStore, memory::MemStore,
};
use futures::{StreamExt, stream, stream::BoxStream};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Lists in many small pieces that come backwards, as those of a parallel listing may; a name's
/// object and its prefix never share a piece.
#[derive(Clone)]
pub(crate) struct Backwards {
    pub(crate) inner: MemStore,
    /// The next listing ends in an error after so many pieces.
    pub(crate) fail_after: Arc<AtomicUsize>,
}

impl Backwards {
    pub(crate) fn new(inner: MemStore) -> Backwards {
        Backwards {
            inner,
            fail_after: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }
}

#[async_trait]
impl UnderStore for Backwards {
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let fail_after = self.fail_after.swap(usize::MAX, Ordering::SeqCst);
        let whole = self.inner.list(prefix, depth);
        let pieces = async move {
            let whole: Vec<Result<ListPage>> = whole.collect().await;
            let mut pieces = Vec::new();
            for page in whole {
                let page = page?;
                let objects = page.objects.chunks(7).map(<[_]>::to_vec);
                pieces.extend(objects.map(|objects| ListPage {
                    objects,
                    prefixes: vec![],
                }));
                let prefixes = page.prefixes.chunks(7).map(<[_]>::to_vec);
                pieces.extend(prefixes.map(|prefixes| ListPage {
                    objects: vec![],
                    prefixes,
                }));
            }
            pieces.reverse();
            Ok::<_, Error>(pieces)
        };
        let pieces = stream::once(pieces).flat_map(move |pieces| {
            let pieces: Vec<Result<ListPage>> = match pieces {
                Ok(pieces) if fail_after < pieces.len() => pieces
                    .into_iter()
                    .take(fail_after)
                    .map(Ok)
                    .chain([Err(Error::new(Code::Unavailable, "listing broke off"))])
                    .collect(),
                Ok(pieces) => pieces.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(pieces)
        });
        pieces.boxed()
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        self.inner.stat(key).await
    }

    async fn read(&self, key: &[u8], range: Range<u64>, expected: &Fingerprint) -> Result<Body> {
        self.inner.read(key, range, expected).await
    }

    async fn probe(&self) -> Result<()> {
        self.inner.probe().await
    }

    fn requests(&self) -> Requests {
        self.inner.requests()
    }
}

/// Cannot be used at all.
pub(crate) struct Locked;

#[async_trait]
impl UnderStore for Locked {
    fn list(&self, _prefix: &[u8], _depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        stream::iter([Err(refused())]).boxed()
    }

    async fn stat(&self, _key: &[u8]) -> Result<Object> {
        Err(refused())
    }

    async fn read(&self, _key: &[u8], _range: Range<u64>, _print: &Fingerprint) -> Result<Body> {
        Err(refused())
    }

    async fn probe(&self) -> Result<()> {
        Err(refused())
    }

    fn requests(&self) -> Requests {
        Requests::default()
    }
}

fn refused() -> Error {
    let cause = std::io::Error::other("unknown access key");
    Error::caused(Code::PermissionDenied, "cannot list the store", cause)
}
