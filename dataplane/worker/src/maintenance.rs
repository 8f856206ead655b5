//! Keeps the store below its watermarks, in the background.

use crate::engine::Engine;
use forebay_service::Shutdown;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// A round is made at least this often: a directory that vanished is noticed in no other way.
const ROUND: Duration = Duration::from_secs(1);
/// Least pause between rounds, so that files that cannot be evicted do not make this a busy loop.
const PAUSE: Duration = Duration::from_millis(10);

/// Starts it.
pub fn start(engine: Arc<Engine>, shutdown: &Shutdown) {
    let pressure = Arc::new(Notify::new());
    let wake = pressure.clone();
    engine.store.on_pressure(move || wake.notify_one());
    shutdown.spawn(async move {
        loop {
            let store = engine.store.clone();
            let in_the_way = engine.disk.blocking(move || store.maintain()).await;
            engine.filler.made_room();
            engine.recall(&in_the_way);
            sleep(PAUSE).await;
            if !engine.store.needs_maintenance() {
                // Passing the deadline is as good a reason as being woken.
                let _ = timeout(ROUND, pressure.notified()).await;
            }
        }
    });
}
