//! Keeps the store below its watermarks, in the background.

use crate::engine::Engine;
use forebay_service::Shutdown;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// A round is made at least this often: files that have become hot or cold move between tiers.
const ROUND: Duration = Duration::from_secs(1);
/// How often the watermarks are looked at between rounds: a fast fill covers the room above the
/// high watermark within some hundred milliseconds.
const LOOK: Duration = Duration::from_millis(50);

/// Starts it.
pub fn start(engine: Arc<Engine>, shutdown: &Shutdown) {
    shutdown.spawn(async move {
        loop {
            let store = engine.store.clone();
            let in_the_way = engine.disk.blocking(move || store.maintain()).await;
            engine.leases.recall(&in_the_way);
            wait(&engine).await;
        }
    });
}

async fn wait(engine: &Engine) {
    // Always one look, so that files that cannot be evicted do not make this a busy loop.
    let mut waited = Duration::ZERO;
    while waited < ROUND {
        tokio::select! {
            () = sleep(LOOK) => waited += LOOK,
            () = engine.filler.full() => return sleep(LOOK).await,
        }
        if engine.store.needs_maintenance() {
            return;
        }
    }
}
