//! The FUSE host of a node: volumes of any number of clusters, each a mount of its own, in one process.
//!
//! Volumes of one cluster share its metadata cache, its session and its read-ahead. What is served is asked for
//! over gRPC on a Unix socket (`FuseHost` of `forebay-proto`); whoever asks remembers it, this process does not.

mod cluster;
mod service;
mod volume;

use crate::{config::NodeConfig, host::keep_awake, metrics::Metrics, wake::Wake};
use anyhow::Context;
use cluster::Clusters;
use forebay_proto::v1::{Volume, fuse_host_server::FuseHostServer};
use forebay_service::Shutdown;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use service::Service;
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Status, transport::Server};
use volume::Served;

/// A place for one volume. Its lock is held while it is attached or detached: one at a time.
type Slot = Arc<tokio::sync::Mutex<Option<Served>>>;

/// The FUSE host of a node; clones are the same one.
#[derive(Clone)]
pub struct NodeHost {
    inner: Arc<Inner>,
}

struct Inner {
    clusters: Clusters,
    slots: Mutex<BTreeMap<String, Slot>>,
    passthrough: bool,
    metrics: Metrics,
    wake: Arc<Wake>,
    shutdown: Shutdown,
}

impl NodeHost {
    /// Serves on the socket of `config`; no volume yet.
    pub fn start(
        config: &NodeConfig,
        registry: &mut Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<NodeHost> {
        let wake = Arc::new(Wake::default());
        if config.keep_cores_awake {
            keep_awake(wake.clone(), shutdown);
        }
        let inner = Inner {
            clusters: Clusters::new(config.memory.0, shutdown.part()),
            slots: Mutex::default(),
            passthrough: config.passthrough,
            metrics: Metrics::register(registry),
            wake,
            shutdown: shutdown.clone(),
        };
        let host = NodeHost {
            inner: Arc::new(inner),
        };
        host.listen(&config.socket, shutdown)?;
        Ok(host)
    }

    fn listen(&self, path: &Path, shutdown: &Shutdown) -> anyhow::Result<()> {
        let bound = bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let incoming = UnixListenerStream::new(bound);
        let service = FuseHostServer::new(Service(self.clone()));
        shutdown.spawn_graceful(|token| async move {
            let served = Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, token.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the gRPC server failed");
            }
        });
        Ok(())
    }

    /// Serves a volume; returns when it can be read.
    async fn attach(&self, wanted: Volume) -> Result<(), Status> {
        let slot = self.slot(&wanted.id);
        let mut slot = slot.lock().await;
        if let Some(served) = &*slot {
            if served.has_ended() {
                // Somebody else unmounted it.
                let ended = slot.take();
                drop(ended);
            } else if served.volume == wanted {
                return Ok(());
            } else {
                let text = format!(
                    "volume {} is served at {} with other settings: detach it first",
                    wanted.id, served.volume.mount_point
                );
                return Err(Status::already_exists(text));
            }
        }
        *slot = Some(volume::serve(&self.inner, wanted).await?);
        Ok(())
    }

    /// Ends a volume.
    async fn detach(&self, id: &str) -> Result<(), Status> {
        let slot = self.slot(id);
        let mut slot = slot.lock().await;
        if let Some(served) = slot.take() {
            served.end().await?;
        }
        // Not if somebody waits for the lock: he would put a volume where nobody looks.
        let mut slots = self.inner.slots.lock();
        if slots
            .get(id)
            .is_some_and(|slot| Arc::strong_count(slot) == 2)
        {
            slots.remove(id);
        }
        Ok(())
    }

    /// Ends all volumes.
    pub async fn close(&self) {
        let ids: Vec<String> = self.inner.slots.lock().keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.detach(&id).await {
                tracing::warn!(volume = id, error = error.message(), "cannot unmount");
            }
        }
    }

    fn slot(&self, id: &str) -> Slot {
        let mut slots = self.inner.slots.lock();
        slots.entry(id.to_owned()).or_default().clone()
    }
}

/// Listens at `path`, in place of the socket of a predecessor, who is gone: there is one on a node.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let hidden = path.with_extension("new");
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    rustix::fs::chmod(&hidden, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}
