//! The server as a whole.

use super::{Backend, Fault, FaultHandle, Faults, Stats, service::Service, stats::Counters};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    S3ErrorCode, S3Result,
    auth::{S3Auth, SecretKey, SimpleAuth},
    service::S3ServiceBuilder,
};
use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
};
use tokio::sync::oneshot;

/// An access key and its secret.
#[derive(Clone)]
pub struct Credentials {
    /// The access key's id.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// The one pair of keys; an unknown one is refused in the words of S3.
struct Auth(SimpleAuth);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let known = self.0.lookup(access_key).cloned();
        known.ok_or_else(|| S3ErrorCode::InvalidAccessKeyId.into())
    }
}

/// An S3 server on a free port of 127.0.0.1, with threads of its own; gone when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    /// `http://127.0.0.1:PORT`; buckets are addressed by path.
    pub endpoint: String,
    address: SocketAddr,
    faults: Arc<Faults>,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    /// Serves `backend`. With credentials every request must be signed with them; without,
    /// every request must be unsigned.
    pub fn start(
        backend: Arc<dyn Backend>,
        credentials: Option<Credentials>,
    ) -> io::Result<S3Server> {
        S3Server::start_at((Ipv4Addr::LOCALHOST, 0).into(), backend, credentials)
    }

    /// The same at a given address: a server that comes back after an outage.
    pub fn start_at(
        address: SocketAddr,
        backend: Arc<dyn Backend>,
        credentials: Option<Credentials>,
    ) -> io::Result<S3Server> {
        let faults = Arc::new(Faults::default());
        let counters = Arc::new(Counters::default());
        let mut service = S3ServiceBuilder::new(Service {
            backend,
            faults: Arc::clone(&faults),
            counters: Arc::clone(&counters),
        });
        if let Some(Credentials {
            access_key,
            secret_key,
        }) = credentials
        {
            service.set_auth(Auth(SimpleAuth::from_single(access_key, secret_key)));
        }
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(1_024)?
        };
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("s3-server".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let accept = async {
                        loop {
                            let Ok((socket, _)) = listener.accept().await else {
                                continue;
                            };
                            let _ = socket.set_nodelay(true);
                            let service = service.clone();
                            tokio::spawn(async move {
                                // A client that hangs up is none of the server's business.
                                let _ = Builder::new(TokioExecutor::new())
                                    .http1_only()
                                    .serve_connection(TokioIo::new(socket), service)
                                    .await;
                            });
                        }
                    };
                    tokio::select! {
                        () = accept => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(S3Server {
            endpoint: format!("http://{address}"),
            address,
            faults,
            counters,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for so far.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// Puts a fault in force until the handle is dropped.
    #[must_use = "the fault is lifted when the handle is dropped"]
    pub fn inject(&self, fault: Fault) -> FaultHandle {
        self.faults.inject(fault)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
