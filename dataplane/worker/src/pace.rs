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
        if rate == 0 {
            return;
        }
        let at = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let at = free_at.map_or(now, |free_at| free_at.max(now));
            *free_at = Some(at + Duration::from_secs_f64(bytes as f64 / rate as f64));
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pieces_have_their_time() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let passed = || begun.elapsed().as_millis();
        pace.take(100, 1000).await;
        assert_eq!(passed(), 0);
        pace.take(1, 1000).await;
        assert_eq!(passed(), 100);
        pace.take(5_000_000, 0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        pace.take(1, 1000).await;
        assert_eq!(passed(), 1100, "what was not used is lost");
    }
}
