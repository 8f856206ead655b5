//! What people and the operator ask for, over gRPC.

use super::{Answer, backup::Backups};
use crate::{
    error::{Error, Result, blocking},
    job::{
        dispatch::Copies, free::free, load::Load, location::location, pin, refresh::refresh,
        walk::Filter,
    },
    leadership::Leadership,
    membership,
    metrics::Metrics,
    node_id,
    proposer::Proposer,
    reign::Reign,
};
use forebay_consensus::Member;
use forebay_meta::{ProblemReason, WarmupSpec};
use forebay_proto::{
    convert::{mount_from_wire, mount_to_wire, refusal},
    v1::{self, admin_server::Admin, problems_response::Problem},
};
use forebay_types::{Address, Code};
use futures::StreamExt;
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Rows of problems that are answered unless asked otherwise.
const PROBLEMS: usize = 1_000;

/// Most rows of problems in one answer.
const PROBLEMS_MAX: usize = 10_000;

/// Starts jobs and answers questions about the cluster.
pub(crate) struct AdminService {
    pub(crate) backups: Backups,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) metrics: Arc<Metrics>,
}

impl AdminService {
    /// For calls that reach all workers: a new leader has to hear of them first.
    async fn steering(&self) -> Result<Arc<Reign>> {
        let reign = self.leadership.reading().await?;
        reign.settled().await;
        Ok(reign)
    }

    async fn set_pin(&self, path: &[u8], pinned: bool) -> Result<v1::PinResponse> {
        let reign = self.steering().await?;
        let start = reign.namespace.resolve(path).await?;
        pin::set(
            &reign.namespace,
            &reign.fleet,
            &self.proposer,
            start,
            pinned,
        )
        .await
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
        let filter = Filter::new(&request.include)?;
        let reign = self.steering().await?;
        let load = Load {
            filter,
            start: reign.namespace.resolve(&request.path).await?,
            metadata_only: request.metadata_only,
            copies: Copies::Some(1),
            pin: false,
            bandwidth: 0,
            namespace: reign.namespace.clone(),
            fleet: reign.fleet.clone(),
            metrics: self.metrics.clone(),
        };
        let (listener, progress) = mpsc::channel(2);
        reign.shutdown.spawn(load.run(listener));
        Ok(Response::new(ReceiverStream::new(progress).boxed()))
    }

    async fn free(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::FreeResponse>, Status> {
        self.metrics.call("Free");
        let reign = self.steering().await?;
        let start = reign.namespace.resolve(&request.into_inner().path).await?;
        let freed = free(&reign.namespace, &reign.fleet, start).await?;
        Ok(Response::new(freed))
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
        let reign = self.leadership.reading().await?;
        let start = reign.namespace.resolve(&request.path).await?;
        let done = refresh(&reign.namespace, start, request.recursive).await?;
        Ok(Response::new(done))
    }

    async fn location(
        &self,
        request: Request<v1::PathRequest>,
    ) -> std::result::Result<Response<v1::LocationResponse>, Status> {
        self.metrics.call("Location");
        let reign = self.steering().await?;
        let start = reign.namespace.resolve(&request.into_inner().path).await?;
        let found = location(&reign.namespace, &reign.fleet, &start).await?;
        Ok(Response::new(found))
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
        let reign = self.leadership.reading().await?;
        let meta = reign.namespace.meta().clone();
        let (rows, total) = blocking(move || meta.problems(limit))
            .await?
            .map_err(Error::from)?;
        let problems = rows
            .into_iter()
            .map(|(mount, problem)| Problem {
                mount: reign.mounts.path(mount).unwrap_or_default(),
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
        let reign = self.leadership.reading().await?;
        let meta = reign.namespace.meta().clone();
        let counts = blocking(move || Ok((meta.inode_count()?, meta.problems(0)?.1))).await?;
        let (inodes, problems) = counts.map_err(|e: forebay_meta::Error| Error::from(e))?;
        let (now, rows) = (Instant::now(), reign.mounts.rows());
        let mut told = reign.workers().usage(now);
        let meta = reign.namespace.meta();
        let usage = rows.iter().map(|(id, _)| {
            let listed = meta.usage(*id).unwrap_or_default();
            told.remove(id).unwrap_or_default().with(*id, listed)
        });
        let usage = usage.collect();
        let mounts = rows.iter().map(|(id, m)| mount_to_wire(*id, &m.spec));
        Ok(Response::new(v1::ReportResponse {
            cluster: reign.cluster.clone(),
            mounts: mounts.collect(),
            workers: reign.workers().report(now),
            inodes,
            journal_index: self.proposer.raft().status().applied,
            problems,
            usage,
        }))
    }

    async fn quorum(
        &self,
        request: Request<v1::QuorumRequest>,
    ) -> std::result::Result<Response<v1::QuorumResponse>, Status> {
        self.metrics.call("Quorum");
        if request.into_inner().of_leader {
            self.leadership.reign().await?;
        }
        let raft = self.proposer.raft();
        let status = raft.status();
        let member = |member: &Member| v1::quorum_response::Member {
            id: node_id::master_of(member.id),
            node: member.id,
            address: (self.leadership.address(member)).map_or_else(String::new, |a| a.to_string()),
            voter: member.voter,
        };
        Ok(Response::new(v1::QuorumResponse {
            id: node_id::master_of(self.leadership.node()),
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            members: raft.members().iter().map(member).collect(),
        }))
    }

    type BackupStream = Answer<v1::BackupResponse>;

    async fn backup(
        &self,
        request: Request<Streaming<v1::BackupRequest>>,
    ) -> std::result::Result<Response<Self::BackupStream>, Status> {
        self.metrics.call("Backup");
        let reign = self.leadership.reading().await?;
        let cluster = reign.cluster.clone();
        let asked = request.into_inner();
        let answers = self.backups.serve(cluster, asked, &reign.shutdown)?;
        Ok(Response::new(answers.boxed()))
    }

    async fn add_master(
        &self,
        request: Request<v1::AddMasterRequest>,
    ) -> std::result::Result<Response<v1::AddMasterResponse>, Status> {
        self.metrics.call("AddMaster");
        let reign = self.leadership.reign().await?;
        let address = request.into_inner().address;
        let address =
            (address.parse::<Address>()).map_err(|why| Error::new(Code::InvalidArgument, why))?;
        let node = membership::add(self.proposer.raft(), &reign.cluster, &address).await?;
        Ok(Response::new(v1::AddMasterResponse { node }))
    }

    async fn remove_master(
        &self,
        request: Request<v1::RemoveMasterRequest>,
    ) -> std::result::Result<Response<v1::RemoveMasterResponse>, Status> {
        self.metrics.call("RemoveMaster");
        self.leadership.reign().await?;
        membership::remove(self.proposer.raft(), request.into_inner().id).await?;
        Ok(Response::new(v1::RemoveMasterResponse {}))
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> std::result::Result<Response<v1::TransferResponse>, Status> {
        self.metrics.call("Transfer");
        self.leadership.reign().await?;
        membership::transfer(self.proposer.raft(), request.into_inner().id).await?;
        Ok(Response::new(v1::TransferResponse {}))
    }

    async fn mount(
        &self,
        request: Request<v1::MountRequest>,
    ) -> std::result::Result<Response<v1::MountResponse>, Status> {
        self.metrics.call("Mount");
        let mount = request.into_inner().mount.unwrap_or_default();
        let (_, spec) = mount_from_wire(mount)?;
        let reign = self.leadership.reign().await?;
        let id = reign.mounts.mount(&self.proposer, spec).await?.0;
        Ok(Response::new(v1::MountResponse { id }))
    }

    async fn unmount(
        &self,
        request: Request<v1::UnmountRequest>,
    ) -> std::result::Result<Response<v1::UnmountResponse>, Status> {
        self.metrics.call("Unmount");
        let path = request.into_inner().path;
        self.leadership
            .reign()
            .await?
            .mounts
            .unmount(&self.proposer, &path)
            .await?;
        Ok(Response::new(v1::UnmountResponse {}))
    }

    async fn probe_mount(
        &self,
        request: Request<v1::ProbeMountRequest>,
    ) -> std::result::Result<Response<v1::ProbeMountResponse>, Status> {
        self.metrics.call("ProbeMount");
        let path = request.into_inner().path;
        let reign = self.leadership.reign().await?;
        let refused = reign.mounts.alive(&path).await?.err();
        let refusal = refused.map(|error| refusal(&Error::from(error).into()));
        Ok(Response::new(v1::ProbeMountResponse { refusal }))
    }

    async fn start_warmup(
        &self,
        request: Request<v1::StartWarmupRequest>,
    ) -> std::result::Result<Response<v1::StartWarmupResponse>, Status> {
        self.metrics.call("StartWarmup");
        let v1::StartWarmupRequest { name, run, spec } = request.into_inner();
        let spec = spec.unwrap_or_default();
        let spec = WarmupSpec {
            path: spec.path,
            include: spec.include,
            newer_than_s: spec.newer_than_s,
            copies: spec.copies,
            pin: spec.pin,
            bandwidth: spec.bandwidth,
        };
        let reign = self.leadership.reign().await?;
        reign.warmups.start(name, run, spec).await?;
        Ok(Response::new(v1::StartWarmupResponse {}))
    }

    async fn remove_warmup(
        &self,
        request: Request<v1::RemoveWarmupRequest>,
    ) -> std::result::Result<Response<v1::RemoveWarmupResponse>, Status> {
        self.metrics.call("RemoveWarmup");
        let reign = self.leadership.reign().await?;
        reign.warmups.remove(request.into_inner().name).await?;
        Ok(Response::new(v1::RemoveWarmupResponse {}))
    }

    async fn warmups(
        &self,
        _request: Request<v1::WarmupsRequest>,
    ) -> std::result::Result<Response<v1::WarmupsResponse>, Status> {
        self.metrics.call("Warmups");
        let reign = self.leadership.reading().await?;
        let warmups = reign.warmups.list()?;
        Ok(Response::new(v1::WarmupsResponse { warmups }))
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
