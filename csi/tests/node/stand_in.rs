//! What csi-sanity wants and the driver is not: a Controller service that makes volumes, and volumes that
//! may be written. Everything about a node goes to the driver; only the access mode is made
//! that of a reader on the way.

use forebay_csi::proto::csi::{
    self, Volume, VolumeCapability,
    controller_server::{Controller, ControllerServer},
    identity_client::IdentityClient,
    identity_server::{Identity, IdentityServer},
    node_client::NodeClient,
    node_server::{Node, NodeServer},
    plugin_capability::{Service, Type, service},
    volume_capability::access_mode::Mode,
};
use std::path::Path;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
struct StandIn {
    node: NodeClient<Channel>,
    identity: IdentityClient<Channel>,
}

/// Serves in front of `driver` until the test ends.
pub(crate) fn serve(socket: &Path, driver: &Channel) {
    let stand_in = StandIn {
        node: NodeClient::new(driver.clone()),
        identity: IdentityClient::new(driver.clone()),
    };
    let server = Server::builder()
        .add_service(ControllerServer::new(stand_in.clone()))
        .add_service(IdentityServer::new(stand_in.clone()))
        .add_service(NodeServer::new(stand_in));
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(server.serve_with_incoming(incoming));
}

fn as_reader(capability: &mut Option<VolumeCapability>) {
    if let Some(mode) = capability.as_mut().and_then(|c| c.access_mode.as_mut()) {
        mode.set_mode(Mode::SingleNodeReaderOnly);
    }
}

macro_rules! services {
    (
        pass { $($passed:ident: $question:ident -> $answer:ident,)* }
        refuse { $($refused:ident: $refused_question:ident -> $refused_answer:ident,)* }
    ) => {
        #[tonic::async_trait]
        impl Node for StandIn {
            async fn node_stage_volume(
                &self,
                mut request: Request<csi::NodeStageVolumeRequest>,
            ) -> Answer<csi::NodeStageVolumeResponse> {
                as_reader(&mut request.get_mut().volume_capability);
                self.node.clone().node_stage_volume(request).await
            }

            async fn node_publish_volume(
                &self,
                mut request: Request<csi::NodePublishVolumeRequest>,
            ) -> Answer<csi::NodePublishVolumeResponse> {
                as_reader(&mut request.get_mut().volume_capability);
                self.node.clone().node_publish_volume(request).await
            }

            $(async fn $passed(&self, request: Request<csi::$question>) -> Answer<csi::$answer> {
                self.node.clone().$passed(request).await
            })*
        }

        #[tonic::async_trait]
        impl Controller for StandIn {
            async fn create_volume(
                &self,
                request: Request<csi::CreateVolumeRequest>,
            ) -> Answer<csi::CreateVolumeResponse> {
                let volume_context = [("cluster", "u"), ("masters", "m:7000"), ("path", "/ns/data")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()));
                let volume = Some(Volume {
                    volume_id: request.into_inner().name,
                    volume_context: volume_context.into(),
                    ..Volume::default()
                });
                Ok(Response::new(csi::CreateVolumeResponse { volume }))
            }

            async fn delete_volume(
                &self,
                _: Request<csi::DeleteVolumeRequest>,
            ) -> Answer<csi::DeleteVolumeResponse> {
                Ok(Response::new(csi::DeleteVolumeResponse {}))
            }

            async fn controller_get_capabilities(
                &self,
                _: Request<csi::ControllerGetCapabilitiesRequest>,
            ) -> Answer<csi::ControllerGetCapabilitiesResponse> {
                Ok(Response::new(csi::ControllerGetCapabilitiesResponse::default()))
            }

            $(async fn $refused(
                &self,
                _: Request<csi::$refused_question>,
            ) -> Answer<csi::$refused_answer> {
                Err(Status::unimplemented(stringify!($refused)))
            })*
        }
    };
}

services! {
    pass {
        node_unstage_volume: NodeUnstageVolumeRequest -> NodeUnstageVolumeResponse,
        node_unpublish_volume: NodeUnpublishVolumeRequest -> NodeUnpublishVolumeResponse,
        node_get_volume_stats: NodeGetVolumeStatsRequest -> NodeGetVolumeStatsResponse,
        node_expand_volume: NodeExpandVolumeRequest -> NodeExpandVolumeResponse,
        node_get_capabilities: NodeGetCapabilitiesRequest -> NodeGetCapabilitiesResponse,
        node_get_info: NodeGetInfoRequest -> NodeGetInfoResponse,
    }
    refuse {
        controller_publish_volume:
            ControllerPublishVolumeRequest -> ControllerPublishVolumeResponse,
        controller_unpublish_volume:
            ControllerUnpublishVolumeRequest -> ControllerUnpublishVolumeResponse,
        validate_volume_capabilities:
            ValidateVolumeCapabilitiesRequest -> ValidateVolumeCapabilitiesResponse,
        list_volumes: ListVolumesRequest -> ListVolumesResponse,
        get_capacity: GetCapacityRequest -> GetCapacityResponse,
        create_snapshot: CreateSnapshotRequest -> CreateSnapshotResponse,
        delete_snapshot: DeleteSnapshotRequest -> DeleteSnapshotResponse,
        list_snapshots: ListSnapshotsRequest -> ListSnapshotsResponse,
        get_snapshot: GetSnapshotRequest -> GetSnapshotResponse,
        controller_expand_volume: ControllerExpandVolumeRequest -> ControllerExpandVolumeResponse,
        controller_get_volume: ControllerGetVolumeRequest -> ControllerGetVolumeResponse,
        controller_modify_volume: ControllerModifyVolumeRequest -> ControllerModifyVolumeResponse,
    }
}

#[tonic::async_trait]
impl Identity for StandIn {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Answer<csi::GetPluginInfoResponse> {
        self.identity.clone().get_plugin_info(request).await
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Answer<csi::GetPluginCapabilitiesResponse> {
        let r#type = service::Type::ControllerService.into();
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: vec![csi::PluginCapability {
                r#type: Some(Type::Service(Service { r#type })),
            }],
        }))
    }

    async fn probe(&self, request: Request<csi::ProbeRequest>) -> Answer<csi::ProbeResponse> {
        self.identity.clone().probe(request).await
    }
}
