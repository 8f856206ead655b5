//! Where bytes come from when the cache has none: the file's home workers, then the under store.
//!
//! One [`Fetch`] serves fills and uncached reads alike. It goes through the sources in order and
//! carries on with the next one where the last one stopped, so that its caller sees one run of bytes.
//! Leave to make requests is held per kind of source: a request to another worker may wait there
//! for one to the under store, never the other way round, so two workers cannot wait for each other.

use crate::{
    gate::{Gate, Limits, Permit, Urgency},
    metrics::Metrics,
};
use bytes::Bytes;
use forebay_client::{Error, Result, Topology, WorkerPool};
use forebay_proto::{convert::code_of, v1};
use forebay_types::{Address, Code, FileRef, MountId, MountSpec, WorkerId};
use forebay_ufs::UnderStore;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// Home workers tried before the under store.
const MOST_HOMES: usize = 2;
/// A worker that sends nothing for so long is given up for this request …
const PEER_SILENCE: Duration = Duration::from_secs(5);
/// … and not asked again for so long.
const PEER_PENALTY: Duration = Duration::from_secs(5);
/// How long to wait for the mount table when a file's mount is not in it yet.
const MOUNT_WAIT: Duration = Duration::from_secs(3);
/// Each kind of source gets one in so many bytes of the memory budget.
const GATE_SHARE: u64 = 4;
/// Requests under way to each kind of source.
pub const MOST_REQUESTS: usize = 64;
/// Bytes that one request holds in memory at most: what has been received and not been written yet.
pub const REQUEST_MEMORY: u64 = 1 << 20;

/// An under store in use, or why it cannot be.
#[derive(Clone)]
pub struct Mounted {
    /// As the master gave it.
    pub spec: MountSpec,
    /// The store.
    pub store: Result<Arc<dyn UnderStore>>,
}

/// The cluster as the sources see it.
#[derive(Clone, Default)]
pub struct View {
    /// Live workers.
    pub topology: Arc<Topology>,
    /// Under stores by mount.
    pub mounts: HashMap<MountId, Mounted>,
}

/// How far a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Home workers first.
    Peers,
    /// Only the under store: another worker asks us as the file's home.
    Origin,
}

/// All sources; shared by everything that fetches.
pub struct Sources {
    own: WorkerId,
    view: watch::Sender<Arc<View>>,
    workers: WorkerPool,
    avoid: Mutex<HashMap<WorkerId, Instant>>,
    peers: Gate,
    origin: Gate,
    metrics: Metrics,
    outdated: Notify,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// Sources of the worker `own`, which know of nobody yet. Their requests hold at most half
    /// of `memory` bytes.
    pub fn new(own: WorkerId, memory: u64, metrics: Metrics) -> Sources {
        let limits = Limits {
            requests: MOST_REQUESTS,
            bytes: memory / GATE_SHARE,
        };
        Sources {
            own,
            view: watch::Sender::default(),
            workers: WorkerPool::new(),
            avoid: Mutex::default(),
            peers: Gate::new(limits),
            origin: Gate::new(limits),
            metrics,
            outdated: Notify::new(),
        }
    }

    /// The cluster as it is seen now.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// From now on the cluster is like this.
    pub fn set_view(&self, view: View) {
        self.view.send_replace(Arc::new(view));
    }

    /// The view may be out of date.
    pub fn suspect(&self) {
        self.outdated.notify_one();
    }

    /// Waits until somebody found the view wanting: a worker that fails, a mount that is missing.
    pub async fn outdated(&self) {
        self.outdated.notified().await;
    }

    /// The bytes `range` of `file` (not empty, within the file). Nothing is asked before the first poll.
    pub fn fetch(
        self: &Arc<Self>,
        file: Arc<FileRef>,
        range: Range<u64>,
        reach: Reach,
        urgency: Arc<Urgency>,
    ) -> Fetch {
        let steps = self.steps(&file, range.start, reach);
        Fetch {
            sources: self.clone(),
            file,
            range,
            urgency,
            steps,
            permit: None,
            current: None,
            failed: None,
        }
    }

    /// Some request waits for somebody now.
    pub fn reconsider(&self) {
        self.peers.reconsider();
        self.origin.reconsider();
    }

    /// Home workers before ourselves, as far as they are not to be avoided, then the under store.
    fn steps(&self, file: &FileRef, offset: u64, reach: Reach) -> VecDeque<Step> {
        let mut steps = VecDeque::new();
        let view = self.view();
        if reach == Reach::Peers && view.topology.workers.len() > 1 {
            let homes = view.topology.homes(file.id, offset);
            let now = Instant::now();
            let mut avoid = self.avoid.lock();
            avoid.retain(|_, until| *until > now);
            let homes = homes
                .into_iter()
                .take(MOST_HOMES)
                .take_while(|w| w.id != self.own);
            steps.extend(
                homes
                    .filter(|w| !avoid.contains_key(&w.id))
                    .map(|w| Step::Peer(w.id, w.address.clone())),
            );
        }
        steps.push_back(Step::Origin);
        steps
    }

    fn avoid(&self, worker: WorkerId, error: &Error) {
        tracing::debug!(%worker, %error, "worker failed; going to the next source");
        self.metrics.peer_failures.inc();
        self.avoid
            .lock()
            .insert(worker, Instant::now() + PEER_PENALTY);
        self.suspect();
    }

    async fn store_of(&self, mount: MountId) -> Result<Arc<dyn UnderStore>> {
        if let Some(mounted) = self.view.borrow().mounts.get(&mount) {
            return mounted.store.clone();
        }
        self.suspect();
        let mut views = self.view.subscribe();
        let known = timeout(
            MOUNT_WAIT,
            views.wait_for(|v| v.mounts.contains_key(&mount)),
        )
        .await;
        match known {
            Ok(Ok(view)) => view.mounts[&mount].store.clone(),
            _ => Err(Error::new(
                Code::NotFound,
                format!(
                    "mount {mount} is not in the mount table: it was unmounted, or the master is away"
                ),
            )),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Peer(WorkerId, Address),
    Origin,
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// A run of bytes on its way.
pub struct Fetch {
    sources: Arc<Sources>,
    file: Arc<FileRef>,
    /// What is still to come.
    range: Range<u64>,
    urgency: Arc<Urgency>,
    /// Sources to try after the current one.
    steps: VecDeque<Step>,
    /// For the first of `steps` before it is asked, for the current one after.
    permit: Option<Permit>,
    current: Option<(Step, Pieces)>,
    failed: Option<Error>,
}

impl Fetch {
    /// Waits for leave to ask the first source, without asking it.
    pub async fn admit(&mut self) {
        if self.permit.is_none()
            && let Some(step) = self.steps.front()
        {
            let gate = match step {
                Step::Peer(..) => &self.sources.peers,
                Step::Origin => &self.sources.origin,
            };
            let memory = (self.range.end - self.range.start).min(REQUEST_MEMORY);
            self.permit = Some(gate.acquire(&self.urgency, memory).await);
        }
    }

    /// The next bytes; `None` at the end of the range.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.range.is_empty() {
            let Some((step, pieces)) = &mut self.current else {
                self.open().await?;
                continue;
            };
            let piece = match step {
                Step::Peer(..) => in_time(pieces.next()).await,
                Step::Origin => Ok(pieces.next().await),
            };
            let failure = match piece {
                Ok(Some(Ok(mut bytes))) => {
                    let left = self.range.end - self.range.start;
                    bytes.truncate(left.min(bytes.len() as u64) as usize);
                    self.range.start += bytes.len() as u64;
                    match step {
                        Step::Peer(..) => &self.sources.metrics.bytes_from_peers,
                        Step::Origin => &self.sources.metrics.bytes_from_ufs,
                    }
                    .inc_by(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Ok(Some(Err(error))) | Err(error) => error,
                Ok(None) => Error::new(Code::Unavailable, "the source ended before the range did"),
            };
            let step = step.clone();
            self.failed(&step, failure)?;
        }
        self.current = None;
        self.permit = None;
        Ok(None)
    }

    /// Asks the next source.
    async fn open(&mut self) -> Result<()> {
        if self.steps.is_empty() {
            let none = || Error::new(Code::Unavailable, "no source has the file");
            return Err(self.failed.take().unwrap_or_else(none));
        }
        self.admit().await;
        let Some(step) = self.steps.pop_front() else {
            return Ok(());
        };
        let opened = match &step {
            Step::Peer(_, address) => self.ask_peer(address).await,
            Step::Origin => self.ask_origin().await,
        };
        match opened {
            Ok(pieces) => self.current = Some((step, pieces)),
            Err(error) => self.failed(&step, error)?,
        }
        Ok(())
    }

    /// Whether the failure of a source is the last word.
    fn failed(&mut self, step: &Step, error: Error) -> Result<()> {
        self.current = None;
        if let Step::Peer(worker, _) = step
            && error.code != Code::Stale
        {
            self.sources.avoid(*worker, &error);
            self.failed = Some(error);
            if self
                .steps
                .front()
                .is_some_and(|next| matches!(next, Step::Origin))
            {
                self.permit = None;
            }
            return Ok(());
        }
        self.permit = None;
        Err(error)
    }

    async fn ask_peer(&mut self, address: &Address) -> Result<Pieces> {
        let request = v1::ReadRequest {
            file: Some(v1::FileRef::from((*self.file).clone())),
            offset: self.range.start,
            length: self.range.end - self.range.start,
            from_peer: true,
        };
        let mut worker = self.sources.workers.get(address);
        let address = address.clone();
        let wrong = move |status: tonic::Status| {
            let text = format!("worker {address}: {}", status.message());
            Error::new(code_of(&status), text)
        };
        let answer = in_time(worker.read(request)).await?.map_err(&wrong)?;
        Ok(answer
            .into_inner()
            .map(move |r| r.map(|r| r.data).map_err(&wrong))
            .boxed())
    }

    async fn ask_origin(&mut self) -> Result<Pieces> {
        let store = self.sources.store_of(self.file.mount).await?;
        self.sources.metrics.ufs_requests.inc();
        let body = store
            .read(&self.file.key, self.range.clone(), &self.file.fingerprint)
            .await;
        Ok(body
            .map_err(|error| from_ufs(&error))?
            .bytes
            .map(|piece| piece.map_err(|error| from_ufs(&error)))
            .boxed())
    }
}

fn from_ufs(error: &forebay_ufs::Error) -> Error {
    Error::new(error.code, forebay_types::error::chain(error))
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T> {
    let late = |_| Error::new(Code::Timeout, "worker sent nothing for some seconds");
    timeout(PEER_SILENCE, answer).await.map_err(late)
}
