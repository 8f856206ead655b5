//! Connections to workers, one per address.

use crate::channel::{MAX_MESSAGE, connect};
use forebay_proto::v1::worker_data_client::WorkerDataClient;
use forebay_types::Address;
use quick_cache::sync::Cache;
use tonic::transport::Channel;

/// Most connections that are kept; the least used go first.
const MOST: usize = 1024;

/// Clients of workers by address; connections are made on first use and shared.
#[derive(Debug)]
pub struct WorkerPool {
    clients: Cache<Address, WorkerDataClient<Channel>>,
}

impl Default for WorkerPool {
    fn default() -> WorkerPool {
        WorkerPool::new()
    }
}

impl WorkerPool {
    /// No connections yet.
    pub fn new() -> WorkerPool {
        WorkerPool {
            clients: Cache::new(MOST),
        }
    }

    /// The worker at `address`. Must be called within a tokio runtime.
    pub fn get(&self, address: &Address) -> WorkerDataClient<Channel> {
        if let Some(client) = self.clients.get(address) {
            return client;
        }
        let client = WorkerDataClient::new(connect(address)).max_decoding_message_size(MAX_MESSAGE);
        self.clients.insert(address.clone(), client.clone());
        client
    }
}
