//! The gRPC service.

use super::{NodeHost, slot::State};
use forebay_proto::v1::{
    AttachRequest, AttachResponse, DetachRequest, DetachResponse, Volume, VolumesRequest,
    VolumesResponse, fuse_host_server::FuseHost, volumes_response,
};
use tonic::{Request, Response, Status, async_trait};

/// Of a volume that is taken over and not served yet.
const AWAY: &str = "its masters have not answered since the FUSE host started";
/// Of one that was there, and that somebody is about.
const BUSY: &str = "it is being taken over, attached or detached";

pub(super) struct Service(pub(super) NodeHost);

#[async_trait]
impl FuseHost for Service {
    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let volume = request.into_inner().volume;
        let volume = volume.ok_or_else(|| Status::invalid_argument("no volume is named"))?;
        self.0.attach(volume).await?;
        Ok(Response::new(AttachResponse {}))
    }

    async fn detach(
        &self,
        request: Request<DetachRequest>,
    ) -> Result<Response<DetachResponse>, Status> {
        self.0.detach(&request.into_inner().id).await?;
        Ok(Response::new(DetachResponse {}))
    }

    async fn volumes(
        &self,
        _: Request<VolumesRequest>,
    ) -> Result<Response<VolumesResponse>, Status> {
        let slots: Vec<_> = self.0.inner.slots.lock().values().cloned().collect();
        let mut volumes = Vec::new();
        for slot in slots {
            let Some(state) = slot.try_lock() else {
                volumes.extend(slot.volume().map(|volume| told(&volume, BUSY)));
                continue;
            };
            match &*state {
                State::None => {}
                State::Waiting(legacy) => volumes.push(told(&legacy.volume, AWAY)),
                State::Served(served) => {
                    volumes.push(told(&served.volume, &served.fault().await));
                }
            }
        }
        Ok(Response::new(VolumesResponse { volumes }))
    }
}

fn told(volume: &Volume, fault: &str) -> volumes_response::State {
    volumes_response::State {
        volume: Some(volume.clone()),
        fault: fault.to_owned(),
    }
}
