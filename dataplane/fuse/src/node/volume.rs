//! One volume: a mount that shows a directory of a cluster.

use super::{Inner, cluster::Cluster, keep::Keep, legacy};
use crate::{
    backing::{Backing, Device},
    fs::{Fs, Sources},
    host::{FuseHost, Link},
    ledger::Ledger,
    mount, takeover,
    top::Top,
};
use forebay_client::{LocalWorker, SocketWorker};
use forebay_proto::{
    convert::status,
    v1::{Kept, Volume},
};
use forebay_service::Shutdown;
use forebay_types::{Addresses, Code, Ino, NameError};
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use tonic::Status;

/// A volume that is served.
pub(super) struct Served {
    /// As it was asked for.
    pub(super) volume: Volume,
    host: Option<FuseHost>,
    part: Shutdown,
    _cluster: Arc<Cluster>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.part.begin();
    }
}

/// What a process leaves of a volume to its successor.
pub(super) struct Legacy {
    /// As it was asked for.
    pub(super) volume: Volume,
    capabilities: u64,
    /// The mount.
    device: File,
    /// The rest.
    file: File,
}

impl Legacy {
    /// What a predecessor left.
    pub(super) fn new(device: OwnedFd, file: File) -> anyhow::Result<Legacy> {
        let Kept {
            volume,
            capabilities,
        } = legacy::read(&file)?;
        anyhow::ensure!(capabilities != 0, "it was never served");
        Ok(Legacy {
            volume: volume.unwrap_or_default(),
            capabilities,
            device: device.into(),
            file,
        })
    }

    /// Unmounts it. Who still reads gets an error.
    pub(super) async fn end(self) -> Result<(), Status> {
        let at = PathBuf::from(&self.volume.mount_point);
        tracing::info!(
            volume = self.volume.id,
            at = self.volume.mount_point,
            "ends before it was taken over"
        );
        let ended = tokio::task::spawn_blocking(move || mount::unmount(&at)).await;
        match ended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    /// Leaves it with the keeper.
    pub(super) async fn stays_with(&self, keep: &Keep) -> io::Result<()> {
        let (device, file) = (self.device.try_clone()?, self.file.try_clone()?);
        let [device_name, file_name] = names(&self.volume.id);
        // The mount last: without it, the rest is nothing.
        keep.put(&file_name, file.into()).await;
        keep.put(&device_name, device.into()).await;
        Ok(())
    }
}

/// Names under which the keeper has the two files.
pub(super) fn names(id: &str) -> [String; 2] {
    [format!("device/{id}"), format!("legacy/{id}")]
}

/// Mounts a volume; returns when it can be read.
pub(super) async fn serve(node: &Inner, volume: Volume) -> Result<Served, Status> {
    if volume.id.is_empty() || volume.mount_point.is_empty() {
        return Err(bad(&volume, "it needs an id and a mount point"));
    }
    let at = volume.mount_point.clone();
    let mount_point = tokio::task::spawn_blocking(move || mount::check(Path::new(&at)))
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::failed_precondition(error.to_string()))?;
    let prepared = prepare(node, &volume).await?;
    let root = prepared.fs.getattr(Ino::ROOT).await;
    root.map_err(|failure| {
        let code = if failure.errno == Code::NotFound.errno() {
            Code::NotFound
        } else {
            Code::Unavailable
        };
        status(code, failure.to_string())
    })?;
    let kept = |capabilities| Kept {
        volume: Some(volume.clone()),
        capabilities,
    };
    let cannot = |error: io::Error| {
        let text = format!("cannot mount at {}: {error}", volume.mount_point);
        Status::unavailable(text)
    };
    let file = legacy::create(&kept(0)).map_err(cannot)?;
    file.try_clone()
        .and_then(|rows| prepared.keep(rows))
        .map_err(cannot)?;
    let device = takeover::mount_at(&mount_point).map_err(cannot)?;
    let mounted = Mounted(mount_point.clone());
    let legacy = Legacy {
        volume: volume.clone(),
        capabilities: 0,
        device,
        file,
    };
    if let Some(keep) = &node.keep {
        legacy.stays_with(keep).await.map_err(cannot)?;
    }
    let Legacy { device, file, .. } = legacy;
    let link = Link::Fresh(device);
    let served = prepared
        .serve(node, volume.clone(), mount_point, link)
        .await?;
    legacy::write(&file, &kept(served.capabilities())).map_err(cannot)?;
    std::mem::forget(mounted);
    Ok(served)
}

/// Why a volume is not taken over.
pub(super) enum Refused {
    /// Its mount is gone.
    Gone,
    /// Something is in the way; it may be tried again.
    Now(String),
}

/// Goes on with the volume that a predecessor served. Of the masters it needs to know only that they are there.
pub(super) async fn resume(node: &Inner, legacy: &Legacy) -> Result<Served, Refused> {
    let now = |error: io::Error| Refused::Now(error.to_string());
    // Asked for early: the answer tells whether the mount is still there.
    match takeover::resend(&legacy.device) {
        Ok(()) => {}
        Err(error) if takeover::is_gone(&error) => return Err(Refused::Gone),
        Err(error) => return Err(now(error)),
    }
    let volume = legacy.volume.clone();
    let mount_point = PathBuf::from(&volume.mount_point);
    let later = |status: Status| Refused::Now(status.message().to_owned());
    let prepared = prepare(node, &volume).await.map_err(later)?;
    let rows = legacy.file.try_clone().map_err(now)?;
    prepared.keep(rows).map_err(now)?;
    let device = legacy.device.try_clone().map_err(now)?;
    let link = Link::Inherited(device, legacy.capabilities);
    let served = prepared.serve(node, volume, mount_point, link).await;
    served.map_err(later)
}

/// A file system that nobody serves yet.
struct Prepared {
    fs: Fs<Backing>,
    device: Device,
    part: Ending,
    cluster: Arc<Cluster>,
}

async fn prepare(node: &Inner, volume: &Volume) -> Result<Prepared, Status> {
    let masters = volume.masters.parse::<Addresses>();
    let masters = masters.map_err(|why| bad(volume, &why))?;
    let top = volume.path.parse::<Top>();
    let top = top.map_err(|why: NameError| bad(volume, &why.to_string()))?;
    let cluster = node.clusters.of(&masters).await;
    let cluster = cluster.map_err(|error| status(error.code, error.message))?;
    let part = Ending(node.shutdown.part());
    let local = (!volume.worker_socket.is_empty()).then(|| {
        let path = Path::new(&volume.worker_socket);
        let stop = part.0.token();
        SocketWorker::expect(path, cluster.remote.clone(), stop) as Arc<dyn LocalWorker>
    });
    let sources = Sources {
        namespace: cluster.namespace.clone(),
        local,
        remote: cluster.remote.clone(),
    };
    Ok(Prepared {
        fs: Fs::new(sources, top, node.passthrough, node.metrics.clone()),
        device: Device::default(),
        part,
        cluster,
    })
}

impl Prepared {
    /// Notes open inodes in `file`, and goes on with those that are in it.
    fn keep(&self, file: File) -> io::Result<()> {
        let (ledger, rows) = Ledger::open(file)?;
        let adopt = |number| Backing::adopt(&self.device, number);
        self.fs.inodes().keep(ledger, rows, adopt);
        Ok(())
    }

    async fn serve(
        self,
        node: &Inner,
        volume: Volume,
        at: PathBuf,
        link: Link,
    ) -> Result<Served, Status> {
        let wake = node.wake.clone();
        let host = FuseHost::serve(self.fs, at, link, self.device, wake, &self.part.0).await;
        let host = host.map_err(|error| Status::unavailable(format!("{error:#}")))?;
        tracing::info!(
            volume = volume.id,
            path = volume.path,
            at = volume.mount_point,
            "attached"
        );
        Ok(Served {
            volume,
            host: Some(host),
            part: self.part.keep(),
            _cluster: self.cluster,
        })
    }
}

impl Served {
    fn capabilities(&self) -> u64 {
        self.host.as_ref().map_or(0, FuseHost::capabilities)
    }

    /// Whether the kernel has ended the mount: somebody else unmounted it.
    pub(super) fn has_ended(&self) -> bool {
        self.host.as_ref().is_none_or(FuseHost::has_ended)
    }

    /// Why it cannot be read; empty if it can.
    pub(super) async fn fault(&self) -> String {
        let host = self.host.as_ref().filter(|host| !host.has_ended());
        let Some(host) = host else {
            return "it was unmounted".to_owned();
        };
        let root = host.fs().getattr(Ino::ROOT).await;
        root.err()
            .map(|failure| failure.to_string())
            .unwrap_or_default()
    }

    /// Unmounts it.
    pub(super) async fn end(mut self) -> Result<(), Status> {
        tracing::info!(
            volume = self.volume.id,
            at = self.volume.mount_point,
            "detaching"
        );
        let Some(host) = self.host.take() else {
            return Ok(());
        };
        let ended = host.unmount().await;
        ended.map_err(|error| Status::internal(format!("{error:#}")))
    }
}

fn bad(volume: &Volume, what: &str) -> Status {
    Status::invalid_argument(format!("volume {}: {what}", volume.id))
}

/// A mount that is taken away unless it is forgotten.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = mount::unmount(&self.0) {
            tracing::warn!(%error, at = %self.0.display(), "cannot unmount");
        }
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
