//! Housekeeping in the background: inodes out of the tree and abandoned sessions go, a little at a
//! time.

use crate::proposer::{Proposer, now_ns};
use forebay_meta::{Change, Reply};
use std::{sync::Arc, time::Duration};

/// How often it looks.
const EVERY: Duration = Duration::from_mins(5);

/// How long an inode that is out of the tree is kept for those who have it open.
const KEPT: Duration = Duration::from_hours(1);

/// How long a session may be unused.
const SESSION_KEPT: Duration = Duration::from_hours(24);

/// Rows of one command.
const BATCH: u32 = 1_000;

/// Runs until it is dropped.
pub(crate) async fn run(proposer: Arc<Proposer>) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = once(&proposer).await {
            tracing::warn!(%error, "housekeeping failed; it is tried again later");
        }
    }
}

async fn once(proposer: &Proposer) -> crate::error::Result<()> {
    let now = now_ns();
    let ago = |age: Duration| now.saturating_sub(age.as_nanos() as i64);
    proposer
        .propose(Change::ExpireSessions {
            unused_since_ns: ago(SESSION_KEPT),
        })
        .await?;
    loop {
        let reap = Change::Reap {
            before_ns: ago(KEPT),
            limit: BATCH,
        };
        match proposer.propose(reap).await? {
            Reply::Reaped(rows) if rows > 0 => tracing::debug!(rows, "reaped inodes"),
            _ => return Ok(()),
        }
    }
}
