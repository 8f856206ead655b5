//! Orderly end of a process: every background task belongs to one [`Shutdown`].

use std::future::Future;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Owns background tasks: hands them the signal to stop, and waits for them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Nothing running, nothing asked to stop.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Runs `task` until it ends or shutdown begins, whichever is first: it is dropped at its next
    /// await then.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Runs `task`, which watches the token itself and ends in its own order.
    pub fn spawn_graceful<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        self.tasks.spawn(task(self.token.clone()));
    }

    /// For a library that takes the signal as a token.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Resolves when shutdown has begun.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Whether shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Begins shutdown without waiting.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// A part of the process that may end before the rest, and ends with it at the latest. Whoever
    /// waits for the whole waits for the part's tasks, too.
    #[must_use]
    pub fn part(&self) -> Shutdown {
        Shutdown {
            token: self.token.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Begins shutdown and waits for every task.
    pub async fn finish(&self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_ends_before_the_whole_or_with_it() {
        let whole = Shutdown::new();
        let (first, second) = (whole.part(), whole.part());
        for part in [&first, &second] {
            part.spawn(std::future::pending());
        }
        first.begin();
        assert!(first.has_begun() && !whole.has_begun() && !second.has_begun());
        whole.finish().await;
        assert!(second.has_begun());
    }
}
