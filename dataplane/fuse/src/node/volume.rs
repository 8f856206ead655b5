//! One volume: a mount that shows a directory of a cluster.

use super::{Inner, cluster::Cluster};
use crate::{
    fs::{Fs, Sources},
    host::FuseHost,
    mount,
    top::Top,
};
use forebay_client::{LocalWorker, SocketWorker};
use forebay_proto::{convert::status, v1::Volume};
use forebay_service::Shutdown;
use forebay_types::{Addresses, Code, Ino, NameError};
use std::{path::Path, sync::Arc};
use tonic::Status;

/// A volume that is served.
pub(super) struct Served {
    /// As it was asked for.
    pub(super) volume: Volume,
    host: FuseHost,
    part: Shutdown,
    _cluster: Arc<Cluster>,
}

/// Mounts a volume; returns when it can be read.
pub(super) async fn serve(node: &Inner, volume: Volume) -> Result<Served, Status> {
    let bad = |what: &str| {
        let text = format!("volume {}: {what}", volume.id);
        Status::invalid_argument(text)
    };
    if volume.id.is_empty() || volume.mount_point.is_empty() {
        return Err(bad("it needs an id and a mount point"));
    }
    let masters: Addresses = volume.masters.parse().map_err(|why: String| bad(&why))?;
    let top: Top = volume
        .path
        .parse()
        .map_err(|why: NameError| bad(&why.to_string()))?;
    let at = volume.mount_point.clone();
    let mount_point = tokio::task::spawn_blocking(move || mount::check(Path::new(&at)))
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::failed_precondition(error.to_string()))?;

    let cluster = node.clusters.of(&masters).await;
    let cluster = cluster.map_err(|error| status(error.code, error.message))?;
    let part = node.shutdown.part();
    let local = (!volume.worker_socket.is_empty()).then(|| {
        let path = Path::new(&volume.worker_socket);
        SocketWorker::expect(path, cluster.remote.clone(), part.token()) as Arc<dyn LocalWorker>
    });
    let sources = Sources {
        namespace: cluster.namespace.clone(),
        local,
        remote: cluster.remote.clone(),
    };
    // From here on dropping the guard ends what was begun.
    let part = Ending(part);
    let fs = Fs::new(sources, top, node.passthrough, node.metrics.clone());
    let root = fs.getattr(Ino::ROOT).await;
    root.map_err(|failure| {
        let code = if failure.errno == Code::NotFound.errno() {
            Code::NotFound
        } else {
            Code::Unavailable
        };
        status(code, failure.to_string())
    })?;
    let host = FuseHost::mount(fs, mount_point, true, node.wake.clone(), &part.0).await;
    let host = host.map_err(|error| Status::unavailable(format!("{error:#}")))?;
    tracing::info!(
        volume = volume.id,
        path = volume.path,
        at = volume.mount_point,
        "attached"
    );
    Ok(Served {
        volume,
        host,
        part: part.keep(),
        _cluster: cluster,
    })
}

impl Served {
    /// Whether the kernel has ended the mount: somebody else unmounted it.
    pub(super) fn has_ended(&self) -> bool {
        self.host.has_ended()
    }

    /// Why it cannot be read; empty if it can.
    pub(super) async fn fault(&self) -> String {
        if self.has_ended() {
            return "it was unmounted".to_owned();
        }
        let root = self.host.fs().getattr(Ino::ROOT).await;
        root.err()
            .map(|failure| failure.to_string())
            .unwrap_or_default()
    }

    /// Unmounts it.
    pub(super) async fn end(self) -> Result<(), Status> {
        tracing::info!(
            volume = self.volume.id,
            at = self.volume.mount_point,
            "detaching"
        );
        let ended = self.host.unmount().await;
        self.part.begin();
        ended.map_err(|error| Status::internal(format!("{error:#}")))
    }
}

/// Ends a part of the process unless it is kept.
struct Ending(Shutdown);

impl Ending {
    fn keep(self) -> Shutdown {
        let part = self.0.clone();
        std::mem::forget(self);
        part
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.begin();
    }
}
