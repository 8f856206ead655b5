//! `/metrics`, `/healthz`, `/readyz`.

use crate::{Shutdown, config::ConfigError};
use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use std::{future::IntoFuture, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// Answers why the process is not ready to serve; `None` when it is.
pub type Readiness = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What Prometheus expects for the text that prometheus-client writes.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long shutdown waits for requests that are being answered.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves until shutdown; returns the address bound (port 0 picks one).
pub async fn serve(
    listen: SocketAddr,
    registry: Arc<Registry>,
    readiness: Readiness,
    shutdown: &Shutdown,
) -> Result<SocketAddr, ConfigError> {
    let refuse = |error: io::Error| ConfigError(cannot_listen(listen, &error));
    let listener = TcpListener::bind(listen).await.map_err(refuse)?;
    let bound = listener.local_addr().map_err(refuse)?;
    let router = Router::new()
        .route("/metrics", get(async move || metrics(&registry)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&readiness)));
    shutdown.spawn_graceful(|token| async move {
        let stopping = token.clone();
        let server = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stopping.cancelled().await })
            .into_future();
        let too_late = async {
            token.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            _ = server => {}
            () = too_late => {}
        }
    });
    Ok(bound)
}

fn cannot_listen(listen: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "cannot serve metrics on {listen}: the port is in use: stop its owner, or choose \
             another port (0 picks a free one)"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "cannot serve metrics on {listen}: no interface has this address: use one of this \
             machine, or 0.0.0.0"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "cannot serve metrics on {listen}: not permitted: choose a port of 1024 or above"
        ),
        _ => format!("cannot serve metrics on {listen}: {error}"),
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn ready(readiness: &Readiness) -> Response {
    match readiness() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use prometheus_client::metrics::counter::Counter;
    use std::net::Ipv4Addr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_metrics_health_and_readiness() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("reads", "Reads.", counter.clone());
        counter.inc_by(3);
        let reason = Arc::new(Mutex::new(Some("no leader yet".to_owned())));
        let readiness = {
            let reason = Arc::clone(&reason);
            Arc::new(move || reason.lock().clone())
        };
        let shutdown = Shutdown::new();
        let address = serve(ANY, Arc::new(registry), readiness, &shutdown)
            .await
            .unwrap();

        let answer = fetch(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.contains(METRICS_TYPE) && answer.contains("\nreads_total 3\n"),
            "{answer}"
        );
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("no leader yet"),
            "{answer}"
        );
        reason.lock().take();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        let second = serve(address, Arc::default(), Arc::new(|| None), &shutdown).await;
        assert_eq!(
            second.unwrap_err().0,
            format!(
                "cannot serve metrics on {address}: the port is in use: stop its owner, or \
                 choose another port (0 picks a free one)"
            )
        );
        // A client that says nothing does not hold the process up.
        let _silent = TcpStream::connect(address).await.unwrap();
        shutdown.finish().await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
