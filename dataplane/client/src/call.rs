//! What all calls share: errors that name the server, and the waits between attempts.

use crate::Error;
use backon::ExponentialBuilder;
use forebay_proto::convert::code_of;
use forebay_types::{Address, error::chain};
use std::{
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

/// At random, evenly: 0 to 1.
pub fn share() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

/// An interval that others keep as well, up to a quarter shorter or longer so that they do not come
/// together. `share`: 0 to 1.
pub fn jittered(interval: Duration, share: f64) -> Duration {
    interval.mul_f64(0.75 + share / 2.0)
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

    #[test]
    fn jitter_keeps_the_interval_on_average() {
        let interval = Duration::from_secs(4);
        let seconds = [0.0, 0.5, 1.0].map(|share| jittered(interval, share).as_secs());
        assert_eq!(seconds, [3, 4, 5]);
        let mean = (0..1_000).map(|_| share()).sum::<f64>() / 1e3;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
