//! What a master says to others before it has a journal: that it has none.

use forebay_proto::v1::{
    HelloRequest, HelloResponse, RaftMessages, RaftMessagesResponse, SnapshotChunkRequest,
    SnapshotChunkResponse, raft_server,
};
use forebay_types::Code;
use tonic::{Request, Response, Status, Streaming};

/// Of a master that does not know yet how it starts.
pub(crate) struct HelloService {
    master: u64,
}

impl HelloService {
    /// Of master `master`, whose directory is empty.
    pub(crate) fn empty(master: u64) -> HelloService {
        HelloService { master }
    }
}

#[tonic::async_trait]
impl raft_server::Raft for HelloService {
    async fn hello(
        &self,
        _request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            master: self.master,
            node: 0,
            cluster: String::new(),
        }))
    }

    async fn messages(
        &self,
        _request: Request<Streaming<RaftMessages>>,
    ) -> Result<Response<RaftMessagesResponse>, Status> {
        Err(too_early())
    }

    async fn snapshot_chunk(
        &self,
        _request: Request<SnapshotChunkRequest>,
    ) -> Result<Response<SnapshotChunkResponse>, Status> {
        Err(too_early())
    }
}

fn too_early() -> Status {
    forebay_proto::convert::status(Code::Unavailable, "this master is starting")
}
