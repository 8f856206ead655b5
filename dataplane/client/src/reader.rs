//! Reads files of other nodes: pages streamed from their home workers, with read-ahead.

use crate::{
    Error, Result, TopologyCache, WorkerInfo, WorkerPool, call::error_of, channel::STREAM_WINDOW,
    master::Master, placement::EXTENT_SIZE, window::Streams,
};
use bytes::{Bytes, BytesMut};
use forebay_proto::v1;
use forebay_types::{
    Addresses, Code, FileId, FileRef,
    page::{PAGE_SIZE, PageIndex, bytes_of, page_len, pages_of},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most pages asked for in one request of read-ahead.
const RUN: u32 = 8;
/// Files whose reads are followed; beyond, the one read longest ago is dropped.
const FILES: usize = 1_024;
/// How long all homes are tried again and again, the topology being refreshed in between: a restart of the only worker
/// is bridged, the absence of all is reported.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first pause between two rounds, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// The unit in which the budget is counted.
const GRAIN: u64 = 4 << 10;

/// A page on its way, or here; `None` until it is here.
type Coming = watch::Receiver<Option<Bytes>>;

/// Memory for what is read ahead; clones are the same memory.
#[derive(Clone)]
pub struct ReadAhead(Arc<Semaphore>);

impl ReadAhead {
    /// At most so many bytes at any time, of all readers that share it.
    pub fn new(bytes: u64) -> ReadAhead {
        let grains = usize::try_from(bytes / GRAIN).unwrap_or(usize::MAX);
        ReadAhead(Arc::new(Semaphore::new(grains.min(Semaphore::MAX_PERMITS))))
    }
}

/// Reads files of other nodes: pages streamed from their home workers, with read-ahead.
pub struct RemoteReader {
    inner: Arc<Inner>,
    /// Ends the read-ahead under way.
    _alive: DropGuard,
    ended: CancellationToken,
}

struct Inner {
    topology: TopologyCache,
    workers: WorkerPool,
    budget: ReadAhead,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    open: HashMap<FileId, Ahead>,
    clock: u64,
}

/// The read-ahead of one file.
#[derive(Default)]
struct Ahead {
    streams: Streams,
    pages: BTreeMap<PageIndex, (Coming, Arc<OwnedSemaphorePermit>)>,
    used: u64,
}

/// Pages to fetch in one request, and where to put them.
struct Run {
    pages: Range<PageIndex>,
    slots: Vec<watch::Sender<Option<Bytes>>>,
}

impl RemoteReader {
    /// A reader that reads ahead as far as the `budget` goes. Must be called within a tokio runtime.
    pub fn new(masters: impl Into<Addresses>, budget: &ReadAhead) -> RemoteReader {
        let ended = CancellationToken::new();
        RemoteReader {
            inner: Arc::new(Inner {
                topology: TopologyCache::new(Master::new(masters)),
                workers: WorkerPool::new(),
                budget: budget.clone(),
                files: Mutex::default(),
            }),
            _alive: ended.clone().drop_guard(),
            ended,
        }
    }

    /// The bytes of a range (cut at the end of the file), from the best home that answers.
    pub async fn read(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes> {
        let range = range.start..range.end.min(file.size());
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (coming, runs) = self.inner.plan(file, &range);
        for run in runs {
            let (inner, file, ended) = (self.inner.clone(), file.clone(), self.ended.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = inner.fill(&file, run) => {}
                }
            });
        }
        if let Some(coming) = coming
            && let Some(bytes) = assemble(coming, &range).await
        {
            return Ok(bytes);
        }
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        self.inner
            .fetch(file, range, |chunk| bytes.extend_from_slice(&chunk))
            .await?;
        Ok(bytes.freeze())
    }

    /// The file is no longer open: its read-ahead may go.
    pub fn forget(&self, file: &FileRef) {
        self.inner.files.lock().open.remove(&file.id);
    }
}

impl Inner {
    /// What to wait for (all pages of the range, if they are coming), and what to fetch.
    fn plan(&self, file: &FileRef, range: &Range<u64>) -> (Option<Vec<Coming>>, Vec<Run>) {
        let mut files = self.files.lock();
        let ahead = files.entry(file.id);
        let window = ahead.streams.observe(range);
        let Ahead { streams, pages, .. } = ahead;
        pages.retain(|page, _| streams.wants(&bytes_of(*page..page + 1, file.size())));
        let runs = match window {
            0 => Vec::new(),
            _ => self.start(
                file,
                pages,
                pages_of(range.start..range.end + window, file.size()),
            ),
        };
        let coming = pages_of(range.clone(), file.size())
            .map(|page| pages.get(&page).map(|(coming, _)| coming.clone()))
            .collect();
        (coming, runs)
    }

    /// Makes slots for the pages of `wanted` that are not coming yet, as far as the budget goes.
    fn start(
        &self,
        file: &FileRef,
        pages: &mut BTreeMap<PageIndex, (Coming, Arc<OwnedSemaphorePermit>)>,
        wanted: Range<PageIndex>,
    ) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for page in wanted {
            if pages.contains_key(&page) {
                continue;
            }
            let grains = page_len(file.size(), page).div_ceil(GRAIN) as u32;
            let Ok(permit) = self.budget.0.clone().try_acquire_many_owned(grains) else {
                break;
            };
            let (slot, coming) = watch::channel(None);
            pages.insert(page, (coming, Arc::new(permit)));
            match runs.last_mut() {
                Some(run) if run.pages.end == page && run.pages.len() < RUN as usize => {
                    run.pages.end += 1;
                    run.slots.push(slot);
                }
                _ => runs.push(Run {
                    pages: page..page + 1,
                    slots: vec![slot],
                }),
            }
        }
        runs
    }

    /// Fetches a run. Slots that stay empty when it fails make their readers fetch for themselves.
    async fn fill(&self, file: &FileRef, run: Run) {
        let size = file.size();
        let mut numbers = run.pages.clone();
        let mut slots = run.slots.into_iter();
        let mut page = BytesMut::new();
        let take = |mut chunk: Bytes| {
            while !chunk.is_empty() {
                let whole = page_len(size, numbers.start) as usize;
                if page.is_empty() && chunk.len() >= whole {
                    // The usual case: a chunk is a page, and is not copied.
                    deliver(&mut slots, &mut numbers, chunk.split_to(whole));
                    continue;
                }
                let part = chunk.split_to(chunk.len().min(whole - page.len()));
                page.extend_from_slice(&part);
                if page.len() == whole {
                    deliver(&mut slots, &mut numbers, page.split().freeze());
                }
            }
        };
        if let Err(error) = self
            .fetch(file, bytes_of(run.pages.clone(), size), take)
            .await
        {
            tracing::debug!(file = %file.id, %error, "read-ahead failed");
            let mut files = self.files.lock();
            if let Some(ahead) = files.open.get_mut(&file.id) {
                ahead
                    .pages
                    .retain(|n, (c, _)| !run.pages.contains(n) || c.borrow().is_some());
            }
        }
    }

    /// Hands the bytes of `range` to `take`, in order, from the best home that answers; another home
    /// goes on where one broke off.
    async fn fetch(
        &self,
        file: &FileRef,
        range: Range<u64>,
        mut take: impl FnMut(Bytes),
    ) -> Result<()> {
        let mut at = range.start;
        let end = Instant::now() + PATIENCE;
        let [mut pause, longest] = PAUSES;
        let mut topology = self.topology.get().await?;
        loop {
            let mut failure = None;
            let mut homes = topology.homes(file.id, at).into_iter();
            while at < range.end {
                let Some(home) = homes.next() else { break };
                let extent_end = (at / EXTENT_SIZE + 1) * EXTENT_SIZE;
                let part = at..range.end.min(extent_end);
                match self.stream(file, &part, home, &mut at, &mut take).await {
                    // The next extent has homes of its own.
                    Ok(()) => homes = topology.homes(file.id, at).into_iter(),
                    Err(error) if error.code == Code::Stale => return Err(error),
                    Err(error) => failure = Some(error),
                }
            }
            if at >= range.end {
                return Ok(());
            }
            let failure = failure.unwrap_or_else(|| {
                let text = format!("read of {}: the cluster has no live worker", file.id);
                Error::new(Code::Unavailable, text)
            });
            if !failure.code.is_transient() || Instant::now() >= end {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(longest);
            topology = self.topology.refresh().await?;
        }
    }

    async fn stream(
        &self,
        file: &FileRef,
        part: &Range<u64>,
        home: &WorkerInfo,
        at: &mut u64,
        take: &mut impl FnMut(Bytes),
    ) -> Result<()> {
        let failed = |status| error_of(&home.address, "read", &status);
        let request = v1::ReadRequest {
            file: Some(file.clone().into()),
            offset: part.start,
            length: part.end - part.start,
            from_peer: false,
        };
        let answer = self.workers.get(&home.address).read(request).await;
        let mut stream = answer.map_err(failed)?.into_inner();
        while let Some(message) = stream.message().await.map_err(failed)? {
            let left = part.end - *at;
            let mut data = message.data;
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(data.len()));
            *at += data.len() as u64;
            take(data);
        }
        if *at == part.end {
            return Ok(());
        }
        let text = format!("read at {}: the stream ended early", home.address);
        Err(Error::new(Code::Unavailable, text))
    }
}

impl Files {
    fn entry(&mut self, file: FileId) -> &mut Ahead {
        self.clock += 1;
        if self.open.len() >= FILES
            && !self.open.contains_key(&file)
            && let Some(oldest) = self
                .open
                .iter()
                .min_by_key(|(_, a)| a.used)
                .map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        let ahead = self.open.entry(file).or_default();
        ahead.used = self.clock;
        ahead
    }
}

fn deliver(
    slots: &mut impl Iterator<Item = watch::Sender<Option<Bytes>>>,
    numbers: &mut Range<PageIndex>,
    page: Bytes,
) {
    if let (Some(slot), Some(_)) = (slots.next(), numbers.next()) {
        // The reader may have moved on.
        let _ = slot.send(Some(page));
    }
}

/// The bytes of `range` out of its pages; `None` if one of them failed.
async fn assemble(coming: Vec<Coming>, range: &Range<u64>) -> Option<Bytes> {
    let first = range.start / PAGE_SIZE;
    let mut parts = Vec::with_capacity(coming.len());
    for (mut coming, number) in coming.into_iter().zip(first..) {
        let page = coming.wait_for(Option::is_some).await.ok()?.clone()?;
        let start = number * PAGE_SIZE;
        let from = range.start.saturating_sub(start) as usize;
        let to = (range.end - start).min(page.len() as u64) as usize;
        parts.push(page.slice(from..to));
    }
    if parts.len() == 1 {
        return parts.pop();
    }
    let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
    for part in parts {
        all.extend_from_slice(&part);
    }
    Some(all.freeze())
}

const _: () = assert!(
    STREAM_WINDOW as u64 >= PAGE_SIZE,
    "a page fits the window of its stream"
);
