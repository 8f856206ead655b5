//! The FUSE host of a node: volumes of any number of clusters, each a mount of its own, in one process.
//!
//! Volumes of one cluster share its metadata cache, its session and its read-ahead. What is served is asked for
//! over gRPC on a Unix socket (`FuseHost` of `forebay-proto`); whoever asks remembers it, this process does not.

mod cluster;
mod keep;
mod legacy;
mod service;
mod volume;

use crate::{config::NodeConfig, host::keep_awake, metrics::Metrics, wake::Wake};
use anyhow::Context;
use backon::BackoffBuilder;
use cluster::Clusters;
use forebay_client::call::backoff;
use forebay_proto::v1::{Volume, fuse_host_server::FuseHostServer};
use forebay_service::Shutdown;
use keep::Keep;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use service::Service;
use std::{collections::BTreeMap, fs, os::fd::OwnedFd, path::Path, sync::Arc};
use tokio::{net::UnixListener, sync::OwnedMutexGuard};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Status, transport::Server};
use volume::{Legacy, Served};

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
    /// Without one, mounts end with this process.
    keep: Option<Arc<Keep>>,
    shutdown: Shutdown,
}

impl NodeHost {
    /// Goes on with the volumes of a predecessor, then serves on the socket of `config`.
    pub async fn start(
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
            keep: config
                .keeper
                .as_deref()
                .map(|keeper| Keep::new(keeper, shutdown)),
            shutdown: shutdown.clone(),
        };
        let host = NodeHost {
            inner: Arc::new(inner),
        };
        host.inherit().await;
        host.listen(&config.socket, shutdown)?;
        Ok(host)
    }

    /// Goes on with what the keeper has.
    async fn inherit(&self) {
        let Some(keep) = &self.inner.keep else { return };
        let mut found = match keep.inherited().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the keeper is away: mounts of a predecessor stay without answers until it is back and this process starts again");
                return;
            }
        };
        let ids: Vec<String> = found
            .keys()
            .filter_map(|name| name.strip_prefix("device/"))
            .map(str::to_owned)
            .collect();
        for id in ids {
            let [device, legacy] = volume::names(&id).map(|name| found.remove(&name));
            let (Some(device), Some(legacy)) = (device, legacy) else {
                continue;
            };
            // Locked before anybody can ask for it.
            let slot = self.slot(&id).lock_owned().await;
            let host = self.clone();
            self.inner
                .shutdown
                .spawn(async move { host.resume(slot, &id, device, legacy).await });
        }
    }

    /// Goes on with a volume, as soon as its masters answer.
    async fn resume(
        &self,
        mut slot: OwnedMutexGuard<Option<Served>>,
        id: &str,
        device: OwnedFd,
        legacy: OwnedFd,
    ) {
        let legacy = match Legacy::new(device, legacy.into()) {
            Ok(legacy) => legacy,
            Err(error) => {
                tracing::warn!(
                    volume = id,
                    error = format!("{error:#}"),
                    "cannot take a volume over: it has to be attached again"
                );
                return self.forget(id).await;
            }
        };
        if let Some(keep) = &self.inner.keep
            && let Err(error) = legacy.stays_with(keep).await
        {
            tracing::warn!(volume = id, %error, "the volume will not outlive this process");
        }
        let mut waits = backoff().without_max_times().build();
        loop {
            match volume::resume(&self.inner, &legacy).await {
                Ok(served) => {
                    *slot = Some(served);
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        volume = id,
                        error = format!("{error:#}"),
                        "cannot take a volume over yet"
                    );
                    tokio::time::sleep(waits.next().unwrap_or_default()).await;
                }
            }
        }
    }

    /// The keeper need not keep a volume any more.
    async fn forget(&self, id: &str) {
        if let Some(keep) = &self.inner.keep {
            for name in volume::names(id) {
                keep.take(&name).await;
            }
        }
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
                drop(slot.take());
                self.forget(&wanted.id).await;
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
        let id = wanted.id.clone();
        match volume::serve(&self.inner, wanted).await {
            Ok(served) => *slot = Some(served),
            Err(error) => {
                self.forget(&id).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends a volume.
    async fn detach(&self, id: &str) -> Result<(), Status> {
        let slot = self.slot(id);
        let mut slot = slot.lock().await;
        if let Some(served) = slot.take() {
            served.end().await?;
        }
        self.forget(id).await;
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

    /// Ends all volumes that would not outlive this process.
    pub async fn close(&self) {
        let ids: Vec<String> = self.inner.slots.lock().keys().cloned().collect();
        let keeps = self.inner.keep.is_some();
        for id in ids.into_iter().filter(|_| !keeps) {
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
