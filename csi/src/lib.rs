//! The CSI driver of a node: volumes that the node's FUSE host serves, staged and published for the kubelet.
//!
//! It has no Controller service: volumes are made by the operator. It serves no file system itself: that is the
//! FUSE host's, another process, so that this one may end and start again under running pods. What the
//! kubelet has asked for is on disk before it is done, and what is there is compared with it again
//! and again. No asynchronous task ever touches a path of a FUSE file system: see [`fuse_call`].

pub mod capability;
pub mod config;
pub mod driver;
pub mod error;
pub mod flag;
pub mod fuse_call;
pub mod host;
pub mod identity;
pub mod lock;
pub mod metrics;
pub mod mount_table;
pub mod mounter;
pub mod node;
pub mod plan;
pub mod proto;
pub mod reconcile;
pub mod record;
pub mod registration;
pub mod socket;
pub mod stats;
pub mod store;
pub mod volume;

use crate::{
    config::CsiConfig,
    driver::Driver,
    fuse_call::FuseCalls,
    host::Host,
    identity::IdentityService,
    lock::Locks,
    metrics::Metrics,
    node::NodeService,
    proto::{
        csi::{identity_server::IdentityServer, node_server::NodeServer},
        registration::registration_server::RegistrationServer,
    },
    reconcile::Reconciler,
    registration::Registrar,
    store::Store,
};
use forebay_service::{Shutdown, config::ConfigError, http};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tonic::transport::Server;

/// The driver's name in CSIDriver and PersistentVolumes.
pub const DRIVER: &str = "csi.forebay.io";

/// Starts everything; it ends with `shutdown`.
pub async fn start(config: &CsiConfig, shutdown: &Shutdown) -> Result<(), ConfigError> {
    config.check()?;
    let mut registry = Registry::default();
    let host = Host::new(config.host_socket.clone(), config.sockets_dir.clone());
    let host = host.map_err(|error| ConfigError(format!("key 'host_socket': {error}")))?;
    let driver = Driver {
        host: host.clone(),
        store: Arc::new(Store::open(&config.state_dir)?),
        locks: Locks::default(),
        fuse: FuseCalls::default(),
        metrics: Metrics::register(&mut registry),
    };
    let services = Server::builder()
        .add_service(IdentityServer::new(IdentityService { host }))
        .add_service(NodeServer::new(NodeService {
            driver: driver.clone(),
            node_name: config.node_name.clone(),
        }));
    socket::serve(&config.endpoint, services, shutdown)?;
    let reconciler = Reconciler::new(driver);
    if let Some(listen) = config.http {
        let fault = reconciler.fault();
        let readiness: http::Readiness = Arc::new(move || fault.lock().clone());
        http::serve(listen, Arc::new(registry), readiness, shutdown).await?;
    }
    shutdown.spawn(reconciler.run());
    // Last: the kubelet calls as soon as it sees this one.
    let registrar = Server::builder().add_service(RegistrationServer::new(Registrar {
        endpoint: config.seen_by_kubelet().display().to_string(),
    }));
    let registration = config.registration_socket(DRIVER);
    socket::serve(&registration, registrar, shutdown)?;
    Ok(())
}
