//! A worker that follows a script.

use crate::fixture::Cluster;
use forebay_proto::v1::{
    self,
    worker_data_server::{WorkerData, WorkerDataServer},
};
use forebay_types::{Address, Code};
use futures::{StreamExt, stream::BoxStream};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// What it does and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// Keys that it cannot load, and why.
    pub(crate) failing: Vec<(&'static str, Code)>,
    /// Breaks every stream off after so many files.
    pub(crate) dies_after: Option<usize>,
    /// Takes files and never answers.
    pub(crate) silent: bool,
    /// Answers when this is closed.
    pub(crate) gate: Option<Arc<Semaphore>>,
    pub(crate) taken: usize,
    pub(crate) loaded: Vec<String>,
    /// The files of these, with their sizes.
    pub(crate) there: BTreeMap<u64, u64>,
    /// Says that it has nothing of this key.
    pub(crate) forgets: Option<&'static str>,
    pub(crate) freed: BTreeSet<u64>,
    pub(crate) pinned: BTreeSet<u64>,
    /// The caller has given a stream up.
    pub(crate) abandoned: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Worker {
    pub(crate) script: Arc<Mutex<Script>>,
}

/// A worker that serves and reports, until it is dropped.
pub(crate) struct Running {
    pub(crate) script: Arc<Mutex<Script>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Running {
    /// The keys loaded so far.
    pub(crate) fn loaded(&self) -> Vec<String> {
        self.script.lock().unwrap().loaded.clone()
    }

    /// Serves on, but reports no more.
    pub(crate) fn stop_reporting(&self) {
        self.tasks[1].abort();
    }
}

impl Worker {
    pub(crate) async fn start(cluster: &Cluster, id: u64, script: Script) -> Running {
        let worker = Worker {
            script: Arc::new(Mutex::new(script)),
        };
        let path = cluster.socket(&format!("worker{id}.sock"));
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let service = WorkerDataServer::new(worker.clone());
        let serve = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let serve = tokio::spawn(async move { serve.await.unwrap() });
        let address = Address::Unix(path).to_string();
        let known = v1::Worker {
            id,
            address,
            capacity: 1 << 30,
        };
        let request = v1::RegisterRequest {
            worker: Some(known),
            ..v1::RegisterRequest::default()
        };
        let mut registry = cluster.registry();
        registry.register(request).await.unwrap();
        let report = tokio::spawn(async move {
            loop {
                let beat = v1::HeartbeatRequest {
                    worker: id,
                    ..v1::HeartbeatRequest::default()
                };
                if registry.heartbeat(beat).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Running {
            script: worker.script,
            tasks: [serve, report],
        }
    }

    fn answer(&self, file: &v1::FileRef) -> Option<v1::LoadFileResult> {
        let mut script = self.script.lock().unwrap();
        script.taken += 1;
        if script.silent {
            return None;
        }
        let key = String::from_utf8_lossy(&file.key).into_owned();
        let bytes = file.fingerprint.as_ref().map_or(0, |f| f.size);
        let mut result = v1::LoadFileResult {
            ino: file.ino,
            bytes,
            ..Default::default()
        };
        if let Some((_, code)) = script.failing.iter().find(|(k, _)| *k == key) {
            result.code = u32::from(*code as u8);
            result.reason = format!("scripted: {code}");
        } else {
            result.cached_before = script.loaded.contains(&key);
            if script.forgets != Some(key.as_str()) {
                script.there.insert(file.ino, bytes);
            }
            script.loaded.push(key);
        }
        Some(result)
    }
}

#[tonic::async_trait]
impl WorkerData for Worker {
    type ReadStream = BoxStream<'static, Result<v1::ReadResponse, Status>>;
    type LoadStream = BoxStream<'static, Result<v1::LoadFileResult, Status>>;

    async fn read(
        &self,
        _request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn load(
        &self,
        request: Request<Streaming<v1::LoadFile>>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let mut files = request.into_inner();
        let (out, answers) = mpsc::channel(16);
        let worker = self.clone();
        tokio::spawn(async move {
            let mut taken = 0;
            let gate = worker.script.lock().unwrap().gate.clone();
            if let Some(gate) = gate {
                assert!(gate.acquire().await.is_err(), "it has no permits");
            }
            while let Ok(Some(request)) = files.message().await {
                taken += 1;
                if worker
                    .script
                    .lock()
                    .unwrap()
                    .dies_after
                    .is_some_and(|after| taken > after)
                {
                    let _ = out.send(Err(Status::unavailable("scripted death"))).await;
                    return;
                }
                let file = request.file.unwrap();
                if let Some(answer) = worker.answer(&file)
                    && out.send(Ok(answer)).await.is_err()
                {
                    break;
                }
            }
            worker.script.lock().unwrap().abandoned = true;
        });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn free(
        &self,
        request: Request<v1::FilesRequest>,
    ) -> Result<Response<v1::FilesResponse>, Status> {
        let files = request.into_inner().files;
        let count = files.len() as u64;
        self.script
            .lock()
            .unwrap()
            .freed
            .extend(files.iter().map(|f| f.ino));
        Ok(Response::new(v1::FilesResponse {
            files: count,
            bytes: 10 * count,
        }))
    }

    async fn pin(
        &self,
        request: Request<v1::FilesRequest>,
    ) -> Result<Response<v1::FilesResponse>, Status> {
        let files = request.into_inner().files;
        self.script
            .lock()
            .unwrap()
            .pinned
            .extend(files.iter().map(|f| f.ino));
        Ok(Response::new(v1::FilesResponse::default()))
    }

    async fn unpin(
        &self,
        request: Request<v1::FilesRequest>,
    ) -> Result<Response<v1::FilesResponse>, Status> {
        let files = request.into_inner().files;
        self.script
            .lock()
            .unwrap()
            .pinned
            .retain(|ino| !files.iter().any(|f| f.ino == *ino));
        Ok(Response::new(v1::FilesResponse::default()))
    }

    async fn stat(
        &self,
        request: Request<v1::FilesRequest>,
    ) -> Result<Response<v1::StatResponse>, Status> {
        let script = self.script.lock().unwrap();
        let file = |id: v1::FileId| v1::stat_response::File {
            file: Some(id),
            medium: "SSD".into(),
            cached_bytes: script.there.get(&id.ino).copied().unwrap_or(7),
            pinned: false,
        };
        let files = request.into_inner().files.into_iter().map(file).collect();
        Ok(Response::new(v1::StatResponse { files }))
    }
}
