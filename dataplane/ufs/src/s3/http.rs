//! A lean HTTP/1.1 client for one host.
//!
//! It exists for two reasons. Paths go out exactly as given: general clients normalise `..` and
//! `//`, which are parts of keys. And a connection is driven by the task that reads its body, so
//! no byte is handed from one task to another, and none is copied after the socket (TLS apart).

use super::endpoint::Endpoint;
use crate::{
    Error,
    retry::{Again, Failure},
};
use bytes::{Bytes, BytesMut};
use forebay_types::Code;
use http::{Request, response::Parts};
use http_body_util::Empty;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::seq::SliceRandom as _;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Largest read from a socket, and so the largest piece of a body.
const READ_BUFFER: usize = 512 << 10;
/// An idle connection older than this is not used again: servers drop them after some time.
const IDLE: Duration = Duration::from_secs(20);

/// Limits of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For name, TCP and TLS together.
    pub(crate) connect: Duration,
    /// From the request to the head of the answer.
    pub(crate) answer: Duration,
    /// Between two pieces of a body.
    pub(crate) idle: Duration,
}

/// A client of one host.
pub(crate) struct Client {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    limits: Limits,
    #[expect(
        clippy::vec_box,
        reason = "moves between here and the bodies as a pointer"
    )]
    idle: Mutex<Vec<Box<Link>>>,
    permits: Arc<Semaphore>,
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: Body,
}

impl Client {
    /// A client of `endpoint` with at most `connections` requests at a time.
    pub(crate) fn new(
        endpoint: Endpoint,
        limits: Limits,
        connections: usize,
    ) -> Result<Client, Error> {
        let tls = if endpoint.https {
            Some(tls(&endpoint)?)
        } else {
            None
        };
        Ok(Client {
            endpoint,
            tls,
            limits,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(connections)),
        })
    }

    /// The host.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends `request` (origin form, with its Host header) and waits for the head of the answer.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Empty<Bytes>>,
    ) -> Result<Answer, Failure> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .expect("never closed");
        let (mut link, used) = match self.idle_link() {
            Some(link) => (link, true),
            None => (Box::new(self.connect().await?), false),
        };
        let (head, incoming) = match timeout(self.limits.answer, link.exchange(request)).await {
            Ok(Ok(response)) => response.into_parts(),
            // Retried at once on a new connection; the other idle ones are of the same age.
            Ok(Err(error)) if used => {
                self.idle.lock().clear();
                return Err(self.failure(
                    "no answer from",
                    Code::Unavailable,
                    Again::AtOnce,
                    error,
                ));
            }
            Ok(Err(error)) => {
                return Err(self.failure("no answer from", Code::Unavailable, Again::Soon, error));
            }
            Err(late) => {
                return Err(self.failure(
                    "no answer in time from",
                    Code::Timeout,
                    Again::Soon,
                    late,
                ));
            }
        };
        let mut body = Body {
            client: self.clone(),
            link: Some(link),
            incoming,
            silent_since: Instant::now(),
            alarm: Box::pin(sleep_until(Instant::now() + self.limits.idle)),
            permit: Some(permit),
        };
        if body.incoming.is_end_stream() {
            poll_fn(|cx| {
                body.release(cx);
                Poll::Ready(())
            })
            .await;
        }
        Ok(Answer { head, body })
    }

    /// An idle connection that is still open, the youngest first.
    fn idle_link(&self) -> Option<Box<Link>> {
        let mut idle = self.idle.lock();
        let link = idle.pop()?;
        if link.since.elapsed() < IDLE {
            return Some(link);
        }
        // The youngest is too old: so are all.
        idle.clear();
        None
    }

    async fn connect(&self) -> Result<Link, Failure> {
        match timeout(self.limits.connect, self.open()).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => {
                Err(self.failure("cannot connect to", Code::Unavailable, Again::Soon, error))
            }
            Err(late) => Err(self.failure(
                "cannot connect in time to",
                Code::Timeout,
                Again::Soon,
                late,
            )),
        }
    }

    async fn open(&self) -> io::Result<Link> {
        let host = (self.endpoint.host.as_str(), self.endpoint.port);
        let mut addresses: Vec<_> = tokio::net::lookup_host(host).await?.collect();
        // Stores answer with many addresses to spread the load.
        addresses.shuffle(&mut rand::rng());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            let tcp = match TcpStream::connect(address).await {
                Ok(tcp) => tcp,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            tcp.set_nodelay(true)?;
            let socket = match &self.tls {
                None => Socket::Plain(tcp),
                Some((tls, name)) => Socket::Tls(Box::new(tls.connect(name.clone(), tcp).await?)),
            };
            let (sender, driver) = http1::Builder::new()
                .max_buf_size(READ_BUFFER)
                .handshake(TokioIo::new(socket))
                .await
                .map_err(io::Error::other)?;
            return Ok(Link {
                sender,
                driver,
                closed: false,
                since: Instant::now(),
            });
        }
        Err(last)
    }

    fn failure(
        &self,
        what: &str,
        code: Code,
        again: Again,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Failure {
        let error = Error::caused(code, format!("{what} {}", self.endpoint), source);
        Failure { error, again }
    }
}

fn tls(endpoint: &Endpoint) -> Result<(TlsConnector, ServerName<'static>), Error> {
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|e| {
        let message = format!("bad host name '{}' in the endpoint", endpoint.host);
        Error::caused(Code::InvalidArgument, message, e)
    })?;
    let config = rustls::ClientConfig::with_platform_verifier().map_err(|e| {
        let message = "no usable root certificates: install ca-certificates or set SSL_CERT_FILE";
        Error::caused(Code::Unavailable, message, e)
    })?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// A connection, driven by whoever holds it.
struct Link {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: http1::Connection<TokioIo<Socket>, Empty<Bytes>>,
    closed: bool,
    /// When it became idle.
    since: Instant,
}

impl Link {
    /// Moves bytes between socket and buffers.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.closed && Pin::new(&mut self.driver).poll(cx).is_ready() {
            self.closed = true;
        }
    }

    async fn exchange(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> hyper::Result<http::Response<Incoming>> {
        // Notices, too, that the server has closed the connection in the meantime.
        poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        })
        .await?;
        let mut answer = pin!(self.sender.send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }
}

/// The body of an answer.
pub(crate) struct Body {
    client: Arc<Client>,
    /// Until the body is at its end.
    link: Option<Box<Link>>,
    incoming: Incoming,
    silent_since: Instant,
    alarm: Pin<Box<Sleep>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// The next piece; `None` at the end.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, Failure>> {
        poll_fn(|cx| self.poll_piece(cx)).await
    }

    /// The whole body, up to `most` bytes.
    pub(crate) async fn collect(mut self, most: usize) -> Result<Bytes, Failure> {
        let Some(first) = self.piece().await else {
            return Ok(Bytes::new());
        };
        let first = first?;
        let Some(second) = self.piece().await else {
            return Ok(first);
        };
        let mut whole = BytesMut::from(first);
        let mut next = Some(second);
        while let Some(piece) = next {
            whole.extend_from_slice(&piece?);
            if whole.len() > most {
                let message = format!("answer of {} is over {most} bytes", self.client.endpoint);
                let error = Error::new(Code::Unsupported, message);
                return Err(Failure {
                    error,
                    again: Again::No,
                });
            }
            next = self.piece().await;
        }
        Ok(whole.freeze())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        let mut driven = false;
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(None) => {
                    self.release(cx);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.link = None;
                    let failure =
                        self.client
                            .failure("body cut by", Code::Unavailable, Again::Soon, error);
                    return Poll::Ready(Some(Err(failure)));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(piece) = frame.into_data() else {
                        continue;
                    };
                    if self.incoming.is_end_stream() {
                        self.release(cx);
                    } else {
                        self.silent_since = Instant::now();
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Pending if driven => {
                    ready!(self.poll_silence(cx));
                    self.link = None;
                    let late = io::Error::from(io::ErrorKind::TimedOut);
                    let failure =
                        self.client
                            .failure("body stalled at", Code::Timeout, Again::Soon, late);
                    return Poll::Ready(Some(Err(failure)));
                }
                Poll::Pending => {
                    if let Some(link) = &mut self.link {
                        link.drive(cx);
                    }
                    driven = true;
                }
            }
        }
    }

    /// Ready once nothing has come for too long. The timer is set again only when it fires, so
    /// that a piece costs no timer.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let deadline = self.silent_since + self.client.limits.idle;
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(deadline);
        }
    }

    /// Gives the connection back once the body is at its end.
    fn release(&mut self, cx: &mut Context<'_>) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        link.drive(cx);
        if !link.closed && link.sender.is_ready() {
            link.since = Instant::now();
            self.client.idle.lock().push(link);
        }
        self.permit = None;
    }
}

/// A TCP stream, with or without TLS.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_read(cx, buffer),
            Socket::Tls(s) => Pin::new(s).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_write(cx, bytes),
            Socket::Tls(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_flush(cx),
            Socket::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
