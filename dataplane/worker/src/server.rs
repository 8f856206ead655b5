//! The gRPC server.

use crate::{engine::Engine, service::Service};
use anyhow::Context as _;
use forebay_client::channel::{CONNECTION_WINDOW, MAX_MESSAGE, STREAM_WINDOW};
use forebay_proto::v1::worker_data_server::WorkerDataServer;
use forebay_service::Shutdown;
use forebay_types::Address;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    time::sleep,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Server, server::TcpIncoming};

/// How long shutdown waits for streams that are being served.
const LAST_STREAMS: Duration = Duration::from_secs(2);

/// Serves until shutdown; returns the real address.
pub(crate) async fn serve(
    listen: &Address,
    engine: Arc<Engine>,
    shutdown: &Shutdown,
) -> anyhow::Result<Address> {
    let service =
        WorkerDataServer::new(Service::new(engine)).max_decoding_message_size(MAX_MESSAGE);
    let router = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(service);
    let cannot = || format!("cannot listen on {listen}: is it in use, or not of this machine?");
    let bound = match listen {
        Address::Tcp(host) => {
            let listener = TcpListener::bind(host.as_str())
                .await
                .with_context(cannot)?;
            let port = listener.local_addr().with_context(cannot)?.port();
            let name = host
                .rsplit_once(':')
                .map_or(host.as_str(), |(name, _)| name);
            let bound = Address::Tcp(format!("{name}:{port}"));
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            run(shutdown, None, move |stop| {
                router.serve_with_incoming_shutdown(incoming, stop)
            });
            bound
        }
        Address::Unix(path) => {
            let incoming = UnixListenerStream::new(bind(path).await.with_context(cannot)?);
            let name = Some(path.clone());
            run(shutdown, name, move |stop| {
                router.serve_with_incoming_shutdown(incoming, stop)
            });
            listen.clone()
        }
    };
    Ok(bound)
}

fn run<F>(
    shutdown: &Shutdown,
    name: Option<PathBuf>,
    serve: impl FnOnce(tokio_util::sync::WaitForCancellationFutureOwned) -> F,
) where
    F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
{
    shutdown.spawn_graceful(|token| {
        let served = serve(token.clone().cancelled_owned());
        async move {
            let too_late = async {
                token.cancelled().await;
                sleep(LAST_STREAMS).await;
            };
            tokio::select! {
                ended = served => if let Err(error) = ended {
                    tracing::error!(%error, "the gRPC server failed");
                },
                () = too_late => {}
            }
            if let Some(name) = name {
                // Gone with its directory at the latest.
                let _ = std::fs::remove_file(name);
            }
        }
    });
}

/// Listens at `path`, in place of the socket of a dead predecessor.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        done => return done,
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    std::fs::remove_file(path)?;
    UnixListener::bind(path)
}
