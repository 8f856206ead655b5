//! The FUSE host of a node: volumes of any number of clusters, each a mount of its own, in one process.
//!
//! Volumes of one cluster share its metadata cache, its session and its read-ahead. What is served is asked for
//! over gRPC on a Unix socket (`FuseHost` of `forebay-proto`); whoever asks remembers it, this process does not.

mod cluster;
mod keep;
mod legacy;
mod service;
mod slot;
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
use slot::{Slot, State};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Status, transport::Server};
use volume::{Legacy, Refused};

/// The FUSE host of a node; clones are the same one.
#[derive(Clone)]
pub struct NodeHost {
    inner: Arc<Inner>,
}

struct Inner {
    clusters: Clusters,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
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
            let legacy = match Legacy::new(device, legacy.into()) {
                Ok(legacy) => legacy,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(
                        volume = id,
                        error,
                        "cannot take a volume over: it has to be attached again"
                    );
                    self.forget(&id).await;
                    continue;
                }
            };
            if let Err(error) = legacy.stays_with(keep).await {
                tracing::warn!(volume = id, %error, "the volume will not outlive this process");
            }
            *self.slot(&id).lock().await = State::Waiting(legacy);
            let host = self.clone();
            self.inner
                .shutdown
                .spawn(async move { host.take_over(&id).await });
        }
    }

    /// Goes on with a volume as soon as its masters answer, unless somebody attaches or detaches it before.
    async fn take_over(&self, id: &str) {
        let slot = self.slot(id);
        let mut waits = backoff().without_max_times().build();
        loop {
            let mut state = slot.lock().await;
            let State::Waiting(legacy) = &*state else {
                return;
            };
            match volume::resume(&self.inner, legacy).await {
                Ok(served) => {
                    *state = State::Served(served);
                    return;
                }
                Err(Refused::Gone) => {
                    *state = State::None;
                    self.forget(id).await;
                    return;
                }
                Err(Refused::Now(error)) => {
                    drop(state);
                    tracing::warn!(volume = id, error, "cannot take a volume over yet");
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
        let mut state = slot.lock().await;
        let id = wanted.id.clone();
        let other = |volume: &Volume| {
            let at = &volume.mount_point;
            let text =
                format!("volume {id} is served at {at} with other settings: detach it first");
            Status::already_exists(text)
        };
        match &*state {
            State::Served(served) if !served.has_ended() => {
                return if served.volume == wanted {
                    Ok(())
                } else {
                    Err(other(&served.volume))
                };
            }
            State::Waiting(legacy) if legacy.volume != wanted => return Err(other(&legacy.volume)),
            State::Waiting(legacy) => match volume::resume(&self.inner, legacy).await {
                Ok(served) => {
                    *state = State::Served(served);
                    return Ok(());
                }
                Err(Refused::Now(error)) => return Err(Status::unavailable(error)),
                Err(Refused::Gone) => {}
            },
            State::None | State::Served(_) => {}
        }
        // What there was, somebody else has unmounted.
        if !matches!(*state, State::None) {
            *state = State::None;
            self.forget(&id).await;
        }
        match volume::serve(&self.inner, wanted).await {
            Ok(served) => *state = State::Served(served),
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
        let mut state = slot.lock().await;
        let ended = match std::mem::take(&mut *state) {
            State::None => Ok(()),
            State::Waiting(legacy) => legacy.end().await,
            State::Served(served) => served.end().await,
        };
        self.forget(id).await;
        // Not if somebody waits for the lock: he would put a volume where nobody looks.
        let mut slots = self.inner.slots.lock();
        let nobody = |slot: &Arc<Slot>| Arc::strong_count(slot) == 2;
        if slots.get(id).is_some_and(nobody) {
            slots.remove(id);
        }
        ended
    }

    /// Whether the volumes wait for a successor when this process ends.
    pub fn outlives_process(&self) -> bool {
        self.inner.keep.is_some()
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

    fn slot(&self, id: &str) -> Arc<Slot> {
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
