//! Serves the three services until shutdown.

use crate::{
    listen::Listener,
    service::{admin::AdminService, metadata::MetadataService, registry::RegistryService},
};
use forebay_proto::v1::{
    admin_server::AdminServer, metadata_server::MetadataServer, registry_server::RegistryServer,
};
use forebay_service::Shutdown;
use std::time::Duration;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Server, server::TcpIncoming};

/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long shutdown waits for calls that are being answered.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Starts to serve; `shutdown` owns the task.
pub(crate) fn serve(
    listener: Listener,
    metadata: MetadataService,
    registry: RegistryService,
    admin: AdminService,
    shutdown: &Shutdown,
) {
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(MetadataServer::new(metadata))
        .add_service(RegistryServer::new(registry))
        .add_service(AdminServer::new(admin));
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
