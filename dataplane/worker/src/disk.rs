//! Where short disk calls run.
//!
//! Writing some hundred KiB into the page cache takes less time than waking another thread, so it is
//! best done on the spot; but a disk that stalls would hold the runtime's threads and freeze the
//! whole process. So calls run on the spot on all threads of the runtime but one, and only while the
//! disk answers quickly; all others go to the pool for blocking calls.

use std::{
    future::pending,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::{EnterGuard, Handle, RuntimeFlavor},
    task::JoinHandle,
};

/// A call that takes longer than this shows that the disk is slow …
const SLOW: Duration = Duration::from_millis(50);
/// … and for so long no call runs on the spot.
const PENALTY: Duration = Duration::from_secs(5);

/// Runs disk calls; cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk {
    handle: Handle,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    epoch: Instant,
    /// Calls that may still begin on the spot.
    seats: AtomicUsize,
    /// Milliseconds after `epoch` until which the disk counts as slow.
    slow_until: AtomicU64,
}

impl Disk {
    /// For the runtime of `handle`.
    pub fn new(handle: Handle) -> Disk {
        let seats = match handle.runtime_flavor() {
            RuntimeFlavor::MultiThread => handle.metrics().num_workers() - 1,
            _ => 0,
        };
        let state = State {
            epoch: Instant::now(),
            seats: AtomicUsize::new(seats),
            slow_until: AtomicU64::new(0),
        };
        Disk {
            handle,
            state: Arc::new(state),
        }
    }

    /// Runs `call`, on the spot if that is safe.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        if let Some(_seat) = self.seat() {
            return self.state.time(call);
        }
        let state = self.state.clone();
        self.blocking(move || state.time(call)).await
    }

    /// Runs `call`, which may take long, on the pool for blocking calls.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match self.handle.spawn_blocking(call).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends: so will this future.
                Err(_) => pending().await,
            },
        }
    }

    /// Runs `task` on the runtime.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(task)
    }

    /// Enters the runtime, for those who come from a thread outside of it.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    fn seat(&self) -> Option<Seat<'_>> {
        let state = &*self.state;
        if state.now() < state.slow_until.load(Ordering::Relaxed) {
            return None;
        }
        let take = |seats: usize| seats.checked_sub(1);
        state
            .seats
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, take)
            .ok()?;
        Some(Seat(state))
    }
}

impl State {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn time<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let value = call();
        if begun.elapsed() > SLOW {
            let until = self.now() + PENALTY.as_millis() as u64;
            self.slow_until.fetch_max(until, Ordering::Relaxed);
        }
        value
    }
}

struct Seat<'a>(&'a State);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.seats.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread};

    #[test]
    fn stalled_calls_never_hold_all_threads_of_the_runtime() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let disk = Disk::new(runtime.handle().clone());
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let (free, wait) = mpsc::channel::<()>();
            let disk = disk.clone();
            runtime.spawn(async move { disk.run(move || wait.recv().is_ok()).await });
            stalled.push(free);
        }
        // The runtime still runs other things while all eight calls stall.
        runtime.block_on(async { tokio::spawn(async {}).await.unwrap() });
        drop(stalled);
    }

    #[test]
    fn a_slow_call_sends_the_next_ones_elsewhere() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let disk = Disk::new(runtime.handle().clone());
        runtime.block_on(async {
            let here = thread::current().id();
            assert_eq!(disk.run(move || thread::current().id()).await, here);
            disk.run(|| thread::sleep(2 * SLOW)).await;
            assert_ne!(disk.run(move || thread::current().id()).await, here);
        });
    }
}
