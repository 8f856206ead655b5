//! A group of nodes in one process.

use crate::{kv::ForgetfulKv, machine::Recorder, network::Network};
use forebay_consensus::{Bootstrap, Fatal, Options, Raft};
use forebay_kv::Kv;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

pub(crate) struct Group {
    pub(crate) network: Arc<Network>,
    pub(crate) kvs: BTreeMap<u64, Arc<ForgetfulKv>>,
    pub(crate) machines: BTreeMap<u64, Arc<Recorder>>,
    pub(crate) nodes: BTreeMap<u64, Raft<u64>>,
    /// Of every node.
    pub(crate) options: Options,
    dir: TempDir,
}

impl Group {
    /// Three voters.
    pub(crate) fn start(loss: u64) -> Group {
        Group::of(3, loss, u64::MAX)
    }

    /// So many voters, which flush when their journals have grown by `flush_bytes`, and keep as
    /// much.
    pub(crate) fn of(voters: u64, loss: u64, flush_bytes: u64) -> Group {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut group = Group {
            network: Network::losing_one_in(loss),
            kvs: BTreeMap::new(),
            machines: BTreeMap::new(),
            nodes: BTreeMap::new(),
            options: Options {
                id: 0,
                bootstrap: Bootstrap::found(1..=voters),
                dir: dir.path().to_owned(),
                tick: Duration::from_millis(10),
                flush_bytes,
                tail_bytes: flush_bytes,
                max_bytes: flush_bytes.saturating_mul(10),
            },
            dir,
        };
        for id in 1..=voters {
            group.start_node(id);
        }
        group
    }

    pub(crate) fn start_node(&mut self, id: u64) {
        let bootstrap = self.options.bootstrap.clone();
        self.start_as(id, bootstrap).unwrap();
    }

    pub(crate) fn start_as(&mut self, id: u64, bootstrap: Bootstrap) -> Result<(), Fatal> {
        let options = Options {
            id,
            bootstrap,
            dir: self.dir_of(id),
            ..self.options.clone()
        };
        let kv = self.kvs.entry(id).or_default();
        let kv: Arc<dyn Kv> = Arc::<ForgetfulKv>::clone(kv);
        let machine = Arc::clone(self.machines.entry(id).or_default());
        let node = Raft::start(options, kv, machine, self.network.port(id))?;
        self.network.attach(id, node.clone());
        self.nodes.insert(id, node);
        Ok(())
    }

    pub(crate) fn dir_of(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Loses the node's power; its store and state come back without what was not durable.
    pub(crate) async fn crash(&mut self, id: u64) {
        self.network.detach(id);
        self.kvs.insert(id, self.kvs[&id].crash(0));
        self.machines.insert(id, self.machines[&id].crash());
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    /// Proposes at whoever leads among the nodes that run and are not `shunned`, until it is
    /// acknowledged.
    pub(crate) async fn propose(&self, command: &[u8], shunned: Option<u64>) -> u64 {
        let attempt = async {
            loop {
                for (id, node) in &self.nodes {
                    if Some(*id) == shunned || !node.status().is_leader {
                        continue;
                    }
                    let proposal = node.propose(command.to_vec().into());
                    if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), proposal).await
                    {
                        return *id;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), attempt)
            .await
            .expect("nobody leads")
    }

    /// Waits until node `id` has applied what `leader` has.
    pub(crate) async fn catches_up(&self, id: u64, leader: u64) {
        let goal = self.nodes[&leader].status().applied;
        let caught_up = async {
            while self.nodes[&id].status().applied < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), caught_up)
            .await
            .expect("stays behind");
    }

    /// Who leads, as the leader itself sees it.
    pub(crate) async fn leader(&self) -> u64 {
        let found = async {
            loop {
                let leads = |(_, node): &(&u64, &Raft<u64>)| node.status().is_leader;
                if let Some((id, _)) = self.nodes.iter().find(leads) {
                    return *id;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), found)
            .await
            .expect("nobody leads")
    }

    pub(crate) async fn stop(self) {
        for (id, node) in self.nodes {
            self.network.detach(id);
            node.shutdown().await;
        }
    }
}

/// The commands that a node has applied.
pub(crate) fn numbers(machine: &Recorder) -> Vec<Vec<u8>> {
    let mut commands = machine.commands();
    // A proposal whose answer was lost is made again, so commands may be there more than once.
    commands.dedup();
    commands
}

/// xorshift64 (Marsaglia 2003), for what only has to look arbitrary; not 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
