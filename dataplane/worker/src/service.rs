//! The gRPC service `WorkerData`: conversions, and calls of the engine.

use crate::{data::Run, engine::Engine, pace::Pace, source::Reach};
use forebay_client::Error;
use forebay_proto::{
    convert::status,
    v1::{
        FilesRequest, FilesResponse, LoadFile, LoadFileResult, ReadRequest, ReadResponse,
        StatResponse, stat_response, worker_data_server::WorkerData,
    },
};
use forebay_types::{Code, FileId, FileRef};
use futures::{Stream, StreamExt};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status, Streaming};

/// Files of one `Load` in flight.
const MOST_LOADS: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    engine: Arc<Engine>,
}

impl Service {
    /// Serves the files of `engine`.
    pub fn new(engine: Arc<Engine>) -> Service {
        Service { engine }
    }

    /// Does `each` for every file, where it may block; returns what it added up to.
    async fn for_each(
        &self,
        files: &[FileId],
        each: impl Fn(&Engine, FileId) -> Result<Option<u64>, forebay_cache::Error> + Send + 'static,
    ) -> Result<Response<FilesResponse>, Status> {
        let (engine, files) = (self.engine.clone(), files.to_vec());
        let all = move || {
            let mut sum = FilesResponse::default();
            for id in files {
                if let Some(bytes) = each(&engine, id)? {
                    sum.files += 1;
                    sum.bytes += bytes;
                }
            }
            Ok(Response::new(sum))
        };
        let done: Result<_, forebay_cache::Error> = self.engine.disk.blocking(all).await;
        done.map_err(|error| status(error.code(), forebay_types::error::chain(&error)))
    }

    async fn pin(
        &self,
        request: Request<FilesRequest>,
        pinned: bool,
    ) -> Result<Response<FilesResponse>, Status> {
        self.for_each(&files_of(request), move |engine, id| {
            let Some(file) = engine.store.get(id) else {
                return Ok(None);
            };
            engine.store.set_pinned(id, pinned)?;
            Ok(Some(file.cached_bytes()))
        })
        .await
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerData for Service {
    type ReadStream = Answers<ReadResponse>;
    type LoadStream = Answers<LoadFileResult>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let file = file_of(request.file)?;
        let range = request.offset..request.offset.saturating_add(request.length);
        let reach = if request.from_peer {
            Reach::Origin
        } else {
            Reach::Peers
        };
        let run = Run::new(self.engine.clone(), file, range, reach).await;
        let pieces = run.pieces().map(|piece| match piece {
            Ok(data) => Ok(ReadResponse { data }),
            Err(Error { code, message, .. }) => Err(status(code, message)),
        });
        Ok(Response::new(pieces.boxed()))
    }

    async fn load(
        &self,
        request: Request<Streaming<LoadFile>>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let (engine, pace) = (self.engine.clone(), Arc::new(Pace::default()));
        let results = request
            .into_inner()
            .map(move |file| load(engine.clone(), pace.clone(), file))
            .buffer_unordered(MOST_LOADS);
        Ok(Response::new(results.boxed()))
    }

    async fn free(
        &self,
        request: Request<FilesRequest>,
    ) -> Result<Response<FilesResponse>, Status> {
        let files = files_of(request);
        let freed = self
            .for_each(&files, |engine, id| {
                let known = engine.store.get(id).is_some();
                let bytes = engine.store.free(id);
                Ok(known.then_some(bytes))
            })
            .await;
        // Those that readers hold go when the last lease does.
        self.engine.recall(&files);
        freed
    }

    async fn pin(&self, request: Request<FilesRequest>) -> Result<Response<FilesResponse>, Status> {
        self.pin(request, true).await
    }

    async fn unpin(
        &self,
        request: Request<FilesRequest>,
    ) -> Result<Response<FilesResponse>, Status> {
        self.pin(request, false).await
    }

    async fn stat(&self, request: Request<FilesRequest>) -> Result<Response<StatResponse>, Status> {
        let known = files_of(request)
            .into_iter()
            .filter_map(|id| self.engine.store.get(id));
        let files = known.map(|file| stat_response::File {
            file: Some(file.id().into()),
            medium: file.medium().to_string(),
            cached_bytes: file.cached_bytes(),
            pinned: file.is_pinned(),
        });
        Ok(Response::new(StatResponse {
            files: files.collect(),
        }))
    }
}

async fn load(
    engine: Arc<Engine>,
    pace: Arc<Pace>,
    file: Result<LoadFile, Status>,
) -> Result<LoadFileResult, Status> {
    let LoadFile { file, bandwidth } = file?;
    let file = file_of(file)?;
    let ino = file.id.ino.0;
    Ok(match engine.load(file, &pace, bandwidth).await {
        Ok(loaded) => LoadFileResult {
            ino,
            bytes: loaded.bytes,
            cached_before: loaded.cached_before,
            ..LoadFileResult::default()
        },
        Err(Error { code, message, .. }) => LoadFileResult {
            ino,
            code: u32::from(code as u8),
            reason: message,
            ..LoadFileResult::default()
        },
    })
}

fn file_of(file: Option<forebay_proto::v1::FileRef>) -> Result<FileRef, Status> {
    file.ok_or_else(|| status(Code::InvalidArgument, "request lacks the file"))?
        .try_into()
}

fn files_of(request: Request<FilesRequest>) -> Vec<FileId> {
    request
        .into_inner()
        .files
        .into_iter()
        .map(FileId::from)
        .collect()
}
