//! One way to make a call: bounded retry of transient failures, and errors that name the server.

use crate::{Error, Result};
use backon::{ExponentialBuilder, Retryable};
use forebay_proto::convert::code_of;
use forebay_types::{Address, error::chain};
use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    time::Duration,
};
use tonic::Status;

/// Waits between attempts: 20 ms doubling to 1 s, with jitter, 12 times, so a call gives up after
/// some 10 to 15 seconds: a restart of the other side is bridged, its absence is reported.
pub fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_factor(2.0)
        .with_max_times(12)
        .with_jitter()
        .with_jitter_seed(RandomState::new().hash_one(0))
}

/// Makes a call and repeats it while it fails with a transient code; for calls that may be repeated.
pub async fn retrying<T, F, Fut>(to: &Address, what: &str, mut call: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = std::result::Result<T, Status>>,
{
    let attempt = || {
        let answer = call();
        async move { answer.await.map_err(|status| error_of(to, what, &status)) }
    };
    attempt
        .retry(backoff())
        .when(|error: &Error| error.code.is_transient())
        .await
}

/// Makes a call once.
pub async fn once<T, Fut>(to: &Address, what: &str, call: Fut) -> Result<T>
where
    Fut: Future<Output = std::result::Result<T, Status>>,
{
    call.await.map_err(|status| error_of(to, what, &status))
}

/// The error of a failed call `what` to the server at `to`.
pub fn error_of(to: &Address, what: &str, status: &Status) -> Error {
    let mut reason = status.message().to_owned();
    if let Some(source) = std::error::Error::source(status) {
        let cause = chain(source);
        // The message of a transport failure only repeats the outermost source.
        reason = if cause.starts_with(&reason) {
            cause
        } else {
            format!("{reason}: {cause}")
        };
    }
    Error::new(code_of(status), format!("{what} at {to}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::convert::status;
    use forebay_types::Code;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn somewhere() -> Address {
        "127.0.0.1:1".parse().unwrap()
    }

    #[tokio::test]
    async fn transient_failures_are_repeated_and_others_are_not() {
        let (calls, server) = (AtomicU32::new(0), somewhere());
        let answer = retrying(&server, "lookup", || {
            let n = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                if n < 2 {
                    Err(status(Code::Unavailable, "away"))
                } else {
                    Ok(7)
                }
            }
        });
        assert_eq!(answer.await.unwrap(), 7);
        calls.store(0, Ordering::Relaxed);
        let failed = retrying::<(), _, _>(&server, "lookup", || {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Err(status(Code::Stale, "gone")) }
        });
        let error = failed.await.unwrap_err();
        assert_eq!(error.code, Code::Stale);
        assert_eq!(error.message, "lookup at 127.0.0.1:1: gone");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
