//! Tells the owner of the maintenance loop that there is work.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

/// A flag, and whom to wake when it is raised.
#[derive(Default)]
pub(crate) struct Signal {
    due: AtomicBool,
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Signal {
    /// Raises the flag; wakes only at the change.
    pub(crate) fn raise(&self) {
        if !self.due.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }

    pub(crate) fn lower(&self) {
        self.due.store(false, Ordering::Release);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.due.load(Ordering::Acquire)
    }

    /// Whom to wake; the first call counts.
    pub(crate) fn connect(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let _ = self.waker.set(wake);
        if self.is_raised()
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }
}
