//! The node's worker behind its Unix socket.
//!
//! One connection carries all calls, told apart by their ids. When the worker restarts, calls under
//! way fail with `Unavailable`, all leases are void (they are offered as recalls, so that holders let
//! go), and the connection is made again.

use crate::{
    Ensured, Error, LeaseId, LocalFile, LocalWorker, RemoteReader, Result,
    call::backoff,
    seqpacket::{MAX_PACKET, Packet, Socket},
};
use async_trait::async_trait;
use backon::{BackoffBuilder, Retryable};
use bytes::Bytes;
use forebay_proto::v1::{LocalEnsure, LocalOpen, LocalRequest, LocalResponse, local_request::Call};
use forebay_types::{Code, FileRef};
use parking_lot::Mutex;
use prost::Message;
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    ops::Range,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Recalls that may wait for the holder of the leases.
const RECALLS: usize = 1024;
/// Bits of a [`LeaseId`] that are the worker's own number; the rest tells connections apart.
const LEASE_BITS: u32 = 48;

type Answer = (LocalResponse, Option<OwnedFd>);

/// The worker of this node, in another process.
pub struct SocketWorker {
    path: PathBuf,
    remote: Arc<RemoteReader>,
    link: Mutex<Link>,
    recalls: mpsc::Sender<LeaseId>,
    taken: Mutex<Option<mpsc::Receiver<LeaseId>>>,
    runtime: Handle,
}

/// The present connection.
#[derive(Default)]
struct Link {
    socket: Option<Arc<Socket>>,
    /// Counts connections.
    epoch: u16,
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    leases: HashSet<u64>,
}

impl SocketWorker {
    /// Connects to the worker that listens at `path`, waiting for it for some seconds. Bytes that the
    /// cache cannot take come through `remote`.
    pub async fn connect(
        path: &Path,
        remote: Arc<RemoteReader>,
        shutdown: CancellationToken,
    ) -> Result<Arc<SocketWorker>> {
        let dial = || async { Socket::connect(path) };
        let socket = dial.retry(backoff()).await.map_err(|error| {
            let path = path.display();
            let text = format!("worker at unix:{path}: {error}; is the node's worker running?");
            Error::new(Code::Unavailable, text)
        })?;
        Ok(SocketWorker::start(path, Some(socket), remote, shutdown))
    }

    /// The worker that listens at `path`, now or later: until it does, bytes come through `remote`.
    pub fn expect(
        path: &Path,
        remote: Arc<RemoteReader>,
        shutdown: CancellationToken,
    ) -> Arc<SocketWorker> {
        let socket = Socket::connect(path).ok();
        SocketWorker::start(path, socket, remote, shutdown)
    }

    fn start(
        path: &Path,
        socket: Option<Socket>,
        remote: Arc<RemoteReader>,
        shutdown: CancellationToken,
    ) -> Arc<SocketWorker> {
        let (recalls, taken) = mpsc::channel(RECALLS);
        let worker = Arc::new(SocketWorker {
            path: path.to_owned(),
            remote,
            link: Mutex::default(),
            recalls,
            taken: Mutex::new(Some(taken)),
            runtime: Handle::current(),
        });
        let socket = socket.map(|socket| worker.linked(socket));
        let serving = worker.clone().run(socket);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = serving => {}
            }
        });
        worker
    }

    fn linked(&self, socket: Socket) -> Arc<Socket> {
        let socket = Arc::new(socket);
        let mut link = self.link.lock();
        link.socket = Some(socket.clone());
        link.epoch = link.epoch.wrapping_add(1);
        socket
    }

    async fn run(self: Arc<Self>, mut socket: Option<Arc<Socket>>) {
        loop {
            if let Some(socket) = socket {
                let error = self.receive(&socket).await;
                tracing::warn!(path = %self.path.display(), %error, "lost the node's worker");
                self.unlinked().await;
            }
            let mut waits = backoff().without_max_times().build();
            socket = loop {
                match Socket::connect(&self.path) {
                    Ok(socket) => break Some(self.linked(socket)),
                    Err(_) => sleep(waits.next().unwrap_or_default()).await,
                }
            };
            tracing::info!(path = %self.path.display(), "the node's worker is there");
        }
    }

    /// Hands answers to those who wait for them until the connection ends.
    async fn receive(&self, socket: &Socket) -> io::Error {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let Packet { len, fd } = match socket.recv(&mut buffer).await {
                Ok(Some(packet)) => packet,
                Ok(None) => return io::ErrorKind::ConnectionReset.into(),
                Err(error) => return error,
            };
            match LocalResponse::decode(&buffer[..len]) {
                Ok(answer) if answer.id == 0 => {
                    let lease = self.outward(answer.recall);
                    if self.recalls.try_send(lease).is_err() {
                        tracing::debug!("a recall is dropped: too many wait");
                    }
                }
                Ok(answer) => self.deliver(answer, fd),
                Err(error) => return io::Error::new(io::ErrorKind::InvalidData, error),
            }
        }
    }

    fn deliver(&self, answer: LocalResponse, fd: Option<OwnedFd>) {
        let (waiting, lease) = {
            let mut link = self.link.lock();
            if fd.is_some() {
                link.leases.insert(answer.lease);
            }
            (
                link.waiting.remove(&answer.id),
                fd.is_some().then_some(answer.lease),
            )
        };
        let undelivered = match waiting {
            Some(waiting) => waiting.send((answer, fd)).is_err(),
            None => true,
        };
        // Whoever asked has given up; the lease would stay for ever.
        if let (true, Some(lease)) = (undelivered, lease) {
            self.release(self.outward(lease));
        }
    }

    /// The connection is gone: everyone who waits fails, every lease is offered back.
    async fn unlinked(&self) {
        let (leases, epoch) = {
            let mut link = self.link.lock();
            link.socket = None;
            link.waiting.clear();
            (std::mem::take(&mut link.leases), link.epoch)
        };
        for lease in leases {
            if self.recalls.send(pack(epoch, lease)).await.is_err() {
                return;
            }
        }
    }

    fn outward(&self, lease: u64) -> LeaseId {
        pack(self.link.lock().epoch, lease)
    }

    /// The worker's own number of a lease; an error if it was given on an earlier connection.
    fn inward(&self, lease: LeaseId) -> Result<u64> {
        if self.link.lock().epoch == (lease.0 >> LEASE_BITS) as u16 {
            return Ok(lease.0 & ((1 << LEASE_BITS) - 1));
        }
        Err(self.failed("the worker has restarted; the lease is void"))
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(
            Code::Unavailable,
            format!("worker at unix:{}: {why}", self.path.display()),
        )
    }

    async fn call(&self, call: Call) -> Result<Answer> {
        let (answered, answer) = oneshot::channel();
        let (socket, id) = {
            let mut link = self.link.lock();
            let socket = link
                .socket
                .clone()
                .ok_or_else(|| self.failed("not connected"))?;
            link.last_id += 1;
            let id = link.last_id;
            link.waiting.insert(id, answered);
            (socket, id)
        };
        let waiting = Waiting { worker: self, id };
        let packet = LocalRequest {
            id,
            call: Some(call),
        }
        .encode_to_vec();
        if let Err(error) = socket.send(&packet, None).await {
            return Err(self.failed(&error.to_string()));
        }
        let answer = answer
            .await
            .map_err(|_| self.failed("the connection broke"));
        drop(waiting);
        let (response, fd) = answer?;
        match u8::try_from(response.code) {
            Ok(0) => Ok((response, fd)),
            code => {
                let code = Code::from_number(code.unwrap_or(u8::MAX));
                Err(Error::new(
                    code,
                    format!("the node's worker: {}", response.reason),
                ))
            }
        }
    }
}

fn pack(epoch: u16, lease: u64) -> LeaseId {
    LeaseId(u64::from(epoch) << LEASE_BITS | lease & ((1 << LEASE_BITS) - 1))
}

/// Takes a call off the list of those waited for, however the wait ends.
struct Waiting<'a> {
    worker: &'a SocketWorker,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.worker.link.lock().waiting.remove(&self.id);
    }
}

#[async_trait]
impl LocalWorker for SocketWorker {
    async fn open(&self, file: &FileRef) -> Result<LocalFile> {
        let epoch = self.link.lock().epoch;
        let call = Call::Open(LocalOpen {
            file: Some(file.clone().into()),
        });
        let (response, fd) = self.call(call).await?;
        let fd = fd.ok_or_else(|| self.failed("an open was answered without a descriptor"))?;
        let lease = pack(epoch, response.lease);
        Ok(LocalFile {
            lease,
            file: Arc::new(File::from(fd)),
            whole: response.whole,
        })
    }

    async fn ensure(&self, lease: LeaseId, range: Range<u64>) -> Result<Ensured> {
        let lease = self.inward(lease)?;
        let length = range.end.saturating_sub(range.start);
        let call = Call::Ensure(LocalEnsure {
            lease,
            offset: range.start,
            length,
        });
        match self.call(call).await {
            Ok(_) => Ok(Ensured::Present),
            // The socket has no other word for "not cached".
            Err(error) if error.code == Code::NoSpace => Ok(Ensured::NotCached),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes> {
        self.remote.read(file, range).await
    }

    fn release(&self, lease: LeaseId) {
        let Ok(lease) = self.inward(lease) else {
            return;
        };
        let socket = {
            let mut link = self.link.lock();
            link.leases.remove(&lease);
            link.socket.clone()
        };
        let Some(socket) = socket else { return };
        // Answers to releases are not waited for: nobody has registered this id.
        let packet = LocalRequest {
            id: u64::MAX,
            call: Some(Call::Release(lease)),
        }
        .encode_to_vec();
        match socket.try_send(&packet, None) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.runtime
                    .spawn(async move { socket.send(&packet, None).await });
            }
            // A broken connection voids the lease anyway.
            _ => {}
        }
    }

    fn take_recalls(&self) -> Option<mpsc::Receiver<LeaseId>> {
        self.taken.lock().take()
    }
}
