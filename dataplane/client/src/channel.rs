//! Connections: one HTTP/2 channel to an address, over TCP or a Unix socket.

use forebay_types::Address;
use hyper_util::rt::TokioIo;
use std::{io, pin::Pin, time::Duration};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// Largest gRPC message that servers and clients of Forebay take, in bytes. Data travels in chunks
/// of 1 MiB and directories in batches, so this is only a fence.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Flow-control window of one HTTP/2 stream, in bytes: some data chunks in flight. Servers of data
/// should offer the same.
pub const STREAM_WINDOW: u32 = 4 << 20;

/// Flow-control window of a whole connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 16 << 20;

/// Largest HTTP/2 frame: a data chunk goes in few of them.
const MAX_FRAME: u32 = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a silent connection is asked whether the other side lives, and how long the answer may
/// take. Rarely, since masters have thousands of them; who waits for a master asks sooner by itself.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A channel that connects on first use, and again after a failure. Must be called within a tokio
/// runtime. Cheap to clone; calls on clones share the connection.
pub fn connect(address: &Address) -> Channel {
    let address = address.clone();
    // The URI only names the authority in requests; the connector below ignores it.
    Endpoint::from_static("http://forebay")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(address.clone())))
}

/// A byte stream of either kind.
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

type Dialled = io::Result<TokioIo<Pin<Box<dyn Io>>>>;

async fn dial(address: Address) -> Dialled {
    let stream: Pin<Box<dyn Io>> = match &address {
        Address::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        Address::Tcp(host) => {
            let stream = TcpStream::connect(host.as_str()).await?;
            stream.set_nodelay(true)?;
            Box::pin(stream)
        }
    };
    Ok(TokioIo::new(stream))
}
