//! The same call to every live worker.

use crate::{
    error::{Error, Result},
    workers::Workers,
};
use forebay_client::{Topology, WorkerInfo, WorkerPool};
use forebay_proto::{
    convert::code_of,
    v1::{self, worker_data_client::WorkerDataClient},
};
use forebay_types::{Code, FileId};
use futures::future::try_join_all;
use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Response, Status, transport::Channel};

/// Files of one request.
pub(crate) const FILES: usize = 4_096;

/// How long a worker may take to answer for [`FILES`] files.
const LIMIT: Duration = Duration::from_secs(30);

/// Clients of workers.
pub(crate) type Client = WorkerDataClient<Channel>;

/// The workers that live, and connections to them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet {
    workers: Arc<Workers>,
    pool: Arc<WorkerPool>,
}

impl Fleet {
    pub(crate) fn new(workers: Arc<Workers>) -> Fleet {
        Fleet {
            workers,
            pool: Arc::new(WorkerPool::new()),
        }
    }

    /// What is known of the workers.
    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The live workers.
    pub(crate) fn topology(&self) -> Topology {
        self.workers.topology(Instant::now())
    }

    /// A connection to a worker.
    pub(crate) fn client(&self, worker: &WorkerInfo) -> Client {
        self.pool.get(&worker.address)
    }

    /// Asks every live worker about `files`; answers in the order of worker ids.
    pub(crate) async fn ask_all<T, F>(
        &self,
        what: &str,
        files: &[FileId],
        ask: impl Fn(Client, v1::FilesRequest) -> F,
    ) -> Result<Vec<(WorkerInfo, T)>>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let workers = self.workers.live(Instant::now());
        try_join_all(workers.into_iter().map(async |worker| {
            let request = v1::FilesRequest {
                files: files.iter().copied().map(Into::into).collect(),
            };
            let answer = self
                .ask(what, &worker, ask(self.client(&worker), request))
                .await?;
            Ok((worker, answer))
        }))
        .await
    }

    /// Waits for one worker's answer, within limits.
    pub(crate) async fn ask<T>(
        &self,
        what: &str,
        worker: &WorkerInfo,
        answer: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        let at = &worker.address;
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::new(
                code_of(&status),
                format!("{what} at worker {at}: {}", status.message()),
            )),
            Err(_) => {
                let text = format!("{what} at worker {at}: no answer in {} s", LIMIT.as_secs());
                Err(Error::new(Code::Timeout, text))
            }
        }
    }
}
