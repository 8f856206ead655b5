//! Three nodes over a network that loses every tenth message.

use crate::{kv::ForgetfulKv, machine::Recorder, network::Network};
use forebay_consensus::{Options, ProposeError, Raft};
use forebay_kv::Kv;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

struct Group {
    network: Arc<Network>,
    kvs: BTreeMap<u64, Arc<ForgetfulKv>>,
    machines: BTreeMap<u64, Arc<Recorder>>,
    nodes: BTreeMap<u64, Raft<u64>>,
}

impl Group {
    fn start(loss: u64) -> Group {
        let mut group = Group {
            network: Network::losing_one_in(loss),
            kvs: (1..=3).map(|id| (id, ForgetfulKv::new())).collect(),
            machines: (1..=3).map(|id| (id, Recorder::new())).collect(),
            nodes: BTreeMap::new(),
        };
        for id in 1..=3 {
            group.start_node(id);
        }
        group
    }

    fn start_node(&mut self, id: u64) {
        let options = Options {
            id,
            voters: vec![1, 2, 3],
            tick: Duration::from_millis(10),
            flush_bytes: u64::MAX,
        };
        let kv: Arc<dyn Kv> = Arc::<ForgetfulKv>::clone(&self.kvs[&id]);
        let machine = Arc::clone(&self.machines[&id]);
        let node = Raft::start(options, kv, machine, self.network.port(id)).unwrap();
        self.network.attach(id, node.clone());
        self.nodes.insert(id, node);
    }

    /// Loses the node's power; its store and state come back without what was not durable.
    async fn crash(&mut self, id: u64) {
        self.network.detach(id);
        self.kvs.insert(id, self.kvs[&id].crash(0));
        self.machines.insert(id, self.machines[&id].crash());
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    /// Proposes at whoever leads among the nodes that run and are not `shunned`, until it is
    /// acknowledged.
    async fn propose(&self, command: &[u8], shunned: Option<u64>) -> u64 {
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
    async fn catches_up(&self, id: u64, leader: u64) {
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

    async fn stop(self) {
        for (id, node) in self.nodes {
            self.network.detach(id);
            node.shutdown().await;
        }
    }
}

fn numbers(machine: &Recorder) -> Vec<Vec<u8>> {
    let mut commands = machine.commands();
    // A proposal whose answer was lost is made again, so commands may be there more than once.
    commands.dedup();
    commands
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_elect_replicate_and_outlive_their_leader() {
    let mut group = Group::start(10);
    for number in 0..20 {
        group.propose(&[number], None).await;
    }
    let first = group.propose(&[20], None).await;
    group.crash(first).await;
    for number in 21..40 {
        group.propose(&[number], None).await;
    }
    let second = group.propose(&[40], None).await;
    assert_ne!(first, second);
    group.start_node(first);
    group.catches_up(first, second).await;
    for id in 1..=3 {
        group.catches_up(id, second).await;
        let expected: Vec<_> = (0..=40).map(|n| vec![n]).collect();
        assert_eq!(numbers(&group.machines[&id]), expected, "node {id}");
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_and_a_barrier_needs_the_majority() {
    let group = Group::start(0);
    let leader = group.propose(b"a", None).await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    group.catches_up(follower, leader).await;
    let refused = group.nodes[&follower].propose(b"b".as_slice().into()).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { leader: Some(l) }) if l == leader),
        "{refused:?}"
    );
    assert!(matches!(
        group.nodes[&follower].read_barrier().await,
        Err(ProposeError::NotLeader { .. })
    ));
    group.nodes[&leader].read_barrier().await.unwrap();

    group.network.isolate(leader);
    // It may still think that it leads; it must not promise a fresh read.
    let stale = group.nodes[&leader].read_barrier().await;
    assert!(
        matches!(stale, Err(ProposeError::NotLeader { .. })),
        "{stale:?}"
    );
    let next = group.propose(b"c", Some(leader)).await;
    assert_ne!(next, leader);
    group.network.rejoin(leader);
    group.catches_up(leader, next).await;
    assert_eq!(numbers(&group.machines[&leader]), [b"a", b"c"]);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_cut_off_from_the_majority_fails_with_unknown_outcome() {
    let group = Group::start(0);
    let leader = group.propose(b"a", None).await;
    group.network.isolate(leader);
    let lost = group.nodes[&leader]
        .propose(b"lost".as_slice().into())
        .await;
    let lost = lost.unwrap_err().to_string();
    assert!(lost.contains("lost the leadership"), "{lost}");
    let next = group.propose(b"b", Some(leader)).await;
    group.network.rejoin(leader);
    group.catches_up(leader, next).await;
    assert_eq!(numbers(&group.machines[&leader]), [b"a", b"b"]);
    group.stop().await;
}
