//! A network in memory that loses messages and can be cut.

use crate::fixture::Random;
use bytes::Bytes;
use forebay_consensus::{ChunkError, Raft, Transport};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// For a lone voter.
pub(crate) struct NoNetwork;

impl Transport for NoNetwork {
    fn send(&self, to: u64, _message: Bytes) {
        panic!("a lone voter sends nothing, and not to {to}");
    }

    fn fetch(&self, _: u64, _: &str, file: &str, _: u64, _: u64) -> Result<Bytes, ChunkError> {
        panic!("a lone voter needs no {file} of others");
    }
}

struct State {
    nodes: BTreeMap<u64, Raft<u64>>,
    isolated: BTreeSet<u64>,
    /// One message in so many is lost; 0: none.
    loss: u64,
    random: Random,
    /// Bytes of snapshots that may still be fetched; none: no bound.
    allowance: Option<u64>,
    /// What was fetched: file, offset and bytes.
    fetched: Vec<(String, u64, u64)>,
    /// Most bytes in one chunk; 0: no bound.
    chunk: u64,
}

pub(crate) struct Network {
    state: Mutex<State>,
}

impl Network {
    pub(crate) fn losing_one_in(loss: u64) -> Arc<Network> {
        let state = State {
            nodes: BTreeMap::new(),
            isolated: BTreeSet::new(),
            loss,
            random: Random(1),
            allowance: None,
            fetched: Vec::new(),
            chunk: 0,
        };
        Arc::new(Network {
            state: Mutex::new(state),
        })
    }

    pub(crate) fn port(self: &Arc<Network>, id: u64) -> Arc<dyn Transport> {
        Arc::new(Port {
            network: Arc::clone(self),
            id,
        })
    }

    pub(crate) fn attach(&self, id: u64, node: Raft<u64>) {
        self.state.lock().nodes.insert(id, node);
    }

    pub(crate) fn detach(&self, id: u64) {
        // Dropped outside the lock: the last handle of a node stops it.
        let node = self.state.lock().nodes.remove(&id);
        drop(node);
    }

    /// From now on so many bytes of snapshots can be fetched, in chunks of this size at most.
    pub(crate) fn allow(&self, bytes: Option<u64>, chunk: u64) {
        let mut state = self.state.lock();
        (state.allowance, state.chunk) = (bytes, chunk);
    }

    /// What was fetched: file, offset and bytes.
    pub(crate) fn fetched(&self) -> Vec<(String, u64, u64)> {
        self.state.lock().fetched.clone()
    }

    pub(crate) fn isolate(&self, id: u64) {
        self.state.lock().isolated.insert(id);
    }

    pub(crate) fn rejoin(&self, id: u64) {
        self.state.lock().isolated.remove(&id);
    }
}

struct Port {
    network: Arc<Network>,
    id: u64,
}

impl Transport for Port {
    fn send(&self, to: u64, message: Bytes) {
        let node = {
            let mut state = self.network.state.lock();
            let loss = state.loss;
            let lost = loss > 0 && state.random.below(loss) == 0;
            if lost || state.isolated.contains(&self.id) || state.isolated.contains(&to) {
                return;
            }
            state.nodes.get(&to).cloned()
        };
        if let Some(node) = node {
            node.receive(message);
        }
    }

    fn fetch(
        &self,
        from: u64,
        snapshot: &str,
        file: &str,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, ChunkError> {
        let failed = |why: &str| Err(ChunkError::Failed(why.to_owned()));
        let (node, len) = {
            let state = self.network.state.lock();
            if state.isolated.contains(&self.id) || state.isolated.contains(&from) {
                return failed("cut off");
            }
            if state.allowance == Some(0) {
                return failed("no more is allowed");
            }
            let chunk = if state.chunk > 0 { state.chunk } else { len };
            (state.nodes.get(&from).cloned(), len.min(chunk))
        };
        let Some(node) = node else {
            return failed("down");
        };
        let chunk = node.snapshot_chunk(snapshot, file, offset, len)?;
        let mut state = self.network.state.lock();
        let bytes = chunk.len() as u64;
        state.allowance = state.allowance.map(|left| left.saturating_sub(bytes));
        state.fetched.push((file.to_owned(), offset, bytes));
        Ok(chunk)
    }
}
