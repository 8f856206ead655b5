//! The namespace over gRPC.

use super::{Answer, calls::Calls, listing::Listing};
use crate::{
    error::Error, leadership::Leadership, metrics::Metrics, proposer::Proposer, watch::Hub,
};
use forebay_meta::{Change, Reply};
use forebay_proto::{
    convert::{status, wants_any_voter},
    v1::{self, metadata_server::Metadata},
};
use forebay_service::Shutdown;
use forebay_types::{Code, FileRef, Ino, Name};
use futures::{StreamExt, future, stream};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming};

/// Answers what FUSE hosts and the command line ask.
pub(crate) struct MetadataService {
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl Metadata for MetadataService {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        self.metrics.call("OpenSession");
        let client = request.into_inner().client;
        let reign = self.leadership.reign().await?;
        match self
            .proposer
            .propose(Change::OpenSession { client })
            .await?
        {
            Reply::Session(session) => Ok(Response::new(v1::OpenSessionResponse {
                cluster: reign.cluster.clone(),
                session: session.0,
            })),
            _ => Err(status(
                Code::Internal,
                "the journal answered without a session",
            )),
        }
    }

    type CallsStream = Answer<v1::AnswerBatch>;

    async fn calls(
        &self,
        request: Request<Streaming<v1::CallBatch>>,
    ) -> Result<Response<Self::CallsStream>, Status> {
        self.metrics.call("Calls");
        // The stream is of this reign: what comes after it, the next leader answers.
        let source = self.leadership.source(wants_any_voter(&request)).await?;
        let shutdown = source.shutdown().clone();
        let calls = Calls::new(
            request.into_inner(),
            source,
            self.proposer.clone(),
            self.metrics.clone(),
        );
        let answers = calls.take_until(async move { shutdown.begun().await });
        Ok(Response::new(answers.boxed()))
    }

    type ReadDirStream = Answer<v1::ReadDirResponse>;

    async fn read_dir(
        &self,
        request: Request<v1::ReadDirRequest>,
    ) -> Result<Response<Self::ReadDirStream>, Status> {
        self.metrics.call("ReadDir");
        let source = self.leadership.source(wants_any_voter(&request)).await?;
        let tree = source.ready().await?;
        let request = request.into_inner();
        let after = Some(request.after).filter(|after| !after.is_empty());
        let after = after.map(Name::new).transpose().map_err(bad_name)?;
        let dir = Ino(request.ino);
        let limit = Some(request.limit).filter(|limit| *limit > 0);
        let listing = Listing::open(&tree, dir, after, limit).await?;
        let batches = stream::try_unfold(listing, Listing::next);
        let batches = batches.take_until({
            let shutdown = self.shutdown.clone();
            async move { shutdown.begun().await }
        });
        Ok(Response::new(batches.boxed()))
    }

    type WatchStream = Answer<v1::Invalidation>;

    async fn watch(
        &self,
        _request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.metrics.call("Watch");
        let leadership = self.leadership.clone();
        let reign = leadership.reading().await?;
        let changes = self.hub.subscribe(reign.shutdown.clone());
        // Leases hold while messages come. A master that is cut off hears of no changes, and must
        // not lend its silence any credit.
        let proven = changes.then(move |message| {
            let leadership = leadership.clone();
            async move {
                if message == v1::Invalidation::default() {
                    leadership.reading().await?;
                }
                Ok(message)
            }
        });
        // After the first failure nothing more.
        let proven = proven.scan(true, |sound, message: Result<_, Status>| {
            let go_on = std::mem::replace(sound, message.is_ok());
            future::ready(go_on.then_some(message))
        });
        Ok(Response::new(proven.boxed()))
    }

    async fn report_stale(
        &self,
        request: Request<v1::FileRef>,
    ) -> Result<Response<v1::ReportStaleResponse>, Status> {
        self.metrics.call("ReportStale");
        let file = FileRef::try_from(request.into_inner())?;
        let reign = self.leadership.reading().await?;
        reign.namespace.sync().compare(file.id.ino).await?;
        Ok(Response::new(v1::ReportStaleResponse {}))
    }
}

pub(super) fn bad_name(error: forebay_types::NameError) -> Error {
    Error::new(Code::InvalidArgument, format!("bad name: {error}"))
}

pub(super) fn millis(lease: Duration) -> u64 {
    lease.as_millis() as u64
}
