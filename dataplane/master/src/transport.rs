//! Carries raft messages to the other masters: one stream to each, everything that waits in one
//! message, nothing kept for a master that is away.

use crate::server::MAX_MESSAGE;
use bytes::Bytes;
use forebay_client::channel::connect;
use forebay_consensus::{ChunkError, Transport};
use forebay_proto::{
    convert::code_of,
    v1::{RaftMessages, RaftPeers, SnapshotChunkRequest, raft_client::RaftClient},
};
use forebay_service::data_dir::DataDir;
use forebay_types::{Address, Code};
use futures::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, transport::Channel};

/// Most bytes that wait for one master; what comes then is dropped, and raft sends again what matters.
const WAITING_MAX: usize = 32 << 20;

/// Bytes of messages sent as one, unless a single message is larger.
const BATCH: usize = 4 << 20;

/// Between attempts to reach a master, from the first to the last of many.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// How long a part of a snapshot may take.
const CHUNK_LIMIT: Duration = Duration::from_secs(5);

/// The ways to the other masters.
pub(crate) struct Peers {
    /// This node, and where it serves.
    own: (u64, Address),
    data_dir: Weak<DataDir>,
    ways: RwLock<BTreeMap<u64, Kept>>,
    runtime: Handle,
}

/// A way, and what ends its task.
struct Kept {
    way: Way,
    _alive: DropGuard,
}

impl Peers {
    /// Of node `node`, which serves at `address`; knows nobody yet. Must be called within a tokio
    /// runtime.
    pub(crate) fn new(node: u64, address: Address, data_dir: &Arc<DataDir>) -> Peers {
        Peers {
            own: (node, address),
            data_dir: Arc::downgrade(data_dir),
            ways: RwLock::default(),
            runtime: Handle::current(),
        }
    }

    /// Opens a way to another node, in the background, or changes its address.
    pub(crate) fn learn(&self, node: u64, address: &Address) {
        let known = |kept: &Kept| kept.way.address == *address;
        if node == self.own.0 || self.ways.read().get(&node).is_some_and(known) {
            return;
        }
        let ended = CancellationToken::new();
        let way = Way {
            from: self.own.clone(),
            to: node,
            address: address.clone(),
            channel: connect(address),
            queue: Arc::default(),
            data_dir: self.data_dir.clone(),
        };
        let (kept, alive) = (way.clone(), ended.clone().drop_guard());
        self.runtime.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = kept.keep_open() => {}
            }
        });
        let kept = Kept { way, _alive: alive };
        self.ways.write().insert(node, kept);
    }

    /// Closes the ways to all nodes but these.
    pub(crate) fn keep(&self, nodes: &BTreeMap<u64, Address>) {
        self.ways.write().retain(|node, _| nodes.contains_key(node));
    }
}

impl Transport for Peers {
    fn send(&self, to: u64, message: Bytes) {
        if let Some(kept) = self.ways.read().get(&to) {
            kept.way.queue.push(message);
        } else {
            tracing::debug!(to, "message to a master that nobody knows the address of");
        }
    }

    fn fetch(
        &self,
        from: u64,
        snapshot: &str,
        file: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, ChunkError> {
        let way = self.ways.read().get(&from).map(|kept| kept.way.clone());
        let way = way.ok_or(ChunkError::Gone)?;
        let asked = SnapshotChunkRequest {
            peers: Some(way.peers()),
            snapshot: snapshot.to_owned(),
            file: file.to_owned(),
            offset,
            length,
        };
        self.runtime.block_on(way.fetch(asked))
    }
}

/// Messages that wait for one master.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: Vec<Bytes>,
    bytes: usize,
    /// Somebody takes them.
    open: bool,
}

impl Queue {
    fn push(&self, message: Bytes) {
        let mut waiting = self.waiting.lock();
        if !waiting.open || waiting.bytes + message.len() > WAITING_MAX {
            return;
        }
        waiting.bytes += message.len();
        waiting.messages.push(message);
        drop(waiting);
        self.arrived.notify_one();
    }

    fn set_open(&self, open: bool) {
        *self.waiting.lock() = Waiting {
            open,
            ..Waiting::default()
        };
    }

    /// What waits, as far as it fits one message; waits for something to come.
    async fn take(&self) -> Vec<Bytes> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.messages.is_empty() {
                    return waiting.take();
                }
            }
            self.arrived.notified().await;
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<Bytes> {
        let mut bytes = 0;
        let fit = self.messages.iter().take_while(|message| {
            bytes += message.len();
            bytes <= BATCH
        });
        let fit = fit.count().max(1);
        let rest = self.messages.split_off(fit);
        let taken = std::mem::replace(&mut self.messages, rest);
        self.bytes -= taken.iter().map(Bytes::len).sum::<usize>();
        taken
    }
}

/// The way to one master.
#[derive(Clone)]
struct Way {
    /// This node, and where it serves.
    from: (u64, Address),
    to: u64,
    address: Address,
    channel: Channel,
    queue: Arc<Queue>,
    /// Does not keep the directory locked.
    data_dir: Weak<DataDir>,
}

impl Way {
    async fn keep_open(self) {
        let mut client =
            RaftClient::new(self.channel.clone()).max_encoding_message_size(MAX_MESSAGE);
        let mut pause = RETRY[0];
        let mut told = String::new();
        loop {
            self.queue.set_open(true);
            let begun = Instant::now();
            let ended = client.messages(self.messages()).await;
            self.queue.set_open(false);
            if begun.elapsed() > RETRY[1] {
                pause = RETRY[0];
                told.clear();
            }
            self.tell(ended.err(), &mut told);
            sleep(pause).await;
            pause = (pause * 2).min(RETRY[1]);
        }
    }

    /// Logs a reason once.
    fn tell(&self, ended: Option<Status>, told: &mut String) {
        let why = match ended {
            Some(status) => forebay_client::call::error_of(&self.address, "raft", &status).message,
            None => "the stream was closed".to_owned(),
        };
        if why != *told {
            tracing::warn!(master = self.to, why, "no way to another master");
            *told = why;
        }
    }

    /// Who asks whom.
    fn peers(&self) -> RaftPeers {
        let cluster = self.data_dir.upgrade().and_then(|dir| dir.cluster());
        RaftPeers {
            from: self.from.0,
            to: self.to,
            cluster: cluster.unwrap_or_default(),
            address: self.from.1.to_string(),
        }
    }

    async fn fetch(&self, asked: SnapshotChunkRequest) -> Result<Bytes, ChunkError> {
        let mut client =
            RaftClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        match timeout(CHUNK_LIMIT, client.snapshot_chunk(asked)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().data),
            Ok(Err(status)) if code_of(&status) == Code::NotFound => Err(ChunkError::Gone),
            Ok(Err(status)) => {
                let error = forebay_client::call::error_of(&self.address, "snapshot", &status);
                Err(ChunkError::Failed(error.message))
            }
            Err(_) => Err(ChunkError::Failed(format!("{}: no answer", self.address))),
        }
    }

    /// All that is to be sent, for as long as the stream lives.
    fn messages(&self) -> impl futures::Stream<Item = RaftMessages> + Send + 'static + use<> {
        let hello = RaftMessages {
            peers: Some(self.peers()),
            messages: Vec::new(),
        };
        let rest = stream::unfold(self.queue.clone(), async |queue| {
            let messages = queue.take().await;
            let batch = RaftMessages {
                peers: None,
                messages,
            };
            Some((batch, queue))
        });
        stream::iter([hello]).chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn what_waits_goes_together_and_within_bounds() {
        let queue = Queue::default();
        queue.push(Bytes::from_static(b"lost: nobody takes it"));
        queue.set_open(true);
        for _ in 0..5 {
            queue.push(Bytes::from(vec![0; BATCH / 2]));
        }
        let taken = async || queue.take().await.len();
        assert_eq!((taken().await, taken().await, taken().await), (2, 2, 1));
        assert_eq!(queue.take().now_or_never(), None);
        for _ in 0..WAITING_MAX / BATCH {
            queue.push(Bytes::from(vec![0; BATCH]));
        }
        queue.push(Bytes::from_static(b"lost: too many wait"));
        for _ in 0..WAITING_MAX / BATCH {
            assert_eq!(taken().await, 1);
        }
        assert_eq!(queue.take().now_or_never(), None);
        queue.push(Bytes::from(vec![0; 2 * BATCH]));
        assert_eq!(taken().await, 1, "one too large for a batch goes alone");
    }
}
