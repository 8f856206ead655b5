//! The clusters that volumes of a node are of.

use forebay_client::{Error, Master, Namespace, ReadAhead, RemoteReader, Result};
use forebay_service::{ByteSize, Shutdown};
use forebay_types::{Addresses, Code};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// The least memory for the metadata of one cluster: it decides how many are served at the same time.
const LEAST: ByteSize = ByteSize(8 << 20);

/// What the volumes of one cluster share. Ends with the last of them.
pub(super) struct Cluster {
    pub(super) namespace: Namespace,
    pub(super) remote: Arc<RemoteReader>,
    part: Shutdown,
    shares: Arc<Shares>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.part.begin();
        self.shares.divide(None);
    }
}

/// Memory for metadata, in even shares for those clusters that are there.
struct Shares {
    memory: u64,
    among: Mutex<Vec<Weak<Cluster>>>,
}

impl Shares {
    /// What each has if one more comes.
    fn of_one_more(&self) -> Result<u64> {
        let there = self
            .among
            .lock()
            .iter()
            .filter(|c| c.strong_count() > 0)
            .count() as u64;
        let share = self.memory / (there + 1);
        if there > 0 && share < LEAST.0 {
            let text = format!(
                "volumes of {there} CacheClusters are on this node already, and each needs {LEAST} for metadata: give the FUSE host of the node more memory"
            );
            return Err(Error::new(Code::QuotaExceeded, text));
        }
        Ok(share)
    }

    /// Somebody came, or went.
    fn divide(&self, new: Option<&Arc<Cluster>>) {
        let mut there = Vec::new();
        {
            let mut among = self.among.lock();
            among.extend(new.map(Arc::downgrade));
            among.retain(|cluster| cluster.strong_count() > 0);
            there.extend(among.iter().filter_map(Weak::upgrade));
            for cluster in &there {
                let share = self.memory / there.len() as u64;
                cluster.namespace.limit_cache(share);
            }
        }
        // Not under the lock: one of these may be the last of its cluster by now.
        drop(there);
    }
}

/// One cluster; locked while it is connected to.
type Place = Arc<tokio::sync::Mutex<Weak<Cluster>>>;

/// Those that are in use, by the addresses of their masters.
pub(super) struct Clusters {
    places: Mutex<HashMap<String, Place>>,
    shares: Arc<Shares>,
    /// Of all together: what one reads ahead another cannot.
    ahead: ReadAhead,
    shutdown: Shutdown,
}

impl Clusters {
    /// None yet; all together use `memory` bytes at most, half of them for metadata.
    pub(super) fn new(memory: u64, shutdown: Shutdown) -> Clusters {
        Clusters {
            places: Mutex::default(),
            shares: Arc::new(Shares {
                memory: memory / 2,
                among: Mutex::default(),
            }),
            ahead: ReadAhead::new(memory / 2),
            shutdown,
        }
    }

    /// The one with these masters; connected to if it is not known yet.
    pub(super) async fn of(&self, masters: &Addresses) -> Result<Arc<Cluster>> {
        let place = self.place(masters.to_string());
        let mut place = place.lock().await;
        if let Some(cluster) = place.upgrade() {
            return Ok(cluster);
        }
        let share = self.shares.of_one_more()?;
        let part = self.shutdown.part();
        let namespace = Namespace::connect(Master::new(masters), share, part.token()).await?;
        let cluster = Arc::new(Cluster {
            namespace,
            remote: Arc::new(RemoteReader::new(masters, &self.ahead)),
            part,
            shares: Arc::clone(&self.shares),
        });
        self.shares.divide(Some(&cluster));
        *place = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    fn place(&self, name: String) -> Place {
        let mut places = self.places.lock();
        // Those that nobody connects to, or uses.
        places.retain(|_, place| {
            let used = || place.try_lock().is_ok_and(|c| c.strong_count() > 0);
            Arc::strong_count(place) > 1 || used()
        });
        places.entry(name).or_default().clone()
    }
}
