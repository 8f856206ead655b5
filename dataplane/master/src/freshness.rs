//! When cached metadata may answer, and for how long an answer may be kept. Pure.

use forebay_types::SyncPolicy;
use std::time::Duration;

/// The longest lease.
pub(crate) const LEASE_MAX: Duration = Duration::from_hours(1);

/// What a directory needs before its entries may be answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Nothing.
    Fresh,
    /// Answer now, compare with the under store meanwhile.
    Stale,
    /// Compare with the under store first.
    Check,
    /// Was never listed: load it first.
    Unloaded,
}

/// How fresh a directory is. `policy`: of its mount; absent: it belongs to none. `synced_ns`:
/// when its last complete listing began.
pub(crate) fn freshness(
    policy: Option<SyncPolicy>,
    synced_ns: Option<i64>,
    now_ns: i64,
) -> Freshness {
    match (policy, synced_ns) {
        (None, _) | (Some(SyncPolicy::Never), Some(_)) => Freshness::Fresh,
        (Some(_), None) => Freshness::Unloaded,
        (Some(SyncPolicy::Always), Some(_)) => Freshness::Check,
        (Some(SyncPolicy::Interval(interval)), Some(synced)) => {
            let age = now_ns.saturating_sub(synced);
            // A clock that was set back must not make a directory fresh for years.
            if age >= 0 && (age as u128) < interval.as_nanos() {
                Freshness::Fresh
            } else {
                Freshness::Stale
            }
        }
    }
}

/// How long an answer under `policy` may be kept, provided that the keeper watches.
pub(crate) fn lease(policy: Option<SyncPolicy>) -> Duration {
    match policy {
        None | Some(SyncPolicy::Never) => LEASE_MAX,
        Some(SyncPolicy::Interval(interval)) => interval.min(LEASE_MAX),
        Some(SyncPolicy::Always) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn policies_decide() {
        let interval = Some(SyncPolicy::Interval(Duration::from_mins(1)));
        assert_eq!(freshness(None, None, 0), Freshness::Fresh);
        for policy in [interval, Some(SyncPolicy::Never), Some(SyncPolicy::Always)] {
            assert_eq!(freshness(policy, None, 0), Freshness::Unloaded);
        }
        assert_eq!(
            freshness(Some(SyncPolicy::Never), Some(0), i64::MAX),
            Freshness::Fresh
        );
        assert_eq!(
            freshness(Some(SyncPolicy::Always), Some(5), 5),
            Freshness::Check
        );
        assert_eq!(freshness(interval, Some(0), 59 * SECOND), Freshness::Fresh);
        assert_eq!(freshness(interval, Some(0), 60 * SECOND), Freshness::Stale);
        assert_eq!(
            freshness(interval, Some(SECOND), 0),
            Freshness::Stale,
            "clock set back"
        );
    }

    #[test]
    fn leases_never_outlive_the_interval() {
        assert_eq!(lease(Some(SyncPolicy::Always)), Duration::ZERO);
        assert_eq!(lease(Some(SyncPolicy::Never)), LEASE_MAX);
        let of = |secs| lease(Some(SyncPolicy::Interval(Duration::from_secs(secs))));
        assert_eq!(of(60), Duration::from_mins(1));
        assert_eq!(of(86_400), LEASE_MAX);
    }
}
