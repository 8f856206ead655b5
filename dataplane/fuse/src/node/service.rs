//! The gRPC service.

use super::{self as node, NodeHost};
use forebay_proto::v1::{
    AttachRequest, AttachResponse, DetachRequest, DetachResponse, VolumesRequest, VolumesResponse,
    fuse_host_server::FuseHost, volumes_response::State,
};
use tonic::{Request, Response, Status, async_trait};

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
            // One that is being attached or detached is not there: whoever does it knows.
            let Ok(slot) = slot.try_lock() else { continue };
            let (volume, fault) = match &*slot {
                node::State::None => continue,
                node::State::Waiting(legacy) => (
                    &legacy.volume,
                    "its masters have not answered since the FUSE host started".to_owned(),
                ),
                node::State::Served(served) => (&served.volume, served.fault().await),
            };
            volumes.push(State {
                volume: Some(volume.clone()),
                fault,
            });
        }
        Ok(Response::new(VolumesResponse { volumes }))
    }
}
