//! Carries raft messages to the other masters: one stream to each, everything that waits in one
//! message, nothing kept for a master that is away.

use crate::server::MAX_MESSAGE;
use bytes::Bytes;
use forebay_client::channel::connect;
use forebay_consensus::Transport;
use forebay_proto::v1::{RaftMessages, RaftPeers, raft_client::RaftClient};
use forebay_service::data_dir::DataDir;
use forebay_types::Address;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

/// Most bytes that wait for one master; what comes then is dropped, and raft sends again what matters.
const WAITING_MAX: usize = 32 << 20;

/// Bytes of messages sent as one, unless a single message is larger.
const BATCH: usize = 4 << 20;

/// Between attempts to reach a master, from the first to the last of many.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// The ways to the other masters.
pub(crate) struct Peers {
    queues: BTreeMap<u64, Arc<Queue>>,
    /// Ends the tasks when raft, which sends to the last, lets go.
    _alive: DropGuard,
}

impl Peers {
    /// Ways from master `id` to all others among `masters`, opened in the background. Must be called
    /// within a tokio runtime.
    pub(crate) fn new(id: u64, masters: &BTreeMap<u64, Address>, data_dir: &Arc<DataDir>) -> Peers {
        let ended = CancellationToken::new();
        let others = masters.iter().filter(|(other, _)| **other != id);
        let queues = others.map(|(other, address)| {
            let queue = Arc::new(Queue::default());
            let way = Way {
                from: id,
                to: *other,
                address: address.clone(),
                queue: queue.clone(),
                data_dir: Arc::downgrade(data_dir),
            };
            let ended = ended.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = way.keep_open() => {}
                }
            });
            (*other, queue)
        });
        Peers {
            queues: queues.collect(),
            _alive: ended.drop_guard(),
        }
    }
}

impl Transport for Peers {
    fn send(&self, to: u64, message: Bytes) {
        if let Some(queue) = self.queues.get(&to) {
            queue.push(message);
        } else {
            tracing::debug!(to, "message to a master that is not configured");
        }
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
struct Way {
    from: u64,
    to: u64,
    address: Address,
    queue: Arc<Queue>,
    /// Does not keep the directory locked.
    data_dir: Weak<DataDir>,
}

impl Way {
    async fn keep_open(self) {
        let mut client =
            RaftClient::new(connect(&self.address)).max_encoding_message_size(MAX_MESSAGE);
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

    /// All that is to be sent, for as long as the stream lives.
    fn messages(&self) -> impl futures::Stream<Item = RaftMessages> + Send + 'static + use<> {
        let cluster = self.data_dir.upgrade().and_then(|dir| dir.cluster());
        let peers = RaftPeers {
            from: self.from,
            to: self.to,
            cluster: cluster.unwrap_or_default(),
        };
        let hello = RaftMessages {
            peers: Some(peers),
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
