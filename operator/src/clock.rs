//! The clock of those that act.

use k8s_openapi::jiff::Timestamp;

/// The time.
#[expect(clippy::disallowed_methods, reason = "plans get the time from here")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
