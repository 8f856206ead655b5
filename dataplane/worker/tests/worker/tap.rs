//! An under store whose bytes flow only as far as the test lets them.

use async_trait::async_trait;
use bytes::Bytes;
use forebay_types::Fingerprint;
use forebay_ufs::{Body, Depth, ListPage, Object, Requests, Result, UnderStore, memory::MemStore};
use futures::{StreamExt, stream::BoxStream};
use std::{ops::Range, sync::Arc};
use tokio::sync::watch;

/// Bytes of a body go out while their offset in the object is below the mark.
#[derive(Clone)]
pub(crate) struct Tap {
    pub(crate) store: MemStore,
    mark: Arc<watch::Sender<u64>>,
}

impl Tap {
    pub(crate) fn closed(store: MemStore) -> Tap {
        Tap {
            store,
            mark: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Lets the bytes before `mark` flow.
    pub(crate) fn open_to(&self, mark: u64) {
        self.mark.send_replace(mark);
    }
}

#[async_trait]
impl UnderStore for Tap {
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.store.list(prefix, depth)
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        self.store.stat(key).await
    }

    async fn read(&self, key: &[u8], range: Range<u64>, expected: &Fingerprint) -> Result<Body> {
        let body = self.store.read(key, range.clone(), expected).await?;
        let mut offset = range.start;
        let mark = self.mark.clone();
        let small = body.bytes.flat_map(|piece| {
            let pieces: Vec<Result<Bytes>> = match piece {
                Ok(mut bytes) => std::iter::from_fn(|| {
                    let len = bytes.len().min(10_000);
                    (len > 0).then(|| Ok(bytes.split_to(len)))
                })
                .collect(),
                error => vec![error],
            };
            futures::stream::iter(pieces)
        });
        let bytes = small.then(move |piece| {
            let end = offset + piece.as_ref().map_or(0, |p| p.len() as u64);
            offset = end;
            let mark = mark.clone();
            async move {
                // The sender lives in `mark`: waiting cannot fail.
                let _ = mark.subscribe().wait_for(|mark| *mark >= end).await;
                piece
            }
        });
        Ok(Body {
            fingerprint: body.fingerprint,
            bytes: bytes.boxed(),
        })
    }

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    fn requests(&self) -> Requests {
        self.store.requests()
    }
}
