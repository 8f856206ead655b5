//! How often workers report, so that the sum of their reports does not grow with their number. Pure.

use std::time::Duration;

/// Heartbeats of all workers together, in a second, at most; each makes some 0.1 ms of work.
const MOST: u32 = 1_000;

/// The shortest interval between two heartbeats of a worker: as long as the sum allows it, one that
/// died is noticed within seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest: beyond ten thousand workers the sum grows.
const LONGEST: Duration = Duration::from_secs(10);

/// Workers from which on changes of the topology are gathered before others are told.
const MANY: usize = 100;

/// How long they are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// How often each of so many workers is to report: 1 to 10 s.
pub(crate) fn interval(live: usize) -> Duration {
    let live = u32::try_from(live).unwrap_or(u32::MAX);
    bounded(SHORTEST * live / MOST)
}

/// An interval that a worker says it was told by another leader, within what leaders tell.
pub(crate) fn bounded(interval: Duration) -> Duration {
    interval.clamp(SHORTEST, LONGEST)
}

/// A worker that was told `interval` and was silent for so long is dead: two heartbeats may be lost,
/// and the search for a new leader may take its time.
pub(crate) fn dead_after(interval: Duration) -> Duration {
    interval * 3 + Duration::from_secs(2)
}

/// How long a new leader waits for the workers of the one before, which told them `interval`: at least
/// a heartbeat with its jitter and the search for the leader; after each that came, for others; and no
/// longer than a silent worker counts as alive.
pub(crate) fn settling(interval: Duration) -> [Duration; 3] {
    let least = interval * 3 / 2 + Duration::from_millis(500);
    [least, SHORTEST, dead_after(interval)]
}

/// The least time between two versions of a topology of so many workers.
pub(crate) fn gathering(workers: usize) -> Duration {
    if workers < MANY {
        Duration::ZERO
    } else {
        GATHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_workers_report_no_more_together_than_a_thousand() {
        for workers in [1, 10, 999, 1_000, 2_345, 5_000, 10_000] {
            let together = workers as f64 / interval(workers).as_secs_f64();
            assert!(together <= f64::from(MOST) + 0.001, "{workers}: {together}");
        }
        let seconds = [0, 100, 5_000, 1_000_000].map(|n| interval(n).as_secs_f64());
        assert!(seconds.iter().eq([1.0, 1.0, 5.0, 10.0].iter()));
    }

    #[test]
    fn two_late_heartbeats_are_no_death() {
        for workers in [1, 5_000, 50_000] {
            let interval = interval(workers);
            assert!(dead_after(interval) > interval.mul_f64(2.0 * 1.25));
            assert!(settling(interval)[0] > interval.mul_f64(1.25));
        }
    }

    #[test]
    fn what_a_worker_says_of_its_interval_is_not_believed_without_bounds() {
        let all = [Duration::ZERO, Duration::from_secs(3), Duration::MAX];
        assert_eq!(
            all.map(bounded),
            [SHORTEST, Duration::from_secs(3), LONGEST]
        );
    }
}
