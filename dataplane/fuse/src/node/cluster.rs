//! The clusters that volumes of a node are of.

use forebay_client::{Master, Namespace, RemoteReader, Result};
use forebay_service::Shutdown;
use forebay_types::Addresses;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::sync::Mutex;

/// Clusters that are served at the same time, at most; each has the same share of the memory.
const MOST: usize = 4;

/// What the volumes of one cluster share. Ends with the last of them.
pub(super) struct Cluster {
    pub(super) namespace: Namespace,
    pub(super) remote: Arc<RemoteReader>,
    part: Shutdown,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.part.begin();
    }
}

/// Those that are in use, by the addresses of their masters.
pub(super) struct Clusters {
    known: Mutex<HashMap<String, Weak<Cluster>>>,
    share: u64,
    shutdown: Shutdown,
}

impl Clusters {
    /// None yet; all together use `memory` bytes at most.
    pub(super) fn new(memory: u64, shutdown: Shutdown) -> Clusters {
        Clusters {
            known: Mutex::default(),
            share: memory / MOST as u64,
            shutdown,
        }
    }

    /// The one with these masters; connected to if it is not known yet.
    pub(super) async fn of(&self, masters: &Addresses) -> Result<Arc<Cluster>> {
        let name = masters.to_string();
        let mut known = self.known.lock().await;
        known.retain(|_, cluster| cluster.strong_count() > 0);
        if let Some(cluster) = known.get(&name).and_then(Weak::upgrade) {
            return Ok(cluster);
        }
        if known.len() >= MOST {
            let text = format!(
                "volumes of {MOST} CacheClusters are on this node already: no more are served at the same time"
            );
            return Err(forebay_client::Error::new(
                forebay_types::Code::QuotaExceeded,
                text,
            ));
        }
        // Half for metadata, a quarter each for the read-ahead of files of the node and of others.
        let part = self.shutdown.part();
        let namespace =
            Namespace::connect(Master::new(masters), self.share / 2, part.token()).await?;
        let cluster = Arc::new(Cluster {
            namespace,
            remote: Arc::new(RemoteReader::new(masters, self.share / 2)),
            part,
        });
        known.insert(name, Arc::downgrade(&cluster));
        Ok(cluster)
    }
}
