//! Workers report, everyone learns of them, over gRPC.

use super::metadata::millis;
use crate::{error::Error, leadership::Leadership, metrics::Metrics};
use forebay_proto::v1::{self, registry_server::Registry};
use forebay_types::Code;
use std::{sync::Arc, time::Instant};
use tonic::{Request, Response, Status};

/// Takes in what workers say of themselves.
pub(crate) struct RegistryService {
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.metrics.call("Register");
        let request = request.into_inner();
        let reign = self.leadership.reign().await?;
        if !request.cluster.is_empty() && request.cluster != reign.cluster {
            return Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "the worker belongs to cluster {} and this is cluster {}: point it at its own \
                     master, or give it an empty data directory",
                    request.cluster, reign.cluster
                ),
            )
            .into());
        }
        let worker = request.worker.clone().unwrap_or_default();
        let interval = reign.workers().register(request, Instant::now())?;
        reign.publish();
        tracing::info!(
            worker = worker.id,
            address = worker.address,
            "worker registered"
        );
        Ok(Response::new(v1::RegisterResponse {
            cluster: reign.cluster.clone(),
            heartbeat_ms: millis(interval),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        self.metrics.call("Heartbeat");
        let reign = self.leadership.reign().await?;
        let (workers, now) = (reign.workers(), Instant::now());
        let interval = workers.heartbeat(request.into_inner(), now);
        Ok(Response::new(v1::HeartbeatResponse {
            known: interval.is_some(),
            heartbeat_ms: interval.map_or(0, millis),
            topology: workers.version(now),
        }))
    }

    async fn topology(
        &self,
        request: Request<v1::TopologyRequest>,
    ) -> Result<Response<v1::TopologyResponse>, Status> {
        self.metrics.call("Topology");
        let reign = self.leadership.reign().await?;
        reign.publish();
        let answer = reign.workers().tell(&request.into_inner(), Instant::now());
        Ok(Response::new(v1::TopologyResponse {
            cluster: reign.cluster.clone(),
            ..answer
        }))
    }
}
