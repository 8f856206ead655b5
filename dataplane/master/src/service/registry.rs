//! Workers report, everyone learns of them, over gRPC.

use crate::{
    error::Error,
    leadership::Leadership,
    metrics::Metrics,
    workers::{HEARTBEAT, to_wire},
};
use forebay_proto::{
    convert::mount_to_wire,
    v1::{self, registry_server::Registry},
};
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
        let worker = request
            .worker
            .ok_or_else(|| Error::new(Code::InvalidArgument, "the request names no worker"))?;
        reign.workers().register(&worker, Instant::now())?;
        tracing::info!(
            worker = worker.id,
            address = worker.address,
            "worker registered"
        );
        Ok(Response::new(v1::RegisterResponse {
            cluster: reign.cluster.clone(),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        self.metrics.call("Heartbeat");
        let reign = self.leadership.reign().await?;
        let workers = reign.workers();
        let known = workers.heartbeat(request.into_inner(), Instant::now());
        Ok(Response::new(v1::HeartbeatResponse {
            known,
            registrations: workers.registrations(),
        }))
    }

    async fn topology(
        &self,
        _request: Request<v1::TopologyRequest>,
    ) -> Result<Response<v1::TopologyResponse>, Status> {
        self.metrics.call("Topology");
        let reign = self.leadership.reign().await?;
        let mounts = reign
            .mounts
            .rows()
            .into_iter()
            .map(|(id, m)| mount_to_wire(id, &m.spec))
            .collect();
        let workers = reign
            .workers()
            .live(Instant::now())
            .iter()
            .map(to_wire)
            .collect();
        Ok(Response::new(v1::TopologyResponse {
            cluster: reign.cluster.clone(),
            mounts,
            workers,
            settling: reign.is_settling(),
        }))
    }
}
