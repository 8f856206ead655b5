//! The FUSE host of this node, in another container, behind a Unix socket.

use crate::{
    error::Error,
    plan::Served,
    record::Record,
    volume::{Volume, VolumeId},
};
use forebay_proto::v1::{
    self, AttachRequest, DetachRequest, VolumesRequest, fuse_host_client::FuseHostClient,
    volumes_response::State,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

/// It asks the masters, which may be choosing a leader.
const ATTACH: Duration = Duration::from_secs(40);
const DETACH: Duration = Duration::from_secs(20);
/// It only looks into its own memory.
const VOLUMES: Duration = Duration::from_secs(5);

/// What the FUSE host serves.
#[derive(Clone, Debug, Default)]
pub struct Volumes(Vec<State>);

impl Volumes {
    /// What is served under an id.
    pub fn get(&self, id: &VolumeId) -> Option<&State> {
        let name = |state: &State| state.volume.as_ref().map(|v| v.id.clone());
        self.0
            .iter()
            .find(|s| name(s).as_deref() == Some(id.as_str()))
    }

    /// All, by id and mount point.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Path)> {
        let volumes = self.0.iter().filter_map(|state| state.volume.as_ref());
        volumes.map(|v| (v.id.as_str(), Path::new(&v.mount_point)))
    }
}

/// The connection to it; made when needed, and again after a failure.
#[derive(Clone, Debug)]
pub struct Host {
    client: FuseHostClient<Channel>,
    socket: PathBuf,
    sockets_dir: PathBuf,
}

impl Host {
    /// Connects to nothing yet. `sockets_dir` holds a directory with the worker's socket for every
    /// cluster.
    pub fn new(socket: PathBuf, sockets_dir: PathBuf) -> Result<Host, String> {
        let uri = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(uri).map_err(|e| e.to_string())?;
        Ok(Host {
            client: FuseHostClient::new(endpoint.connect_lazy()),
            socket,
            sockets_dir,
        })
    }

    /// Lets it serve a volume at `mount_point`; returns when the volume can be read.
    pub async fn attach(&self, volume: &Volume, mount_point: &Path) -> Result<(), Error> {
        let volume = Some(self.spell(volume, mount_point)?);
        let request = within(ATTACH, AttachRequest { volume });
        let answer = self.client.clone().attach(request).await;
        answer.map(drop).map_err(|status| self.failed(status))
    }

    /// Lets it end a volume.
    pub async fn detach(&self, id: &VolumeId) -> Result<(), Error> {
        let id = id.as_str().to_owned();
        let request = within(DETACH, DetachRequest { id });
        let answer = self.client.clone().detach(request).await;
        answer.map(drop).map_err(|status| self.failed(status))
    }

    /// What it serves now.
    pub async fn volumes(&self) -> Result<Volumes, Error> {
        let request = within(VOLUMES, VolumesRequest {});
        let answer = self.client.clone().volumes(request).await;
        let answer = answer.map_err(|status| self.failed(status))?;
        Ok(Volumes(answer.into_inner().volumes))
    }

    /// How what it serves compares with a record.
    pub fn served(&self, record: &Record, volumes: &Volumes) -> Result<Served, Error> {
        let Some(state) = volumes.get(record.id()) else {
            return Ok(Served::Not);
        };
        let wanted = self.spell(&record.volume, &record.staging)?;
        Ok(if state.volume.as_ref() == Some(&wanted) {
            Served::AsRecorded
        } else {
            Served::Otherwise
        })
    }

    fn spell(&self, volume: &Volume, mount_point: &Path) -> Result<v1::Volume, Error> {
        let worker = self.sockets_dir.join(volume.cluster.as_str());
        Ok(v1::Volume {
            id: volume.id.as_str().to_owned(),
            masters: volume.masters.to_string(),
            path: volume.path.as_str().to_owned(),
            worker_socket: text(&worker.join("worker.sock"))?,
            mount_point: text(mount_point)?,
        })
    }

    fn failed(&self, status: Status) -> Error {
        // Only what the transport made up itself has a source: nobody has answered then.
        if std::error::Error::source(&status).is_some() {
            let (socket, why) = (self.socket.display(), status.message());
            return Error::NoHost(format!("unix:{socket}: {why}"));
        }
        Error::Host(status)
    }
}

fn within<T>(time: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

fn text(path: &Path) -> Result<String, Error> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Invalid(format!("path {} is not UTF-8", path.display())))
}
