//! Takes in what the other masters send for raft.

use crate::{
    error::{Error, Result, blocking},
    leadership::Leadership,
    node_id,
    proposer::Proposer,
};
use forebay_consensus::ChunkError;
use forebay_proto::v1::{
    HelloRequest, HelloResponse, RaftMessages, RaftMessagesResponse, RaftPeers,
    SnapshotChunkRequest, SnapshotChunkResponse, raft_server,
};
use forebay_service::{Shutdown, data_dir::DataDir};
use forebay_types::Code;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tonic::{Request, Response, Status, Streaming};

/// How long messages are taken in after shutdown began: commands in flight need them.
const LAST_MESSAGES: Duration = Duration::from_millis(500);

/// Hands messages to raft.
pub(crate) struct RaftService {
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn hello(
        &self,
        _request: Request<HelloRequest>,
    ) -> std::result::Result<Response<HelloResponse>, Status> {
        let node = self.leadership.node();
        Ok(Response::new(HelloResponse {
            master: node_id::master_of(node),
            node,
            cluster: self.data_dir.cluster().unwrap_or_default(),
        }))
    }

    async fn messages(
        &self,
        request: Request<Streaming<RaftMessages>>,
    ) -> std::result::Result<Response<RaftMessagesResponse>, Status> {
        let mut stream = request.into_inner();
        let Some(hello) = stream.message().await? else {
            return Ok(Response::new(RaftMessagesResponse {}));
        };
        self.admit(&hello.peers.unwrap_or_default())?;
        let ending = async {
            self.shutdown.begun().await;
            sleep(LAST_MESSAGES).await;
        };
        tokio::pin!(ending);
        loop {
            let batch = tokio::select! {
                batch = stream.message() => batch?,
                () = &mut ending => None,
            };
            let Some(batch) = batch else {
                return Ok(Response::new(RaftMessagesResponse {}));
            };
            for message in batch.messages {
                self.proposer.raft().receive(message);
            }
        }
    }

    async fn snapshot_chunk(
        &self,
        request: Request<SnapshotChunkRequest>,
    ) -> std::result::Result<Response<SnapshotChunkResponse>, Status> {
        let asked = request.into_inner();
        self.admit(&asked.peers.unwrap_or_default())?;
        let raft = self.proposer.raft().clone();
        let data = blocking(move || {
            raft.snapshot_chunk(&asked.snapshot, &asked.file, asked.offset, asked.length)
        });
        let data = data.await?.map_err(|error| match error {
            ChunkError::Gone => Error::new(Code::NotFound, error.to_string()),
            ChunkError::Failed(_) => Error::new(Code::Internal, error.to_string()),
        })?;
        Ok(Response::new(SnapshotChunkResponse { data }))
    }
}

impl RaftService {
    /// Refuses masters of another cluster, and those that take this one for another.
    fn admit(&self, peers: &RaftPeers) -> Result<()> {
        let refuse = |text| Err(Error::new(Code::InvalidArgument, text));
        let RaftPeers {
            from,
            to,
            cluster,
            address,
        } = peers;
        let id = self.leadership.node();
        if *from == id {
            return refuse(format!(
                "master {from} sent to itself: correct the addresses in its peers"
            ));
        }
        if *to != id {
            return refuse(format!(
                "master {from} took this one, {id}, for master {to}: correct the addresses in its \
                 peers"
            ));
        }
        match self.data_dir.cluster() {
            Some(own) if !cluster.is_empty() && *cluster != own => refuse(format!(
                "master {from} belongs to cluster {cluster} and this one to cluster {own}: correct \
                 the addresses in its peers, or give it an empty data directory"
            )),
            _ => {
                // A node that joins knows nobody's address yet, and has to answer.
                if self.proposer.raft().members().is_empty()
                    && let Ok(address) = address.parse()
                {
                    self.leadership.peers().learn(*from, &address);
                }
                Ok(())
            }
        }
    }
}
