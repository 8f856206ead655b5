//! A FUSE host that mounts memory, or the smallest FUSE file system.

use crate::fuse_fs::FuseFs;
use forebay_proto::v1::{
    AttachRequest, AttachResponse, DetachRequest, DetachResponse, Volume, VolumesRequest,
    VolumesResponse,
    fuse_host_server::{FuseHost, FuseHostServer},
    volumes_response::State,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    net::UnixListener,
    runtime::{self, Runtime},
    sync::{Semaphore, watch},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Can be read.
    Memory,
    /// Can die.
    Fuse,
}

struct Served {
    volume: Volume,
    fault: String,
    fuse: Option<FuseFs>,
}

struct Inner {
    kind: Kind,
    served: Mutex<BTreeMap<String, Served>>,
    /// What Attach and Detach were asked, as `attach:id`.
    calls: watch::Sender<Vec<String>>,
    /// Attach takes one of it.
    gate: Semaphore,
    refusal: Mutex<Option<Status>>,
}

/// A running one. Dropped, it dies, and its FUSE file systems with it.
pub(crate) struct FakeHost {
    inner: Arc<Inner>,
    /// Its own, so that connections end with it as they do with a process.
    runtime: Option<Runtime>,
}

struct Service(Arc<Inner>);

impl FakeHost {
    pub(crate) fn start(socket: &Path, kind: Kind) -> FakeHost {
        let inner = Arc::new(Inner {
            kind,
            served: Mutex::default(),
            calls: watch::Sender::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS / 2),
            refusal: Mutex::default(),
        });
        let _ = fs::remove_file(socket);
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let service = FuseHostServer::new(Service(Arc::clone(&inner)));
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        runtime.spawn(server);
        drop(entered);
        FakeHost {
            inner,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn volumes(&self) -> Vec<Volume> {
        let served = self.inner.served.lock().unwrap();
        served.values().map(|s| s.volume.clone()).collect()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.inner.calls.borrow().clone()
    }

    /// Waits until it has been asked for `call`.
    pub(crate) async fn asked(&self, call: &str) {
        let mut calls = self.inner.calls.subscribe();
        let asked = calls.wait_for(|calls| calls.iter().any(|c| c == call));
        asked.await.unwrap();
    }

    /// From now on Attach waits.
    pub(crate) fn close_gate(&self) {
        self.inner.gate.forget_permits(usize::MAX);
    }

    pub(crate) fn open_gate(&self) {
        self.inner.gate.add_permits(1000);
    }

    /// From now on Attach is refused.
    pub(crate) fn refuse(&self, status: Status) {
        *self.inner.refusal.lock().unwrap() = Some(status);
    }

    pub(crate) fn set_fault(&self, id: &str, fault: &str) {
        let mut served = self.inner.served.lock().unwrap();
        fault.clone_into(&mut served.get_mut(id).unwrap().fault);
    }

    pub(crate) fn fall_silent(&self, id: &str) {
        let served = self.inner.served.lock().unwrap();
        served[id].fuse.as_ref().unwrap().fall_silent();
    }

    /// Serves what nobody has recorded.
    pub(crate) fn serve_orphan(&self, id: &str, point: &Path) {
        fs::create_dir_all(point).unwrap();
        let volume = Volume {
            id: id.to_owned(),
            mount_point: point.to_str().unwrap().to_owned(),
            ..Volume::default()
        };
        self.inner.mount(volume);
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        self.inner.served.lock().unwrap().clear();
    }
}

impl Inner {
    fn mount(&self, volume: Volume) {
        let point = PathBuf::from(&volume.mount_point);
        let fuse = match self.kind {
            Kind::Memory => {
                mount("forebay", &point, "tmpfs", MountFlags::NODEV, None).unwrap();
                fs::write(point.join("data"), &volume.path).unwrap();
                fs::create_dir_all(point.join("sub/inner")).unwrap();
                fs::write(point.join("sub/inner/deep"), "deep").unwrap();
                symlink("/etc", point.join("away")).unwrap();
                symlink("inner", point.join("sub/link")).unwrap();
                None
            }
            Kind::Fuse => Some(FuseFs::mount(&point)),
        };
        let id = volume.id.clone();
        let fault = String::new();
        let served = Served {
            volume,
            fault,
            fuse,
        };
        self.served.lock().unwrap().insert(id, served);
    }
}

#[tonic::async_trait]
impl FuseHost for Service {
    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let volume = request.into_inner().volume.unwrap();
        let call = format!("attach:{}", volume.id);
        self.0.calls.send_modify(|calls| calls.push(call));
        self.0.gate.acquire().await.unwrap().forget();
        if let Some(status) = self.0.refusal.lock().unwrap().clone() {
            return Err(status);
        }
        let had = {
            let served = self.0.served.lock().unwrap();
            served.get(&volume.id).map(|served| served.volume.clone())
        };
        match had {
            Some(had) if had == volume => {}
            Some(_) => return Err(Status::already_exists("other settings")),
            None => {
                let mut entries = fs::read_dir(&volume.mount_point)?;
                if entries.next().is_some() {
                    return Err(Status::failed_precondition("not empty"));
                }
                self.0.mount(volume);
            }
        }
        Ok(Response::new(AttachResponse {}))
    }

    async fn detach(
        &self,
        request: Request<DetachRequest>,
    ) -> Result<Response<DetachResponse>, Status> {
        let id = request.into_inner().id;
        let call = format!("detach:{id}");
        self.0.calls.send_modify(|calls| calls.push(call));
        let ended = self.0.served.lock().unwrap().remove(&id);
        if let Some(ended) = ended {
            // It may have been taken away already.
            let _ = unmount(&*ended.volume.mount_point, UnmountFlags::DETACH);
        }
        Ok(Response::new(DetachResponse {}))
    }

    async fn volumes(
        &self,
        _: Request<VolumesRequest>,
    ) -> Result<Response<VolumesResponse>, Status> {
        let served = self.0.served.lock().unwrap();
        let volumes = served.values().map(|served| State {
            volume: Some(served.volume.clone()),
            fault: served.fault.clone(),
        });
        let volumes = volumes.collect();
        Ok(Response::new(VolumesResponse { volumes }))
    }
}
