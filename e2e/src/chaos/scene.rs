//! What clients and rounds share.

use super::{
    ledger::{Counts, Ledger},
    progress::Progress,
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::RwLock;

/// What clients and rounds share.
pub(super) struct Scene {
    /// Read by a client while it does something, written by whoever wants all of them to rest.
    pub(super) gate: RwLock<()>,
    /// One for each client.
    pub(super) ledgers: Vec<Mutex<Ledger>>,
    pub(super) progress: Progress,
    round: AtomicU32,
    complaints: Mutex<Vec<String>>,
    /// What clients gave up, since somebody asked.
    given_up: Mutex<Vec<String>>,
}

impl Scene {
    pub(super) fn new(clients: usize) -> Scene {
        Scene {
            gate: RwLock::new(()),
            ledgers: (0..clients).map(|_| Mutex::default()).collect(),
            progress: Progress::default(),
            round: AtomicU32::new(0),
            complaints: Mutex::default(),
            given_up: Mutex::default(),
        }
    }

    pub(super) fn begin(&self, round: u32) {
        self.round.store(round, Ordering::Relaxed);
        self.progress.begin();
    }

    pub(super) fn round(&self) -> u32 {
        self.round.load(Ordering::Relaxed)
    }

    /// Something is not as it must be.
    pub(super) fn complain(&self, of: &str) {
        let round = self.round();
        self.complaints.lock().push(format!("round {round}: {of}"));
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }

    /// A client gave something up.
    pub(super) fn give_up(&self, what: String) {
        self.given_up.lock().push(what);
    }

    /// What was given up since this was called last.
    pub(super) fn given_up(&self) -> Vec<String> {
        std::mem::take(&mut *self.given_up.lock())
    }

    /// Of all clients.
    pub(super) fn counts(&self) -> Counts {
        let mut total = Counts::default();
        for ledger in &self.ledgers {
            let counts = ledger.lock().counts();
            total.done += counts.done;
            total.refused += counts.refused;
            total.unknown += counts.unknown;
            total.looks += counts.looks;
        }
        total
    }
}
