//! Loads files into the cache: walks the tree, hands every file to its home worker, counts what
//! comes back.
//!
//! One stream to each worker carries the files, its answers come back on the same call: no round
//! trip per file. What is found and not yet sent is remembered as bare inode numbers, so that the totals
//! are final early.

use super::{
    dispatch::{Copies, Dispatch, Item, WINDOW},
    fleet::{Client, FILES, Fleet},
    progress::Progress,
    walk::{File, Filter, Found, Unlisted, walk},
};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
    namespace::{Namespace, Resolved},
};
use forebay_proto::v1;
use forebay_types::{Code, FileId, Ino, WorkerId};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Time between two messages of progress.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Files found and not yet taken up: beyond this the walk waits (8 bytes each).
const FOUND_MAX: usize = 1 << 20;

/// A load job.
pub(crate) struct Load {
    pub(crate) namespace: Namespace,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) start: Resolved,
    pub(crate) filter: Filter,
    pub(crate) metadata_only: bool,
    pub(crate) copies: Copies,
    /// Whether all files are to be pinned, and not only those below a pin.
    pub(crate) pin: bool,
    /// Most bytes a second from the under stores; 0: no limit.
    pub(crate) bandwidth: u64,
}

/// Where progress goes.
pub(crate) type Listener = mpsc::Sender<std::result::Result<v1::JobProgress, Status>>;

/// What happens on a lane.
enum Event {
    Answer(usize, v1::LoadFileResult),
    Lost(usize, String),
}

impl Load {
    /// Runs until all is done or the listener is gone.
    pub(crate) async fn run(self, listener: Listener) {
        let gone = listener.clone();
        let work = async {
            // A listener that is gone needs no last message.
            let tell = |progress: &mut Progress| {
                // A listener that is slow gets the next one.
                if let Ok(place) = listener.try_reserve() {
                    place.send(Ok(progress.take()));
                }
            };
            let last = match self.work(tell).await {
                Ok(progress) => Ok(progress.finish()),
                Err(error) => Err(error.into()),
            };
            let _ = listener.send(last).await;
        };
        tokio::select! {
            () = work => {}
            () = gone.closed() => tracing::info!("load job stopped: its caller has gone"),
        }
    }

    /// Runs until all is done, and says every now and then how far it is.
    pub(crate) async fn work(self, mut tell: impl FnMut(&mut Progress) + Send) -> Result<Progress> {
        let topology = self.fleet.topology();
        if topology.workers.is_empty() && !self.metadata_only {
            return Err(Error::new(
                Code::Unavailable,
                "no worker is registered: start one, or load only the metadata",
            ));
        }
        let (out, mut found) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        let Load {
            namespace,
            start,
            filter,
            ..
        } = &self;
        let walking = walk(
            namespace.clone(),
            start.clone(),
            filter.clone(),
            Unlisted::Load,
            out,
        );
        tasks.spawn(walking);
        let (events, mut happened) = mpsc::channel(WINDOW);
        let dispatch = Dispatch::new(topology, self.copies);
        let mut running = Running {
            load: &self,
            dispatch,
            tasks,
            events,
            lanes: HashMap::new(),
            waiting: VecDeque::new(),
            progress: Progress::default(),
            pins: HashMap::new(),
        };
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listing = true;
        loop {
            running.send();
            if !listing && running.waiting.is_empty() && running.dispatch.is_idle() {
                break;
            }
            tokio::select! {
                next = found.recv(), if listing && running.waiting.len() < FOUND_MAX => {
                    listing = next.is_some();
                    match next {
                        Some(found) => running.found(found),
                        None => running.progress.listed(),
                    }
                }
                Some(event) = happened.recv() => running.happened(event),
                _ = tick.tick() => {
                    running.give_up_the_dead();
                    tell(&mut running.progress);
                }
            }
        }
        Ok(running.finish().await)
    }
}

/// A job under way. Dropping it stops its tasks.
struct Running<'a> {
    load: &'a Load,
    dispatch: Dispatch,
    tasks: JoinSet<()>,
    events: mpsc::Sender<Event>,
    lanes: HashMap<usize, Lane>,
    /// Found, not yet taken up.
    waiting: VecDeque<Ino>,
    progress: Progress,
    /// Loaded files below a pin, by worker: told to it in batches.
    pins: HashMap<WorkerId, Vec<FileId>>,
}

/// An open stream to a worker.
struct Lane {
    requests: mpsc::Sender<v1::LoadFile>,
    task: AbortHandle,
}

impl Running<'_> {
    fn found(&mut self, found: Found) {
        match found {
            Found::Directory(_) => {}
            Found::Files(files) => {
                for File { id, size } in files {
                    self.progress.found(size);
                    // There is nothing to fetch of an empty file.
                    if self.load.metadata_only || size == 0 {
                        self.progress.done(size, false);
                    } else {
                        self.waiting.push_back(id.ino);
                    }
                }
            }
            Found::Failed(dir, error) => self.fail(dir, error.code, &error.message),
        }
    }

    /// Sends as much as the windows allow.
    fn send(&mut self) {
        while self.dispatch.has_room()
            && let Some(ino) = self.waiting.pop_front()
        {
            match self.load.namespace.file(ino) {
                Ok(file) => self.add(Item::new(file)),
                Err(error) => self.fail(ino, error.code, &error.message),
            }
        }
        // What a worker gets from another one was limited there.
        let share = match self.load.bandwidth {
            0 => 0,
            all => all.div_ceil(self.dispatch.live() as u64),
        };
        while let Some((lane, item)) = self.dispatch.next() {
            let request = v1::LoadFile {
                bandwidth: if item.is_first() { share } else { 0 },
                file: Some(item.file.clone().into()),
            };
            // The channel holds a whole window: it is full or closed only if the stream has ended.
            if self.lane(lane).requests.try_send(request).is_err() {
                self.lost(lane, "the stream has ended");
            }
        }
    }

    /// To its next worker, or it has ended.
    fn add(&mut self, item: Item) {
        if let Some(item) = self.dispatch.add(item) {
            self.ended(item);
        }
    }

    fn ended(&mut self, mut item: Item) {
        if self.dispatch.is_done(&item) {
            let size = item.file.size();
            self.progress.done(size, item.cached_before);
            self.load.metrics.load_files.inc();
            self.load.metrics.load_bytes.inc_by(size);
        } else {
            let (code, reason) = item.fault.take().unwrap_or_else(|| {
                let text = "there are fewer workers than it is to have copies";
                (Code::Unavailable, text.to_owned())
            });
            self.fail(item.file.id.ino, code, &reason);
        }
    }

    fn happened(&mut self, event: Event) {
        let (lane, answer) = match event {
            Event::Answer(lane, answer) => (lane, answer),
            Event::Lost(lane, reason) => return self.lost(lane, &reason),
        };
        // A worker that was given up may answer late: its files are elsewhere now.
        let Some(mut item) = self.dispatch.answered(lane, Ino(answer.ino)) else {
            return;
        };
        let code = Code::from_number(answer.code as u8);
        if answer.code == 0 {
            item.placed(answer.cached_before);
            self.pin(lane, item.file.id);
        } else {
            item.fault = Some((code, answer.reason));
            // A worker that is full says nothing of the others that are to have it, too.
            let others = self.load.copies == Copies::All && code == Code::NoSpace;
            if !code.is_transient() && !others {
                return self.ended(item);
            }
        }
        if self.dispatch.is_done(&item) {
            self.ended(item);
        } else {
            self.add(item);
        }
    }

    fn fail(&mut self, ino: Ino, code: Code, reason: &str) {
        self.load.metrics.load_failures.inc();
        let meta = self.load.namespace.meta();
        // An inode that was replaced meanwhile has no path any more.
        let path = || {
            meta.path(ino)
                .ok()
                .flatten()
                .unwrap_or_else(|| b"(removed)".to_vec())
        };
        self.progress.failed(path, code, reason);
    }

    fn pin(&mut self, lane: usize, file: FileId) {
        // An error of the state shows itself elsewhere; the pin is repeated by the next load.
        let below_a_pin = || (self.load.namespace.meta().is_pinned(file.ino)).unwrap_or(false);
        if !self.load.pin && !below_a_pin() {
            return;
        }
        let worker = self.dispatch.worker(lane).clone();
        let files = self.pins.entry(worker.id).or_default();
        files.push(file);
        if files.len() >= FILES {
            let files = std::mem::take(files);
            self.send_pins(worker.id, files);
        }
    }

    fn send_pins(&mut self, worker: WorkerId, files: Vec<FileId>) {
        let fleet = self.load.fleet.clone();
        let topology = fleet.topology();
        let Some(worker) = topology.workers.into_iter().find(|w| w.id == worker) else {
            return;
        };
        self.tasks.spawn(async move {
            let files = files.into_iter().map(Into::into).collect();
            let mut client = fleet.client(&worker);
            let answer = client.pin(v1::FilesRequest { files });
            if let Err(error) = fleet.ask("pin", &worker, answer).await {
                tracing::warn!(%error, "files below a pin are loaded but not pinned");
            }
        });
    }

    /// The lane's stream, opened at its first use.
    fn lane(&mut self, lane: usize) -> &Lane {
        let Running {
            load,
            dispatch,
            tasks,
            events,
            lanes,
            ..
        } = self;
        lanes.entry(lane).or_insert_with(|| {
            let (requests, queue) = mpsc::channel(WINDOW);
            let client = load.fleet.client(dispatch.worker(lane));
            let task = tasks.spawn(converse(client, lane, queue, events.clone()));
            Lane { requests, task }
        })
    }

    fn lost(&mut self, lane: usize, reason: &str) {
        if self.dispatch.is_lost(lane) {
            return;
        }
        let worker = self.dispatch.worker(lane);
        tracing::warn!(address = %worker.address, reason, "load job lost a worker");
        let reason = format!(
            "worker {} was lost ({reason}) and no other is left",
            worker.address
        );
        if let Some(lane) = self.lanes.remove(&lane) {
            lane.task.abort();
        }
        for mut item in self.dispatch.lost(lane) {
            if item.fault.is_none() && !self.dispatch.is_done(&item) {
                item.fault = Some((Code::Unavailable, reason.clone()));
            }
            self.ended(item);
        }
    }

    /// A worker whose machine is gone does not end its stream, but it stops to report.
    fn give_up_the_dead(&mut self) {
        let live = self.load.fleet.workers().live(Instant::now());
        let dead: Vec<usize> = self
            .lanes
            .keys()
            .filter(|lane| !live.iter().any(|w| w.id == self.dispatch.worker(**lane).id))
            .copied()
            .collect();
        for lane in dead {
            self.lost(lane, "it does not report any more");
        }
    }

    /// Everything is answered: the streams end, and the last pins are set.
    async fn finish(mut self) -> Progress {
        for (_, lane) in self.lanes.drain() {
            lane.task.abort();
        }
        for (worker, files) in std::mem::take(&mut self.pins) {
            self.send_pins(worker, files);
        }
        while self.tasks.join_next().await.is_some() {}
        self.progress
    }
}

/// Carries requests to a worker and its answers back.
async fn converse(
    mut client: Client,
    lane: usize,
    requests: mpsc::Receiver<v1::LoadFile>,
    events: mpsc::Sender<Event>,
) {
    let reason = match client.load(ReceiverStream::new(requests)).await {
        Err(status) => status.message().to_owned(),
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => {
                        if events.send(Event::Answer(lane, answer)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "it ended the stream".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            }
        }
    };
    // The job may be done.
    let _ = events.send(Event::Lost(lane, reason)).await;
}
