//! A master in memory, behind real gRPC on a Unix socket: a tree that tests change at will, with
//! counts of what was asked.

use forebay_proto::{
    convert::{refusal, status},
    v1::{
        self, answer, call,
        metadata_server::{Metadata, MetadataServer},
        registry_server::{Registry, RegistryServer},
    },
};
use forebay_types::{Address, Code};
use std::{
    collections::BTreeMap,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};
use tokio_stream::{
    Stream,
    wrappers::{UnboundedReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub(crate) const ROOT: u64 = 1;

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    last_ino: u64,
    watchers: Vec<mpsc::UnboundedSender<Result<v1::Invalidation, Status>>>,
    calls: BTreeMap<&'static str, usize>,
    workers: Vec<v1::Worker>,
    /// Answers to `lookup` wait while this is set.
    held: bool,
}

struct Node {
    attr: v1::Attr,
    parent: u64,
    children: BTreeMap<Vec<u8>, u64>,
}

/// The master; its clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeMaster {
    state: Arc<Mutex<State>>,
    lease: Duration,
    address: Address,
    release: Arc<watch::Sender<u64>>,
}

impl FakeMaster {
    /// Serves at `socket` until the runtime ends.
    pub(crate) fn start(socket: &Path, lease: Duration) -> FakeMaster {
        let mut state = State {
            last_ino: ROOT,
            ..State::default()
        };
        state.nodes.insert(ROOT, Node::new(ROOT, ROOT, true, 0));
        let master = FakeMaster {
            state: Arc::new(Mutex::new(state)),
            lease,
            address: Address::Unix(socket.to_owned()),
            release: Arc::new(watch::Sender::new(0)),
        };
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = Server::builder()
            .add_service(MetadataServer::new(master.clone()))
            .add_service(RegistryServer::new(master.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(async move { server.await.unwrap() });
        let beating = Arc::downgrade(&master.state);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let Some(state) = beating.upgrade() else {
                    return;
                };
                let beat = v1::Invalidation::default();
                state
                    .lock()
                    .unwrap()
                    .watchers
                    .retain(|w| w.send(Ok(beat.clone())).is_ok());
            }
        });
        master
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn add(&self, parent: u64, name: &str, directory: bool, size: u64) -> u64 {
        let mut state = self.state();
        state.last_ino += 1;
        let ino = state.last_ino;
        state
            .nodes
            .insert(ino, Node::new(ino, parent, directory, size));
        let before = state
            .nodes
            .get_mut(&parent)
            .unwrap()
            .children
            .insert(name.into(), ino);
        if let Some(before) = before {
            state.nodes.remove(&before);
        }
        ino
    }

    pub(crate) fn add_dir(&self, parent: u64, name: &str) -> u64 {
        self.add(parent, name, true, 0)
    }

    pub(crate) fn add_file(&self, parent: u64, name: &str, size: u64) -> u64 {
        self.add(parent, name, false, size)
    }

    /// A new inode under a name, and everybody is told.
    pub(crate) fn put(&self, parent: u64, name: &str, size: u64) -> u64 {
        let ino = self.add(parent, name, false, size);
        self.tell(&entry(parent, name));
        ino
    }

    pub(crate) fn remove(&self, parent: u64, name: &str) {
        {
            let mut state = self.state();
            let children = &mut state.nodes.get_mut(&parent).unwrap().children;
            let ino = children.remove(name.as_bytes()).unwrap();
            state.nodes.remove(&ino);
        }
        self.tell(&entry(parent, name));
    }

    pub(crate) fn tell(&self, invalidation: &v1::Invalidation) {
        self.state()
            .watchers
            .retain(|w| w.send(Ok(invalidation.clone())).is_ok());
    }

    /// Breaks every `Watch` stream.
    pub(crate) fn cut_watches(&self) {
        self.state().watchers.clear();
    }

    pub(crate) fn watchers(&self) -> usize {
        self.state()
            .watchers
            .iter()
            .filter(|w| !w.is_closed())
            .count()
    }

    /// Makes answers to `lookup` wait, computed but not sent, until [`FakeMaster::release`].
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }

    pub(crate) fn release(&self) {
        self.state().held = false;
        self.release.send_modify(|n| *n += 1);
    }

    /// How often `call` was made.
    pub(crate) fn calls(&self, call: &str) -> usize {
        self.state().calls.get(call).copied().unwrap_or(0)
    }

    pub(crate) fn set_workers(&self, workers: Vec<v1::Worker>) {
        self.state().workers = workers;
    }

    fn count(&self, call: &'static str) -> MutexGuard<'_, State> {
        let mut state = self.state();
        *state.calls.entry(call).or_default() += 1;
        state
    }

    fn lease_ms(&self) -> u64 {
        self.lease.as_millis() as u64
    }
}

impl Node {
    fn new(ino: u64, parent: u64, directory: bool, size: u64) -> Node {
        let mode = if directory { 0o555 } else { 0o444 };
        let mtime_ns = 1_700_000_000_000_000_000;
        let attr = v1::Attr {
            ino,
            directory,
            size,
            mtime_ns,
            mode,
            uid: 7,
            gid: 7,
            version: 1,
        };
        Node {
            attr,
            parent,
            children: BTreeMap::new(),
        }
    }
}

pub(crate) fn entry(parent: u64, name: &str) -> v1::Invalidation {
    let entry = v1::invalidation::Entry {
        parent,
        name: name.to_owned().into(),
    };
    v1::Invalidation {
        entries: vec![entry],
        ..v1::Invalidation::default()
    }
}

impl FakeMaster {
    async fn answer(&self, what: call::What) -> Result<answer::What, Status> {
        match what {
            call::What::Lookup(asked) => self.lookup(asked).await.map(answer::What::Lookup),
            call::What::GetAttr(asked) => self.get_attr(asked).map(answer::What::GetAttr),
            call::What::OpenFile(asked) => self.open_file(asked).map(answer::What::OpenFile),
            _ => Err(status(Code::Unsupported, "not needed")),
        }
    }

    async fn lookup(&self, request: v1::LookupRequest) -> Result<v1::LookupResponse, Status> {
        let mut released = self.release.subscribe();
        released.mark_unchanged();
        let (attr, held) = {
            let state = self.count("lookup");
            let parent = state.nodes.get(&request.parent).ok_or_else(missing)?;
            let child = parent.children.get(request.name.as_ref());
            (child.map(|ino| state.nodes[ino].attr), state.held)
        };
        if held {
            released.changed().await.unwrap();
        }
        Ok(v1::LookupResponse {
            attr,
            lease_ms: self.lease_ms(),
        })
    }

    fn get_attr(&self, request: v1::GetAttrRequest) -> Result<v1::GetAttrResponse, Status> {
        let state = self.count("getattr");
        let node = state.nodes.get(&request.ino).ok_or_else(missing)?;
        Ok(v1::GetAttrResponse {
            attr: Some(node.attr),
            lease_ms: self.lease_ms(),
        })
    }

    fn open_file(&self, request: v1::OpenFileRequest) -> Result<v1::FileRef, Status> {
        let state = self.count("open");
        let attr = state.nodes.get(&request.ino).ok_or_else(missing)?.attr;
        if attr.directory {
            return Err(status(Code::IsDirectory, "a directory"));
        }
        let etag = format!("\"{}\"", attr.ino);
        Ok(v1::FileRef {
            ino: attr.ino,
            version: attr.version,
            mount: 1,
            key: format!("key-{}", attr.ino).into(),
            fingerprint: Some(v1::Fingerprint {
                size: attr.size,
                mtime_ns: 0,
                etag,
            }),
        })
    }
}

fn missing() -> Status {
    status(Code::NotFound, "no such inode")
}

#[tonic::async_trait]
impl Metadata for FakeMaster {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Answer<v1::OpenSessionResponse> {
        drop(self.count("session"));
        Ok(Response::new(v1::OpenSessionResponse {
            cluster: "fake".to_owned(),
            session: 1,
        }))
    }

    type CallsStream = Answers<v1::AnswerBatch>;

    async fn calls(&self, request: Request<Streaming<v1::CallBatch>>) -> Answer<Self::CallsStream> {
        let (told, answers) = mpsc::unbounded_channel();
        let (master, mut calls) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(batch)) = calls.message().await {
                for call in batch.calls {
                    let (master, told) = (master.clone(), told.clone());
                    tokio::spawn(async move {
                        let answer = master.answer(call.what.unwrap()).await;
                        let refused = |error| answer::What::Refusal(refusal(&error));
                        let answers = vec![v1::Answer {
                            id: call.id,
                            what: Some(answer.unwrap_or_else(refused)),
                        }];
                        // The client may have gone away.
                        let _ = told.send(Ok(v1::AnswerBatch { answers }));
                    });
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            answers,
        ))))
    }

    type ReadDirStream = Answers<v1::ReadDirResponse>;

    async fn read_dir(&self, request: Request<v1::ReadDirRequest>) -> Answer<Self::ReadDirStream> {
        let request = request.into_inner();
        let state = self.count("readdir");
        let dir = state.nodes.get(&request.ino).ok_or_else(missing)?;
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit as usize
        };
        let row = |(name, ino): (&Vec<u8>, &u64)| v1::DirEntry {
            name: name.clone().into(),
            attr: Some(state.nodes[ino].attr),
        };
        let rows: Vec<_> = dir.children.iter().take(limit).map(row).collect();
        let lease_ms = self.lease_ms();
        let first = v1::ReadDirResponse {
            directory: Some(dir.attr),
            parent: dir.parent,
            lease_ms,
            entries: Vec::new(),
        };
        let rest = rows.chunks(1000).map(|rows| v1::ReadDirResponse {
            entries: rows.to_vec(),
            lease_ms,
            ..v1::ReadDirResponse::default()
        });
        let messages: Vec<_> = std::iter::once(first).chain(rest).map(Ok).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    type WatchStream = Answers<v1::Invalidation>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let (told, changes) = mpsc::unbounded_channel();
        self.count("watch").watchers.push(told);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            changes,
        ))))
    }

    async fn report_stale(&self, _: Request<v1::FileRef>) -> Answer<v1::ReportStaleResponse> {
        drop(self.count("stale"));
        Ok(Response::new(v1::ReportStaleResponse {}))
    }
}

#[tonic::async_trait]
impl Registry for FakeMaster {
    async fn register(&self, _: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        Err(status(Code::Unsupported, "not needed"))
    }

    async fn heartbeat(&self, _: Request<v1::HeartbeatRequest>) -> Answer<v1::HeartbeatResponse> {
        Err(status(Code::Unsupported, "not needed"))
    }

    async fn topology(&self, _: Request<v1::TopologyRequest>) -> Answer<v1::TopologyResponse> {
        let workers = self.count("topology").workers.clone();
        let cluster = "fake".to_owned();
        Ok(Response::new(v1::TopologyResponse {
            cluster,
            workers,
            whole: true,
            ..v1::TopologyResponse::default()
        }))
    }
}
