//! Keeps idle cores from halting while the mount is busy.
//!
//! A request that is answered from memory costs a few microseconds of work and two wake-ups: the
//! session's thread, then the requester. In a virtual machine an idle core has halted, and waking it
//! is an exit to the hypervisor that takes longer than all the rest. While requests come, the kernel
//! is therefore asked for a wake-up latency of zero (PM `QoS`, `Documentation/power/pm_qos_interface.rst`),
//! which makes its idle loop poll. The request ends with the descriptor that made it, so also when
//! this process is killed. On bare metal a core wakes in a microsecond or two and nothing is asked.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::sync::Notify;

/// Where the kernel takes the request.
const DEVICE: &str = "/dev/cpu_dma_latency";
/// Which driver idles the cores.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// The one that only guests of a hypervisor have.
const GUEST: &str = "haltpoll";
/// Requests in a window that make a mount busy: some 1,600 a second.
const BUSY: u32 = 32;
/// How long cores stay awake for, at least.
const WINDOW: Duration = Duration::from_millis(20);

/// Counts requests, and keeps the cores awake while there are many.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    requests: AtomicU32,
    busy: Notify,
}

impl Wake {
    /// A request came. Costs one addition.
    pub(crate) fn request(&self) {
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 == BUSY {
            self.busy.notify_one();
        }
    }

    /// Runs until dropped. `device` takes the request.
    pub(crate) async fn run(&self, device: &Path) {
        loop {
            self.busy.notified().await;
            // Said in a window that is over.
            if self.requests.load(Ordering::Relaxed) < BUSY {
                continue;
            }
            let awake = match ask(device) {
                Ok(awake) => awake,
                Err(error) => {
                    tracing::debug!(%error, device = %device.display(), "idle cores halt as ever");
                    return;
                }
            };
            // The requests that came while the window was open decide about the next one.
            self.requests.store(0, Ordering::Relaxed);
            while {
                tokio::time::sleep(WINDOW).await;
                self.requests.swap(0, Ordering::Relaxed) >= BUSY
            } {}
            drop(awake);
        }
    }
}

/// The device, if this machine gains by it: a guest, with the right to ask.
pub(crate) fn device() -> Option<PathBuf> {
    let driver = fs::read_to_string(DRIVER).ok()?;
    (driver.trim() == GUEST).then(|| PathBuf::from(DEVICE))
}

/// Cores poll until the file is closed.
fn ask(device: &Path) -> io::Result<File> {
    let mut file = File::options().write(true).open(device)?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Descriptors of this process on `path`.
    fn open(path: &Path) -> usize {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|at| at == path))
            .count()
    }

    /// Waits until so many descriptors are open.
    async fn until(path: &Path, count: usize) {
        let begun = std::time::Instant::now();
        while open(path) != count {
            assert!(begun.elapsed() < Duration::from_secs(20), "{count} never");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn asks_while_many_requests_come_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().canonicalize().unwrap().join("device");
        fs::write(&device, "").unwrap();
        let wake = Arc::new(Wake::default());
        let burst = |count| (0..count).for_each(|_| wake.request());
        let running = tokio::spawn({
            let (wake, device) = (wake.clone(), device.clone());
            async move { wake.run(&device).await }
        });
        for _ in 0..2 {
            burst(BUSY - 1);
            tokio::time::sleep(WINDOW).await;
            assert_eq!(open(&device), 0, "a few requests are no burst");
            burst(1);
            until(&device, 1).await;
            assert_eq!(fs::read(&device).unwrap(), [0; 4]);
            until(&device, 0).await;
        }
        running.abort();
    }

    #[tokio::test]
    async fn without_the_right_to_ask_nothing_happens() {
        let wake = Wake::default();
        (0..BUSY).for_each(|_| wake.request());
        wake.run(Path::new("/nonexistent/device")).await;
    }
}
