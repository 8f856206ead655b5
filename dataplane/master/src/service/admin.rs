//! What people and the operator ask for, over gRPC.

use super::Answer;
use crate::{
    error::{Error, Result, blocking},
    job::{
        fleet::Fleet, free::free, load::Load, location::location, pin, refresh::refresh,
        walk::Filter,
    },
    metrics::Metrics,
    mounts::Mounts,
    namespace::Namespace,
    proposer::Proposer,
};
use forebay_meta::ProblemReason;
use forebay_proto::{
    convert::{mount_from_wire, mount_to_wire},
    v1::{self, admin_server::Admin, problems_response::Problem},
};
use forebay_service::Shutdown;
use futures::StreamExt;
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Rows of problems that are answered unless asked otherwise.
const PROBLEMS: usize = 1_000;

/// Most rows of problems in one answer.
const PROBLEMS_MAX: usize = 10_000;

/// Starts jobs and answers questions about the cluster.
pub(crate) struct AdminService {
    pub(crate) cluster: String,
    pub(crate) namespace: Namespace,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
}

impl AdminService {
    async fn set_pin(&self, path: &[u8], pinned: bool) -> Result<v1::PinResponse> {
        let start = self.namespace.resolve(path).await?;
        pin::set(&self.namespace, &self.fleet, &self.proposer, start, pinned).await
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type LoadStream = Answer<v1::JobProgress>;

    async fn load(
        &self,
        request: Request<v1::LoadRequest>,
    ) -> std::result::Result<Response<Self::LoadStream>, Status> {
        self.metrics.call("Load");
        let request = request.into_inner();
        let load = Load {
            filter: Filter::new(&request.include)?,
            start: self.namespace.resolve(&request.path).await?,
            metadata_only: request.metadata_only,
            namespace: self.namespace.clone(),
            fleet: self.fleet.clone(),
            metrics: self.metrics.clone(),
        };
        let (listener, progress) = mpsc::channel(2);
        self.shutdown.spawn(load.run(listener));
        Ok(Response::new(ReceiverStream::new(progress).boxed()))
    }

    async fn free(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::FreeResponse>, Status> {
        self.metrics.call("Free");
        let start = self.namespace.resolve(&request.into_inner().path).await?;
        Ok(Response::new(
            free(&self.namespace, &self.fleet, start).await?,
        ))
    }

    async fn pin(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::PinResponse>, Status> {
        self.metrics.call("Pin");
        Ok(Response::new(
            self.set_pin(&request.into_inner().path, true).await?,
        ))
    }

    async fn unpin(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::PinResponse>, Status> {
        self.metrics.call("Unpin");
        Ok(Response::new(
            self.set_pin(&request.into_inner().path, false).await?,
        ))
    }

    async fn sync(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::SyncResponse>, Status> {
        self.metrics.call("Sync");
        let request = request.into_inner();
        let start = self.namespace.resolve(&request.path).await?;
        Ok(Response::new(
            refresh(&self.namespace, start, request.recursive).await?,
        ))
    }

    async fn location(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::LocationResponse>, Status> {
        self.metrics.call("Location");
        let start = self.namespace.resolve(&request.into_inner().path).await?;
        Ok(Response::new(
            location(&self.namespace, &self.fleet, &start).await?,
        ))
    }

    async fn problems(
        &self,
        request: Request<v1::ProblemsRequest>,
    ) -> std::result::Result<Response<v1::ProblemsResponse>, Status> {
        self.metrics.call("Problems");
        let limit = match request.into_inner().limit as usize {
            0 => PROBLEMS,
            limit => limit.min(PROBLEMS_MAX),
        };
        let meta = self.namespace.meta().clone();
        let (rows, total) = blocking(move || meta.problems(limit))
            .await?
            .map_err(Error::from)?;
        let problems = rows
            .into_iter()
            .map(|(mount, problem)| Problem {
                mount: self.mounts.path(mount).unwrap_or_default(),
                key: problem.key,
                reason: explain(problem.reason).to_owned(),
            })
            .collect();
        Ok(Response::new(v1::ProblemsResponse { problems, total }))
    }

    async fn report(
        &self,
        _request: Request<v1::ReportRequest>,
    ) -> std::result::Result<Response<v1::ReportResponse>, Status> {
        self.metrics.call("Report");
        let meta = self.namespace.meta().clone();
        let counts = blocking(move || Ok((meta.inode_count()?, meta.problems(0)?.1))).await?;
        let (inodes, problems) = counts.map_err(|e: forebay_meta::Error| Error::from(e))?;
        Ok(Response::new(v1::ReportResponse {
            cluster: self.cluster.clone(),
            mounts: self
                .mounts
                .rows()
                .into_iter()
                .map(|(id, m)| mount_to_wire(id, &m.spec))
                .collect(),
            workers: self.fleet.workers().report(Instant::now()),
            inodes,
            journal_index: self.proposer.raft().status().applied,
            problems,
        }))
    }

    async fn mount(
        &self,
        request: Request<v1::MountRequest>,
    ) -> std::result::Result<Response<v1::MountResponse>, Status> {
        self.metrics.call("Mount");
        let mount = request.into_inner().mount.unwrap_or_default();
        let (_, spec) = mount_from_wire(mount)?;
        let id = self.mounts.mount(&self.proposer, spec).await?.0;
        Ok(Response::new(v1::MountResponse { id }))
    }

    async fn unmount(
        &self,
        request: Request<v1::UnmountRequest>,
    ) -> std::result::Result<Response<v1::UnmountResponse>, Status> {
        self.metrics.call("Unmount");
        let path = request.into_inner().path;
        self.mounts.unmount(&self.proposer, &path).await?;
        Ok(Response::new(v1::UnmountResponse {}))
    }
}

/// A reason for people.
fn explain(reason: ProblemReason) -> &'static str {
    match reason {
        ProblemReason::EmptySegment => "the key has an empty name ('//' or a leading '/')",
        ProblemReason::DotSegment => "a name in the key is '.' or '..'",
        ProblemReason::NameTooLong => "a name in the key is longer than 255 bytes",
        ProblemReason::BadByte => "a name in the key holds a NUL byte",
        ProblemReason::HiddenByDirectory => "a directory of the same name is shown instead",
        ProblemReason::FolderMarkerWithContent => {
            "the key ends in '/' and has content: it is shown as a directory only"
        }
        ProblemReason::HiddenByMount => "a mount point of the same name is shown instead",
    }
}
