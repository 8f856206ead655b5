//! Serves the four services until shutdown.

use crate::{
    hint,
    leadership::Leadership,
    listen::Listener,
    service::{
        admin::AdminService, hello::HelloService, metadata::MetadataService, raft::RaftService,
        registry::RegistryService,
    },
};
use forebay_client::channel::{CONNECTION_WINDOW, STREAM_WINDOW};
use forebay_proto::v1::{
    admin_server::AdminServer, metadata_server::MetadataServer, raft_server::RaftServer,
    registry_server::RegistryServer,
};
use forebay_service::Shutdown;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower::util::AndThenLayer;

/// Largest message between masters, in bytes: a batch of raft's, and more.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Largest HTTP/2 frame: a batch of raft's messages goes in few of them.
const MAX_FRAME: u32 = 1 << 20;

/// How often a silent connection is asked whether it lives: rarely, there are thousands of them …
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// … and how long it may take to answer.
const KEPT_ALIVE: Duration = Duration::from_secs(10);

/// How long shutdown waits for calls that are being answered.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Starts to serve; `shutdown` owns the task.
pub(crate) fn serve(
    listener: Listener,
    metadata: MetadataService,
    registry: RegistryService,
    admin: AdminService,
    raft: RaftService,
    leadership: Arc<Leadership>,
    shutdown: &Shutdown,
) {
    let routes = Routes::new(RaftServer::new(raft).max_decoding_message_size(MAX_MESSAGE))
        .add_service(MetadataServer::new(metadata))
        .add_service(RegistryServer::new(registry))
        .add_service(AdminServer::new(admin));
    run(routes, listener, Some(leadership), shutdown);
}

/// Serves only what another master asks one that is starting.
pub(crate) fn serve_hello(listener: Listener, hello: HelloService, shutdown: &Shutdown) {
    run(
        Routes::new(RaftServer::new(hello)),
        listener,
        None,
        shutdown,
    );
}

fn run(
    routes: Routes,
    listener: Listener,
    leadership: Option<Arc<Leadership>>,
    shutdown: &Shutdown,
) {
    let hint = AndThenLayer::new(move |response| {
        let leadership = leadership.clone();
        async move {
            Ok::<_, Infallible>(match leadership {
                Some(leadership) => hint::add(response, &leadership).await,
                None => response,
            })
        }
    });
    let router = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEPT_ALIVE))
        .layer(hint)
        .add_routes(routes);
    shutdown.spawn_graceful(|token| async move {
        let stopping = token.clone().cancelled_owned();
        let serving = async {
            match listener {
                Listener::Tcp(listener) => {
                    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                    router
                        .serve_with_incoming_shutdown(incoming, stopping)
                        .await
                }
                Listener::Unix(listener, _file) => {
                    let incoming = UnixListenerStream::new(listener);
                    router
                        .serve_with_incoming_shutdown(incoming, stopping)
                        .await
                }
            }
        };
        let too_late = async {
            token.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the gRPC server has ended");
            },
            () = too_late => {}
        }
    });
}
