//! The `Watch` stream: the heartbeat of all leases.

use crate::{
    call::{backoff, error_of, share},
    master::Master,
    namespace::Inner,
    pulse::Pulse,
};
use backon::BackoffBuilder;
use forebay_proto::v1;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

/// Masters send something on every `Watch` stream, if only a heartbeat, at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A stream silent for so many heartbeats is dead.
const MISSED: u32 = 3;
/// After so long a silence the master is asked for a sign of life.
const SUSPICIOUS: Duration = Duration::from_secs(6);
/// Those who lost the master together come back spread over so much time.
const SPREAD: Duration = Duration::from_secs(1);

/// The stream, and signs of life of the master that sends it.
pub(crate) type Watched = (Streaming<v1::Invalidation>, Pulse);

/// Opens the stream; the master tells of every change from then on.
pub(crate) async fn open(master: &Master, session: u64) -> crate::Result<Watched> {
    let ask = || {
        let (mut metadata, pulse) = (master.metadata(), master.pulse());
        async move {
            let stream = metadata.watch(v1::WatchRequest { session }).await?;
            Ok((stream.into_inner(), pulse))
        }
    };
    master.calmly("watch", ask).await
}

/// Follows the stream for ever, opening it again whenever it breaks.
pub(crate) async fn run(inner: Arc<Inner>, mut stream: Watched) {
    loop {
        let why = follow(&inner, &mut stream).await;
        tracing::warn!(master = %inner.master.address(), why, "lost the master; metadata is not cached until it is back");
        inner.lost();
        stream = reopen(&inner).await;
        inner.cache.watched();
        tracing::info!(master = %inner.master.address(), "the master is back");
    }
}

async fn follow(inner: &Inner, stream: &mut Watched) -> String {
    loop {
        match timeout(HEARTBEAT * MISSED, message(stream)).await {
            Ok(Some(Ok(Some(message)))) => inner.apply(message),
            Ok(Some(Ok(None))) => return "the stream ended".to_owned(),
            Ok(Some(Err(status))) => {
                return error_of(&inner.master.address(), "watch", &status).message;
            }
            Ok(None) => return "the master does not answer".to_owned(),
            Err(_) => return "the stream fell silent".to_owned(),
        }
    }
}

/// The next message; none if the master gives no sign of life.
async fn message(
    (stream, pulse): &mut Watched,
) -> Option<Result<Option<v1::Invalidation>, Status>> {
    tokio::select! {
        message = stream.message() => Some(message),
        () = async {
            sleep(SUSPICIOUS).await;
            pulse.lost().await;
        } => None,
    }
}

async fn reopen(inner: &Inner) -> Watched {
    sleep(SPREAD.mul_f64(share())).await;
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
