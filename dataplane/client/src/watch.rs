//! The `Watch` stream: the heartbeat of all leases.

use crate::{
    Result,
    call::{backoff, error_of},
    master::Master,
    namespace::Inner,
};
use backon::BackoffBuilder;
use forebay_proto::v1;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

/// Masters send something on every `Watch` stream, if only a heartbeat, at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A stream silent for so many heartbeats is dead.
const MISSED: u32 = 3;

/// Opens the stream; the master tells of every change from then on.
pub(crate) async fn open(master: &Master, session: u64) -> Result<Streaming<v1::Invalidation>> {
    let ask = || {
        let mut metadata = master.metadata();
        async move { metadata.watch(v1::WatchRequest { session }).await }
    };
    Ok(master.retrying("watch", ask).await?.into_inner())
}

/// Follows the stream for ever, opening it again whenever it breaks.
pub(crate) async fn run(inner: Arc<Inner>, mut stream: Streaming<v1::Invalidation>) {
    loop {
        let why = follow(&inner, &mut stream).await;
        tracing::warn!(master = %inner.master.address(), why, "lost the master; metadata is not cached until it is back");
        inner.lost();
        stream = reopen(&inner).await;
        inner.cache.watched();
        tracing::info!(master = %inner.master.address(), "the master is back");
    }
}

async fn follow(inner: &Inner, stream: &mut Streaming<v1::Invalidation>) -> String {
    loop {
        match timeout(HEARTBEAT * MISSED, stream.message()).await {
            Ok(Ok(Some(message))) => inner.apply(message),
            Ok(Ok(None)) => return "the stream ended".to_owned(),
            Ok(Err(status)) => {
                return error_of(inner.master.address(), "watch", &status).message;
            }
            Err(_) => return "the stream fell silent".to_owned(),
        }
    }
}

async fn reopen(inner: &Inner) -> Streaming<v1::Invalidation> {
    let mut waits = backoff().without_max_times().build();
    loop {
        // Each attempt has its own bounded retries; the pause between attempts only grows to 1 s.
        let session = inner.session.id();
        match timeout(HEARTBEAT * MISSED, open(&inner.master, session)).await {
            Ok(Ok(stream)) => return stream,
            Ok(Err(error)) if !error.code.is_transient() => {
                tracing::debug!(%error, "the session is not known any more; opening another");
                if let Err(error) = inner.session.renew(session).await {
                    tracing::debug!(%error, "no session is to be had now");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "the master is still away"),
            Err(_) => tracing::debug!("the master does not answer"),
        }
        sleep(waits.next().unwrap_or(HEARTBEAT)).await;
    }
}
