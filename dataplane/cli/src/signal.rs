//! Being asked to stop.

use crate::failure::Failure;
use forebay_service::Shutdown;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM from now on, also those that come before anyone waits.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Takes the signals over from the default action.
    pub(crate) fn install() -> std::io::Result<StopSignals> {
        Ok(StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Resolves at the next one.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The same, or a part of this process has stopped it: that is a failure, told in the log.
    pub(crate) async fn wait_or(&mut self, shutdown: &Shutdown) -> Result<(), Failure> {
        tokio::select! {
            () = self.wait() => Ok(()),
            () = shutdown.begun() => Err(Failure::run("stopped by a fault: see the log above")),
        }
    }
}
