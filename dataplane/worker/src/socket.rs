//! The door for readers in other processes of this node: a private Unix `SOCK_SEQPACKET` socket. Each
//! connection is one [`Local`]; descriptors go out as SCM_RIGHTS.

use crate::{engine::Engine, local::Local};
use anyhow::Context as _;
use forebay_client::{
    Ensured, Error, LeaseId, LocalFile, LocalWorker, Result,
    seqpacket::{Listener, MAX_PACKET, Socket},
};
use forebay_proto::v1::{LocalRequest, LocalResponse, local_request::Call};
use forebay_service::Shutdown;
use forebay_types::{Code, FileRef};
use futures::{StreamExt, poll, stream::FuturesUnordered};
use prost::Message;
use rustix::fs::Mode;
use std::{
    fs::{DirBuilder, File},
    io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{sync::mpsc, time::sleep};

/// Calls of one connection under way; no more are taken until one is done.
const MOST_CALLS: usize = 1024;
/// How long to wait before taking connections again when the process has no descriptors left.
const BREATH: Duration = Duration::from_millis(100);

/// Serves the socket at `path` until shutdown.
pub fn serve(path: &Path, engine: Arc<Engine>, shutdown: &Shutdown) -> anyhow::Result<()> {
    let listener =
        bind(path).with_context(|| format!("cannot listen on the socket {}", path.display()))?;
    let guard = Unlink(path.to_owned());
    let connections = shutdown.clone();
    shutdown.spawn(async move {
        let _guard = guard;
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    let connection = Connection {
                        socket,
                        local: Local::new(engine.clone()),
                    };
                    connections.spawn(connection.run());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection on the local socket");
                    sleep(BREATH).await;
                }
            }
        }
    });
    Ok(())
}

/// Makes the socket and shows it under its name only after it is private.
fn bind(path: &Path) -> anyhow::Result<Listener> {
    let dir = path.parent().context("it has no directory")?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let hidden = path.with_extension("new");
    let listener = Listener::bind(&hidden)?;
    rustix::fs::chmod(&hidden, Mode::RUSR | Mode::WUSR)?;
    std::fs::rename(&hidden, path)?;
    Ok(listener)
}

/// Removes the socket's name at the end.
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // Its directory may be gone by now, which is just as well.
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Connection {
    socket: Socket,
    local: Local,
}

/// A response, and the descriptor that goes with it.
type Answer = (LocalResponse, Option<Arc<File>>);

impl Connection {
    async fn run(self) {
        match self.converse().await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => tracing::debug!(%error, "a connection of the local socket broke"),
        }
    }

    async fn converse(&self) -> io::Result<()> {
        let mut recalls = self.local.take_recalls();
        let mut calls = FuturesUnordered::new();
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            tokio::select! {
                Some(answer) = calls.next(), if !calls.is_empty() => self.send(answer).await?,
                Some(lease) = next_recall(&mut recalls) => {
                    let recall = LocalResponse { recall: lease.0, ..LocalResponse::default() };
                    self.send((recall, None)).await?;
                }
                packet = self.socket.recv(&mut buffer), if calls.len() < MOST_CALLS => {
                    let Some(packet) = packet? else { return Ok(()) };
                    let request = LocalRequest::decode(&buffer[..packet.len])
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    let mut call = Box::pin(self.answer(request));
                    match poll!(call.as_mut()) {
                        Poll::Ready(Some(answer)) => self.send(answer).await?,
                        Poll::Ready(None) => {}
                        Poll::Pending => calls.push(async move {
                            call.await.expect("only releases have no answer, and they never wait")
                        }),
                    }
                }
            }
        }
    }

    async fn send(&self, (response, file): Answer) -> io::Result<()> {
        let descriptor = file.as_ref().map(|f| f.as_fd());
        self.socket
            .send(&response.encode_to_vec(), descriptor)
            .await
    }

    /// Does what a request says; a release has no answer.
    async fn answer(&self, request: LocalRequest) -> Option<Answer> {
        let id = request.id;
        let outcome = match request.call {
            Some(Call::Release(lease)) => {
                self.local.release(LeaseId(lease));
                return None;
            }
            Some(Call::Open(open)) => self.open(open.file).await,
            Some(Call::Ensure(ensure)) => {
                let range = ensure.offset..ensure.offset.saturating_add(ensure.length);
                self.local
                    .ensure(LeaseId(ensure.lease), range)
                    .await
                    .and_then(|ensured| {
                        match ensured {
                            Ensured::Present => Ok((LocalResponse::default(), None)),
                            // The protocol has no other word for it.
                            Ensured::NotCached => {
                                Err(Error::new(Code::NoSpace, "the cache cannot take the bytes"))
                            }
                        }
                    })
            }
            None => Err(Error::new(
                Code::Unsupported,
                "unknown call on the local socket",
            )),
        };
        let (mut response, file) = outcome.unwrap_or_else(|error| {
            let code = u32::from(error.code as u8);
            (
                LocalResponse {
                    code,
                    reason: error.message,
                    ..LocalResponse::default()
                },
                None,
            )
        });
        response.id = id;
        Some((response, file))
    }

    async fn open(&self, file: Option<forebay_proto::v1::FileRef>) -> Result<Answer> {
        let file = file.ok_or_else(|| Error::new(Code::InvalidArgument, "open without a file"))?;
        let file = FileRef::try_from(file)
            .map_err(|status| Error::new(Code::InvalidArgument, status.message()))?;
        let LocalFile { lease, file, whole } = self.local.open(&file).await?;
        Ok((
            LocalResponse {
                lease: lease.0,
                whole,
                ..LocalResponse::default()
            },
            Some(file),
        ))
    }
}

async fn next_recall(recalls: &mut Option<mpsc::Receiver<LeaseId>>) -> Option<LeaseId> {
    recalls.as_mut()?.recv().await
}
