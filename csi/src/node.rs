//! CSI's Node service: requests become values, values become answers.

use crate::{
    capability,
    driver::Driver,
    error::Error,
    proto::csi::{
        NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
        NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
        NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
        NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
        NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
        NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
        node_server::Node,
        node_service_capability::{Rpc, Type, rpc},
    },
    stats,
    volume::{Volume, VolumeId},
};
use std::path::{Component, PathBuf};
use tonic::{Request, Response, Status};

/// What the kubelet talks to.
#[derive(Debug)]
pub struct NodeService {
    /// Who does the work.
    pub driver: Driver,
    /// Name of this node.
    pub node_name: String,
}

const CAPABILITIES: [rpc::Type; 3] = [
    rpc::Type::StageUnstageVolume,
    rpc::Type::GetVolumeStats,
    rpc::Type::VolumeCondition,
];

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = id(request.volume_id)?;
        let staging = path("staging target path", request.staging_target_path)?;
        capability::flags(request.volume_capability).map_err(Error::Invalid)?;
        let volume = Volume::parse(id, request.volume_context).map_err(Error::Invalid)?;
        self.driver.stage(volume, staging).await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = id(request.volume_id)?;
        let staging = path("staging target path", request.staging_target_path)?;
        self.driver.unstage(&id, staging).await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = id(request.volume_id)?;
        let target = path("target path", request.target_path)?;
        // Read-only whether or not the request says so.
        let flags = capability::flags(request.volume_capability).map_err(Error::Invalid)?;
        let staging = path("staging target path", request.staging_target_path)?;
        self.driver.publish(&id, staging, target, flags).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = id(request.volume_id)?;
        let target = path("target path", request.target_path)?;
        self.driver.unpublish(&id, target).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let id = id(request.volume_id)?;
        if request.volume_path.is_empty() {
            return Err(Error::Invalid("no volume path".to_owned()).into());
        }
        let path = PathBuf::from(request.volume_path);
        let stats = stats::of(&self.driver, &id, &path).await?;
        Ok(Response::new(stats))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes have no size of their own"))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = CAPABILITIES.map(|kind| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node_name.clone(),
            ..NodeGetInfoResponse::default()
        }))
    }
}

fn id(text: String) -> Result<VolumeId, Error> {
    VolumeId::try_from(text).map_err(Error::Invalid)
}

fn path(what: &str, text: String) -> Result<PathBuf, Error> {
    if text.is_empty() {
        return Err(Error::Invalid(format!("no {what}")));
    }
    let path = PathBuf::from(text);
    let up = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || up {
        return Err(Error::Invalid(format!(
            "{what} '{}' is no absolute path without '..'",
            path.display()
        )));
    }
    // Without '.' and '//', as the kernel writes it.
    Ok(path.components().collect())
}
