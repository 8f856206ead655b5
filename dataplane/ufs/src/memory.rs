//! An under store in memory, for tests: raw keys, counted requests, faults on demand.
//!
//! Faults act where the callers of an under store see them: after its own retries. Nothing here
//! sleeps: a stalled call waits until the test resumes the store.

use crate::{Body, Depth, Error, ListPage, Object, Requests, Result, UnderStore, counter::Counter};
use async_trait::async_trait;
use bytes::Bytes;
use forebay_types::{Code, Fingerprint};
use futures::{StreamExt as _, stream, stream::BoxStream};
use parking_lot::Mutex;
use std::{collections::BTreeMap, collections::VecDeque, ops::Range, sync::Arc};
use tokio::sync::watch;

/// Bytes of one piece of a body.
const CHUNK: usize = 64 << 10;
/// Entries of one piece of a listing.
const PAGE: usize = 1000;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`UnderStore::list`].
    List,
    /// [`UnderStore::stat`].
    Stat,
    /// [`UnderStore::read`].
    Read,
    /// [`UnderStore::probe`].
    Probe,
}

/// What goes wrong with one call.
#[derive(Clone, Debug)]
enum Fault {
    Fail(Code),
    /// The body ends with [`Code::Unavailable`] after so many bytes.
    Cut(u64),
    /// After so many bytes of the body the object gets this content.
    Change(u64, Bytes),
}

struct Stored {
    content: Bytes,
    generation: u64,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Vec<u8>, Stored>,
    generation: u64,
    faults: VecDeque<(Operation, Fault)>,
    log: Vec<(Bytes, Range<u64>)>,
}

impl State {
    fn put(&mut self, key: &[u8], content: Bytes) {
        self.generation += 1;
        let generation = self.generation;
        self.objects.insert(
            key.to_vec(),
            Stored {
                content,
                generation,
            },
        );
    }

    fn fault(&mut self, operation: Operation) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| *of == operation)?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }
}

impl Stored {
    fn object(&self, key: &[u8]) -> Object {
        Object {
            key: Bytes::copy_from_slice(key),
            fingerprint: self.fingerprint(),
            mtime_ns: self.generation as i64 * 1_000_000_000,
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            size: self.content.len() as u64,
            mtime_ns: 0,
            etag: format!("\"{}\"", self.generation),
        }
    }
}

/// An under store in memory. Clones share the content.
#[derive(Clone)]
pub struct MemStore {
    state: Arc<Mutex<State>>,
    counter: Arc<Counter>,
    stalled: Arc<watch::Sender<Option<Operation>>>,
}

impl Default for MemStore {
    fn default() -> MemStore {
        MemStore {
            state: Arc::default(),
            counter: Arc::default(),
            stalled: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl MemStore {
    /// An empty store.
    pub fn new() -> MemStore {
        MemStore::default()
    }

    /// Stores `content` under `key`; the object gets a new etag even if the content is the same.
    pub fn put(&self, key: impl AsRef<[u8]>, content: impl Into<Bytes>) {
        self.state.lock().put(key.as_ref(), content.into());
    }

    /// Removes `key`; returns whether it was there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> bool {
        self.state.lock().objects.remove(key.as_ref()).is_some()
    }

    /// Lets the next `times` calls of `operation` fail with `code`.
    pub fn fail(&self, operation: Operation, code: Code, times: usize) {
        let fault = (operation, Fault::Fail(code));
        self.state
            .lock()
            .faults
            .extend(std::iter::repeat_n(fault, times));
    }

    /// Lets the body of the next read end in an error after `bytes` bytes.
    pub fn cut_body(&self, bytes: u64) {
        self.state
            .lock()
            .faults
            .push_back((Operation::Read, Fault::Cut(bytes)));
    }

    /// Puts `content` under the key of the next read once `bytes` bytes of its body are out; the
    /// rest of that body is [`Code::Stale`].
    pub fn change_during_body(&self, bytes: u64, content: impl Into<Bytes>) {
        let fault = Fault::Change(bytes, content.into());
        self.state.lock().faults.push_back((Operation::Read, fault));
    }

    /// Lets every call of `operation` wait until [`MemStore::resume`].
    pub fn stall(&self, operation: Operation) {
        self.stalled.send_replace(Some(operation));
    }

    /// Lets stalled calls go on.
    pub fn resume(&self) {
        self.stalled.send_replace(None);
    }

    /// Key and range of every read so far, in order.
    pub fn reads(&self) -> Vec<(Bytes, Range<u64>)> {
        self.state.lock().log.clone()
    }

    /// Requests so far.
    pub fn requests(&self) -> Requests {
        self.counter.get()
    }

    async fn pass(&self, operation: Operation) -> Result<Option<Fault>> {
        let mut stalled = self.stalled.subscribe();
        // The sender lives in self: waiting cannot fail.
        let _ = stalled.wait_for(|of| *of != Some(operation)).await;
        match self.state.lock().fault(operation) {
            Some(Fault::Fail(code)) => Err(Error::new(
                code,
                format!("injected fault: {operation:?} fails with {code}"),
            )),
            other => Ok(other),
        }
    }

    /// Everything under `prefix`, cut into pieces.
    fn pages(&self, prefix: &[u8], depth: Depth) -> Vec<ListPage> {
        let state = self.state.lock();
        let mut pages = Vec::new();
        let mut page = ListPage::default();
        let below = state
            .objects
            .range(prefix.to_vec()..)
            .take_while(|(k, _)| k.starts_with(prefix));
        for (key, stored) in below {
            let slash = key[prefix.len()..].iter().position(|b| *b == b'/');
            match slash {
                Some(at) if depth == Depth::Directory => {
                    let name = &key[..=prefix.len() + at];
                    if page.prefixes.last().is_none_or(|last| last != name) {
                        page.prefixes.push(Bytes::copy_from_slice(name));
                    }
                }
                _ => page.objects.push(stored.object(key)),
            }
            // A piece ends only after an object, so no prefix is ever in two pieces.
            if page.objects.len() >= PAGE {
                pages.push(std::mem::take(&mut page));
            }
        }
        pages.push(page);
        pages
    }

    fn get(&self, key: &[u8]) -> Result<(Bytes, Fingerprint)> {
        let state = self.state.lock();
        let stored = state.objects.get(key).ok_or_else(|| missing(key))?;
        Ok((stored.content.clone(), stored.fingerprint()))
    }
}

fn missing(key: &[u8]) -> Error {
    Error::new(
        Code::NotFound,
        format!("no object '{}'", key.escape_ascii()),
    )
}

fn stale(key: &[u8]) -> Error {
    Error::new(
        Code::Stale,
        format!("object '{}' has changed", key.escape_ascii()),
    )
}

#[async_trait]
impl UnderStore for MemStore {
    fn list(&self, prefix: &[u8], depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let (store, prefix) = (self.clone(), prefix.to_vec());
        let pages = async move {
            store.counter.list();
            match store.pass(Operation::List).await {
                Ok(_) => {
                    stream::iter(store.pages(&prefix, depth).into_iter().map(Ok)).left_stream()
                }
                Err(error) => stream::iter([Err(error)]).right_stream(),
            }
        };
        stream::once(pages).flatten().boxed()
    }

    async fn stat(&self, key: &[u8]) -> Result<Object> {
        self.counter.stat();
        self.pass(Operation::Stat).await?;
        let state = self.state.lock();
        let stored = state.objects.get(key).ok_or_else(|| missing(key))?;
        Ok(stored.object(key))
    }

    async fn read(&self, key: &[u8], range: Range<u64>, expected: &Fingerprint) -> Result<Body> {
        self.counter.read();
        self.state
            .lock()
            .log
            .push((Bytes::copy_from_slice(key), range.clone()));
        let fault = self.pass(Operation::Read).await?;
        let (content, fingerprint) = self.get(key).map_err(|_| stale(key))?;
        if fingerprint != *expected {
            return Err(stale(key));
        }
        if range.start >= range.end || range.end > fingerprint.size {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "range {}..{} is not within {} bytes",
                    range.start, range.end, fingerprint.size
                ),
            ));
        }
        let (limit, change) = match fault {
            Some(Fault::Cut(bytes)) => (bytes, None),
            Some(Fault::Change(bytes, content)) => (bytes, Some(content)),
            _ => (u64::MAX, None),
        };
        let mut left = content.slice(range.start as usize..range.end as usize);
        let mut allowed = usize::try_from(limit).unwrap_or(usize::MAX);
        let (store, key) = (self.clone(), key.to_vec());
        let mut change = Some(change);
        let pieces = stream::iter(std::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            if allowed == 0 {
                // One error ends the body.
                return match change.take()? {
                    None => Some(Err(Error::new(
                        Code::Unavailable,
                        "injected fault: body cut",
                    ))),
                    Some(content) => {
                        store.put(&key, content);
                        Some(Err(stale(&key)))
                    }
                };
            }
            let piece = left.split_to(CHUNK.min(allowed).min(left.len()));
            allowed -= piece.len();
            store.counter.bytes(piece.len());
            Some(Ok(piece))
        }));
        Ok(Body {
            fingerprint,
            bytes: pieces.boxed(),
        })
    }

    async fn probe(&self) -> Result<()> {
        self.pass(Operation::Probe).await.map(drop)
    }

    fn requests(&self) -> Requests {
        self.counter.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;

    #[tokio::test]
    async fn faults_happen_once_and_in_order() {
        let store = MemStore::new();
        store.put("a", vec![7; 200_000]);
        let print = store.stat(b"a").await.unwrap().fingerprint;
        store.fail(Operation::Read, Code::Unavailable, 1);
        store.cut_body(70_000);
        store.change_during_body(10, "new");
        let error = store.read(b"a", 0..10, &print).await.err().unwrap();
        assert_eq!(error.code(), Code::Unavailable);
        let pieces: Vec<_> = store
            .read(b"a", 0..200_000, &print)
            .await
            .unwrap()
            .bytes
            .collect()
            .await;
        let got: usize = pieces.iter().flatten().map(Bytes::len).sum();
        assert_eq!((got, pieces.last().unwrap().is_err()), (70_000, true));
        let body = store.read(b"a", 0..20, &print).await.unwrap().bytes;
        assert_eq!(
            body.try_collect::<Vec<_>>().await.unwrap_err().code(),
            Code::Stale
        );
        assert_eq!(
            store.read(b"a", 0..20, &print).await.err().unwrap().code(),
            Code::Stale
        );
        assert_eq!(store.requests().read, 4);
    }

    #[tokio::test]
    async fn a_stalled_call_waits_for_resume() {
        let store = MemStore::new();
        store.put("a", "x");
        store.stall(Operation::Stat);
        let other = store.clone();
        let waiting = tokio::spawn(async move { other.stat(b"a").await });
        while store.requests().stat == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        store.resume();
        assert!(waiting.await.unwrap().is_ok());
    }
}
