//! Fills: bytes that the cache lacks are fetched once, however many readers wait for them.
//!
//! A file with readers has one [`Filling`]: the flights under way and the streams seen. Missing
//! pages that no flight covers get new ones, contiguous pages joined. The bytes go into the sparse
//! file as they arrive, and a reader goes on as soon as its own range is in, before the page is whole
//! or in the index. A flight belongs to nobody: it goes on when the reader who caused it is gone.

use crate::{
    disk::Disk,
    flight::{Ending, Flight, cut},
    metrics::Metrics,
    prefetch::{Advice, MAX_PIECE, MAX_WINDOW, Streams},
    source::{Fetch, Reach, Sources},
};
use bytes::Bytes;
use forebay_cache::{CachedFile, PageWriter, Store};
use forebay_client::{Ensured, Error, Result};
use forebay_service::Shutdown;
use forebay_types::{
    Code, FileId, FileRef, PAGE_SIZE,
    page::{bytes_of, pages_of},
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::yield_now, time::timeout};

/// Bytes written to the disk in one call.
const WRITE: usize = 256 << 10;
/// Flights of one file, waiting ones included, beyond which nothing more is fetched ahead.
const MOST_FLIGHTS: usize = 64;
/// Once the under store was found to have another content, reads of missing pages fail for so long
/// without asking it again.
const STALE_MEMORY: Duration = Duration::from_secs(3);
/// How long a fill waits for room …
const ROOM_WAIT: Duration = Duration::from_millis(300);
/// … and if there was none, for how long no other fill waits.
const ROOM_DESPAIR: Duration = Duration::from_secs(1);
const SHARDS: usize = 64;

/// Told when the under store has another content than a file reference says, before any reader is.
pub type OnStale = Arc<dyn Fn(Arc<FileRef>) -> BoxFuture<'static, ()> + Send + Sync>;

/// How the caller of [`Filler::ensure`] goes through the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What to fetch ahead.
    pub pattern: Pattern,
    /// How far requests may go.
    pub reach: Reach,
    /// Whether somebody waits, or the bytes are only to be there later.
    pub urgent: bool,
}

/// What is known of the bytes that will be wanted next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Nothing: judge by the accesses.
    Observed,
    /// Everything up to this offset, in order.
    Until(u64),
}

impl Access {
    /// A read of this node: the pattern is judged by what was read before.
    pub const LOCAL: Access = Access {
        pattern: Pattern::Observed,
        reach: Reach::Peers,
        urgent: true,
    };
}

/// A part of the table of files with readers.
type Shard = Mutex<HashMap<FileId, Arc<Filling>>>;

/// Fills the files of a store.
pub struct Filler {
    store: Arc<Store>,
    sources: Arc<Sources>,
    disk: Disk,
    metrics: Metrics,
    shutdown: Shutdown,
    on_stale: OnStale,
    room: Notify,
    /// Until when no fill waits for room: the last one waited in vain.
    no_room_until: Mutex<Option<Instant>>,
    files: Box<[Shard]>,
}

impl fmt::Debug for Filler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filler")
    }
}

/// A file with readers.
struct Filling {
    file_ref: Arc<FileRef>,
    file: Arc<CachedFile>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    flights: Vec<Arc<Flight>>,
    streams: Streams,
    stale_until: Option<Instant>,
}

/// Takes part in the filling of a file.
pub struct Part {
    filler: Arc<Filler>,
    /// Absent only while it is dropped.
    filling: Option<Arc<Filling>>,
}

impl Part {
    fn filling(&self) -> &Arc<Filling> {
        self.filling.as_ref().expect("taken only by drop")
    }
}

impl Clone for Part {
    fn clone(&self) -> Part {
        Part {
            filler: self.filler.clone(),
            filling: self.filling.clone(),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(filling) = self.filling.take() else {
            return;
        };
        let id = filling.file.id();
        let mut files = self.filler.shard(id).lock();
        // The table holds one, we hold one: the last part takes the entry with it.
        let own = files.get(&id).is_some_and(|f| Arc::ptr_eq(f, &filling));
        let last = own && Arc::strong_count(&filling) == 2;
        drop(filling);
        let entry = if last { files.remove(&id) } else { None };
        drop(files);
        drop(entry);
    }
}

impl Filler {
    /// Fills the files of `store` from `sources` on the current runtime.
    pub fn new(
        store: Arc<Store>,
        sources: Arc<Sources>,
        disk: Disk,
        metrics: Metrics,
        on_stale: OnStale,
        shutdown: Shutdown,
    ) -> Filler {
        let files = (0..SHARDS).map(|_| Mutex::default()).collect();
        Filler {
            store,
            sources,
            disk,
            metrics,
            shutdown,
            on_stale,
            room: Notify::new(),
            no_room_until: Mutex::new(None),
            files,
        }
    }

    /// Takes part in the filling of a file, on which the caller has a lease.
    pub fn join(self: &Arc<Self>, file: &Arc<CachedFile>, file_ref: &Arc<FileRef>) -> Part {
        let mut files = self.shard(file.id()).lock();
        let filling = match files.get(&file.id()) {
            Some(filling) if Arc::ptr_eq(&filling.file, file) => filling.clone(),
            // None, or one of a file that was dropped meanwhile: its readers go on by themselves.
            _ => {
                let state = Mutex::default();
                let filling = Filling {
                    file_ref: file_ref.clone(),
                    file: file.clone(),
                    state,
                };
                let filling = Arc::new(filling);
                files.insert(file.id(), filling.clone());
                filling
            }
        };
        Part {
            filler: self.clone(),
            filling: Some(filling),
        }
    }

    /// Room may have been made: fills that wait for it try again.
    pub fn made_room(&self) {
        self.room.notify_waiters();
    }

    fn shard(&self, id: FileId) -> &Shard {
        let hash = id.ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ id.version.0;
        &self.files[(hash >> 32) as usize % SHARDS]
    }

    /// Fetches and writes the bytes of a flight.
    async fn fly(&self, filling: &Filling, flight: &Flight, reach: Reach) -> Ending {
        let _lease = self.store.lease(&filling.file);
        let (file_ref, range) = (filling.file_ref.clone(), flight.bytes.clone());
        let mut fetch = self
            .sources
            .fetch(file_ref, range, reach, flight.urgency.clone());
        // No room is reserved for a request that still has to wait, and no request is made for
        // which there is no room.
        fetch.admit().await;
        let written = match self.writer(filling, flight).await {
            Ok(writer) => self.transfer(&mut fetch, writer, flight).await,
            Err(error) => Err(Trouble::Cache(error)),
        };
        match written {
            Ok(()) => Ending::Done,
            Err(Trouble::Cache(error)) => {
                tracing::debug!(file = %filling.file.id(), %error, "cannot cache");
                Ending::NotCached
            }
            Err(Trouble::Source(error)) => {
                Ending::Failed(self.source_failed(&filling.file_ref, error).await)
            }
        }
    }

    /// Passes an error of the sources on; one of another content only after the master knows of it.
    pub(crate) async fn source_failed(&self, file: &Arc<FileRef>, error: Error) -> Error {
        if error.code == Code::Stale {
            self.metrics.stale_fills.inc();
            (self.on_stale)(file.clone()).await;
        }
        error
    }

    /// A writer for the pages of a flight. If there is no room, it waits a little for maintenance to
    /// make some: that costs less than reads without the cache.
    async fn writer(
        &self,
        filling: &Filling,
        flight: &Flight,
    ) -> std::result::Result<PageWriter, forebay_cache::Error> {
        let deadline = Instant::now() + ROOM_WAIT;
        loop {
            let room = self.room.notified();
            let (store, file) = (self.store.clone(), filling.file.clone());
            let (first, bytes) = (flight.pages.start, flight.bytes.end - flight.bytes.start);
            let error = match self
                .disk
                .run(move || store.writer(&file, first, bytes))
                .await
            {
                Err(error) if error.code() == Code::NoSpace => error,
                done => return done,
            };
            let now = Instant::now();
            if self.no_room_until.lock().is_some_and(|until| now < until) {
                return Err(error);
            }
            if timeout(deadline - now, room).await.is_err() {
                *self.no_room_until.lock() = Some(Instant::now() + ROOM_DESPAIR);
                return Err(error);
            }
        }
    }

    async fn transfer(
        &self,
        fetch: &mut Fetch,
        mut writer: PageWriter,
        flight: &Flight,
    ) -> std::result::Result<(), Trouble> {
        while let Some(mut bytes) = fetch.next().await.map_err(Trouble::Source)? {
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(WRITE));
                writer = self.write(writer, piece).await.map_err(Trouble::Cache)?;
                if flight.advance(writer.position()) {
                    // The reader first: it may lie behind us on this very thread.
                    yield_now().await;
                }
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        mut writer: PageWriter,
        piece: Bytes,
    ) -> std::result::Result<PageWriter, forebay_cache::Error> {
        self.disk
            .run(move || writer.write(&piece).map(|()| writer))
            .await
    }
}

/// What waiting for bytes came to.
enum Waited {
    There,
    NotCached,
    Failed(Error),
    /// A flight failed that was under way before we came.
    OthersFailed,
}

/// Which side failed.
enum Trouble {
    Cache(forebay_cache::Error),
    Source(Error),
}

/// Ends a flight, however its task ends.
struct Landing {
    part: Part,
    flight: Arc<Flight>,
    ending: Option<Ending>,
}

impl Landing {
    async fn fly(mut self, reach: Reach) {
        let filler = &self.part.filler;
        let ending = filler.fly(self.part.filling(), &self.flight, reach).await;
        self.ending = Some(ending);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let stopped = || Ending::Failed(Error::new(Code::Unavailable, "the worker is stopping"));
        let ending = self.ending.take().unwrap_or_else(stopped);
        {
            let mut state = self.part.filling().state.lock();
            state.flights.retain(|f| !Arc::ptr_eq(f, &self.flight));
            if matches!(&ending, Ending::Failed(error) if error.code == Code::Stale) {
                state.stale_until = Some(Instant::now() + STALE_MEMORY);
            }
        }
        self.flight.end(ending);
    }
}

impl Part {
    /// The file.
    pub fn file(&self) -> &Arc<CachedFile> {
        &self.filling().file
    }

    /// Waits until the bytes of `range` are in the file. Ready at the first poll if they are.
    pub async fn ensure(&self, range: Range<u64>, access: Access) -> Result<Ensured> {
        let filling = self.filling();
        let range = range.start..range.end.min(filling.file.size());
        if range.is_empty() {
            return Ok(Ensured::Present);
        }
        if !filling.file.is_verified() && !self.verify(&range).await {
            return Ok(Ensured::NotCached);
        }
        let waited = match self.wait(&range, access).await {
            // A flight that somebody else began failed while we were waiting for it, perhaps long
            // after its trouble began: one of our own may do better.
            Waited::OthersFailed => self.wait(&range, access).await,
            waited => waited,
        };
        match waited {
            Waited::There => Ok(Ensured::Present),
            Waited::NotCached => Ok(Ensured::NotCached),
            Waited::Failed(error) => Err(error),
            Waited::OthersFailed => {
                let text = "fills of these bytes by other readers keep failing";
                Err(Error::new(Code::Unavailable, text))
            }
        }
    }

    async fn wait(&self, range: &Range<u64>, access: Access) -> Waited {
        let flights = match self.plan(range, access) {
            Ok(flights) => flights,
            Err(error) => return Waited::Failed(error),
        };
        if flights.is_empty() {
            let metrics = &self.filler.metrics;
            let pages = pages_of(range.clone(), self.filling().file.size());
            metrics.bytes_from_cache.inc_by(range.end - range.start);
            metrics
                .pages_from_cache
                .inc_by(u64::from(pages.end - pages.start));
        }
        for (flight, own) in flights {
            match flight.reached(range.end).await {
                Ending::Done => {}
                Ending::NotCached => return Waited::NotCached,
                Ending::Failed(error) if own || error.code == Code::Stale => {
                    return Waited::Failed(error);
                }
                Ending::Failed(_) => return Waited::OthersFailed,
            }
        }
        Waited::There
    }

    /// Compares the checksums of the pages of `range` that a predecessor left behind.
    async fn verify(&self, range: &Range<u64>) -> bool {
        let (store, file) = (self.filler.store.clone(), self.filling().file.clone());
        let pages = pages_of(range.clone(), file.size());
        let verified = self
            .filler
            .disk
            .blocking(move || store.verify(&file, pages))
            .await;
        verified
            .inspect_err(|error| tracing::debug!(%error, "cannot verify"))
            .is_ok()
    }

    /// The flights to wait for, and whether they are our own: those are on their way when it returns.
    fn plan(&self, range: &Range<u64>, access: Access) -> Result<Vec<(Arc<Flight>, bool)>> {
        let filling = self.filling();
        let size = filling.file.size();
        let wanted = pages_of(range.clone(), size);
        let mut state = filling.state.lock();
        let advice = match access.pattern {
            Pattern::Observed => state.streams.access(range.clone(), size),
            Pattern::Until(end) => in_order(range.end, end.min(size)),
        };
        let missing = filling.file.missing(wanted.clone());
        if missing.is_empty() && advice.ahead.is_empty() {
            return Ok(Vec::new());
        }
        if state
            .stale_until
            .is_some_and(|until| Instant::now() < until)
        {
            if missing.is_empty() {
                return Ok(Vec::new());
            }
            return Err(Error::new(
                Code::Stale,
                format!(
                    "file {} has another content in the under store now",
                    filling.file.id()
                ),
            ));
        }
        let mut absent = missing;
        let ahead = pages_of(advice.ahead, size);
        let ahead = ahead.start.max(wanted.end)..ahead.end;
        if !ahead.is_empty() && state.flights.len() < MOST_FLIGHTS {
            join(&mut absent, filling.file.missing(ahead));
        }
        let busy: Vec<_> = state.flights.iter().map(|f| f.pages.clone()).collect();
        let started: Vec<Arc<Flight>> = cut(&absent, &busy, advice.piece)
            .into_iter()
            .map(|pages| {
                let urgent = access.urgent && pages.start < wanted.end;
                let bytes = bytes_of(pages.clone(), size);
                Arc::new(Flight::new(pages, bytes, urgent))
            })
            .collect();
        state.flights.extend(started.iter().cloned());
        // Pages that a flight has just completed are no longer missing, but its flight may be listed
        // still: waiting for it costs nothing.
        let overlaps = |f: &Flight| f.pages.start < wanted.end && wanted.start < f.pages.end;
        let others = state.flights.len() - started.len();
        let flights = state
            .flights
            .iter()
            .enumerate()
            .filter(|(_, f)| overlaps(f));
        let awaited: Vec<_> = flights.map(|(n, f)| (f.clone(), n >= others)).collect();
        drop(state);
        if access.urgent && awaited.iter().filter(|(f, _)| f.urgency.raise()).count() > 0 {
            self.filler.sources.reconsider();
        }
        for flight in started {
            self.start(flight, access.reach);
        }
        Ok(awaited)
    }

    fn start(&self, flight: Arc<Flight>, reach: Reach) {
        let landing = Landing {
            part: self.clone(),
            flight,
            ending: None,
        };
        // The caller may poll outside of the runtime.
        let _runtime = self.filler.disk.enter();
        self.filler.shutdown.spawn(landing.fly(reach));
    }
}

/// What to fetch ahead for a caller who will want everything up to `end` in order.
fn in_order(from: u64, end: u64) -> Advice {
    let from = from.next_multiple_of(PAGE_SIZE);
    let reach = from + MAX_WINDOW;
    let reach = if reach >= end {
        end
    } else {
        reach - reach % MAX_PIECE
    };
    Advice {
        ahead: from.min(reach)..reach,
        piece: MAX_PIECE,
    }
}

/// Appends runs of pages, joining where the last meets the next.
fn join(runs: &mut Vec<Range<u32>>, more: Vec<Range<u32>>) {
    for run in more {
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    }
}
