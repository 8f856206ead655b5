//! Spreads what is fetched over time.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A limit of bytes a second for all that share it. The next piece may go when those before it have had their
/// time (virtual scheduling, ITU-T I.371, without tolerance of bursts).
#[derive(Debug, Default)]
pub struct Pace {
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits until so many more bytes may be fetched, of `rate` a second; 0: at once.
    pub async fn take(&self, bytes: u64, rate: u64) {
        if rate > 0 {
            sleep_until(self.turn(bytes, rate, Instant::now())).await;
        }
    }

    fn turn(&self, bytes: u64, rate: u64, now: Instant) -> Instant {
        let mut free_at = self.free_at.lock();
        let at = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(at + Duration::from_secs_f64(bytes as f64 / rate as f64));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_their_time() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let after = |ms| begun + Duration::from_millis(ms);
        assert_eq!(pace.turn(100, 1000, begun), begun);
        assert_eq!(pace.turn(1, 1000, begun), after(100));
        assert_eq!(pace.turn(1, 1000, after(50)), after(101));
        assert_eq!(pace.turn(1, 1000, after(900)), after(900));
        assert_eq!(
            pace.turn(1, 1000, after(900)),
            after(901),
            "what was not used is lost"
        );
    }
}
