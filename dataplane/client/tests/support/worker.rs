//! A worker that serves made-up bytes over real gRPC on a Unix socket, and can be made to fail.

use forebay_proto::{
    convert::status,
    v1::{
        self,
        worker_data_server::{WorkerData, WorkerDataServer},
    },
};
use forebay_types::Code;
use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// The byte of a file at an offset.
pub(crate) fn byte(ino: u64, offset: u64) -> u8 {
    (ino.wrapping_mul(131) ^ offset ^ (offset >> 8) ^ (offset >> 17)) as u8
}

/// The bytes of a file in a range.
pub(crate) fn bytes(ino: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|offset| byte(ino, offset)).collect()
}

/// What a worker was asked for, and when it is to fail.
#[derive(Default)]
pub(crate) struct Conduct {
    /// Requests for bytes.
    pub(crate) reads: AtomicU64,
    /// Bytes that it sends.
    pub(crate) sent: AtomicU64,
    /// Bytes of a request after which it breaks off; 0: never.
    pub(crate) breaks_after: AtomicU64,
    /// The number of the code with which it refuses; 0: it serves.
    pub(crate) refuses: AtomicU64,
}

/// The worker.
pub(crate) struct FakeWorker {
    pub(crate) conduct: Arc<Conduct>,
    pub(crate) socket: PathBuf,
}

impl FakeWorker {
    /// Serves at `socket` until the runtime ends.
    pub(crate) fn start(socket: &Path) -> FakeWorker {
        let conduct = Arc::new(Conduct::default());
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let service = WorkerDataServer::new(Service(conduct.clone()));
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::spawn(async move { server.await.unwrap() });
        FakeWorker {
            conduct,
            socket: socket.to_owned(),
        }
    }

    /// As the master tells of it.
    pub(crate) fn row(&self, id: u64) -> v1::Worker {
        v1::Worker {
            id,
            address: format!("unix:{}", self.socket.display()),
            capacity: 1 << 30,
        }
    }
}

struct Service(Arc<Conduct>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl WorkerData for Service {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Answer<Self::ReadStream> {
        let request = request.into_inner();
        let file = request.file.unwrap();
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        let refuses = self.0.refuses.load(Ordering::Relaxed) as u8;
        if refuses > 0 {
            return Err(status(Code::from_number(refuses), "refused"));
        }
        let size = file.fingerprint.unwrap().size;
        let breaks = self.0.breaks_after.load(Ordering::Relaxed);
        let end = (request.offset + request.length).min(size);
        let (mut at, mut messages) = (request.offset, Vec::new());
        while at < end {
            let next = (at + (1 << 20)).min(end);
            messages.push(Ok(v1::ReadResponse {
                data: bytes(file.ino, at..next).into(),
            }));
            self.0.sent.fetch_add(next - at, Ordering::Relaxed);
            at = next;
            if breaks > 0 && at - request.offset >= breaks {
                messages.push(Err(status(Code::Unavailable, "broke off")));
                break;
            }
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    type LoadStream = Pin<Box<dyn Stream<Item = Result<v1::LoadFileResult, Status>> + Send>>;

    async fn load(&self, _: Request<Streaming<v1::LoadFile>>) -> Answer<Self::LoadStream> {
        Err(status(Code::Unsupported, "not needed"))
    }

    async fn free(&self, _: Request<v1::FilesRequest>) -> Answer<v1::FilesResponse> {
        Err(status(Code::Unsupported, "not needed"))
    }

    async fn pin(&self, _: Request<v1::FilesRequest>) -> Answer<v1::FilesResponse> {
        Err(status(Code::Unsupported, "not needed"))
    }

    async fn unpin(&self, _: Request<v1::FilesRequest>) -> Answer<v1::FilesResponse> {
        Err(status(Code::Unsupported, "not needed"))
    }

    async fn stat(&self, _: Request<v1::FilesRequest>) -> Answer<v1::StatResponse> {
        Err(status(Code::Unsupported, "not needed"))
    }
}
