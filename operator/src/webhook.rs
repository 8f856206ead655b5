//! Answers the API server that asks about pods: HTTPS on a port of its own, with a certificate that lives as long as the process.

use crate::{
    error::{Error, Result},
    metrics::Metrics,
    placements::Placements,
    plan::webhook::{ANSWER, Review, answer, claims, patch},
};
use bytes::Bytes;
use forebay_service::Shutdown;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Most connections. An API server keeps up to 25 when it has nothing to ask …
const CONNECTIONS_MOST: usize = 256;
/// … and here they end then.
const IDLE_MOST: Duration = Duration::from_secs(30);
/// Most questions at a time; others wait, as long as the API server does.
const QUESTIONS_MOST: usize = 16;
/// The longest question. A longer one is about a pod that etcd would hardly take.
const QUESTION_MOST: usize = 1 << 20;
/// How long to wait when no connection can be taken.
const PAUSE: Duration = Duration::from_secs(1);

/// What answers.
pub(crate) struct Webhook {
    placements: Arc<Placements>,
    metrics: Arc<Metrics>,
    room: Semaphore,
}

/// Where it answers.
pub(crate) struct Serving {
    /// The port is the real one.
    pub(crate) address: SocketAddr,
    /// What it is known by, in PEM.
    pub(crate) ca: String,
}

impl Webhook {
    pub(crate) fn new(placements: Arc<Placements>, metrics: Arc<Metrics>) -> Arc<Webhook> {
        Arc::new(Webhook {
            placements,
            metrics,
            room: Semaphore::new(QUESTIONS_MOST),
        })
    }

    /// Serves until shutdown, as a server of that name.
    pub(crate) async fn serve(
        self: &Arc<Webhook>,
        listen: SocketAddr,
        name: String,
        shutdown: &Shutdown,
    ) -> Result<Serving> {
        let (acceptor, ca) = certified(name).map_err(|error| Error::Webhook(error.to_string()))?;
        let failed = |error| Error::Webhook(format!("{listen}: {error}"));
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let webhook = Arc::clone(self);
        shutdown.spawn(webhook.accept(listener, acceptor, shutdown.clone()));
        Ok(Serving { address, ca })
    }

    async fn accept(
        self: Arc<Webhook>,
        listener: TcpListener,
        acceptor: TlsAcceptor,
        shutdown: Shutdown,
    ) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MOST));
        loop {
            let permit = Arc::clone(&connections).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (webhook, acceptor) = (Arc::clone(&self), acceptor.clone());
                    let stopping = shutdown.clone();
                    shutdown.spawn_graceful(|_| async move {
                        webhook.converse(stream, acceptor, stopping).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the webhook cannot take a connection");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// One connection, as long as it is used.
    async fn converse(
        self: Arc<Webhook>,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        stopping: Shutdown,
    ) {
        let stream = tokio::select! {
            shaken = timeout(ANSWER, acceptor.accept(stream)) => shaken,
            () = stopping.begun() => return,
        };
        let Ok(Ok(stream)) = stream else {
            return;
        };
        let service = service_fn(move |request| {
            let webhook = Arc::clone(&self);
            async move { Ok::<_, Infallible>(webhook.respond(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_MOST)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            // A caller that leaves is no news.
            _ = connection.as_mut() => return,
            () = stopping.begun() => connection.as_mut().graceful_shutdown(),
        }
        let _ = timeout(ANSWER, connection).await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answered = timeout(ANSWER, self.review(request.into_body())).await;
        let (status, body) = match answered {
            Ok(Ok(answer)) => (StatusCode::OK, answer),
            Ok(Err(why)) => (StatusCode::BAD_REQUEST, why),
            Err(late) => (StatusCode::REQUEST_TIMEOUT, late.to_string()),
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    async fn review(&self, body: Incoming) -> std::result::Result<String, String> {
        let _room = self.room.acquire().await;
        let body = Limited::new(body, QUESTION_MOST).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let review: Review = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let request = review.request;
        let nodes = (self.placements).of(&request.namespace, claims(&request.object));
        let patch = patch(&request.object, &nodes);
        self.metrics.reviewed(!patch.is_empty());
        Ok(answer(&request.uid, &patch).to_string())
    }
}

/// A key that never leaves the process, and its certificate.
fn certified(
    name: String,
) -> std::result::Result<(TlsAcceptor, String), Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed([name])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::from(key))?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}
