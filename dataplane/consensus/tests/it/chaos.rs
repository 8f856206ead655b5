//! Everything at once: messages are lost, nodes lose their power or their connection, fall behind
//! the journal, hand over, leave for good and are replaced, while commands run.

use crate::{
    fixture::{Group, Random},
    membership::{address, change},
};
use forebay_consensus::Bootstrap;
use std::collections::BTreeSet;

/// Of five voters this many may be away.
const AWAY: usize = 2;

async fn live_through(seed: u64, rounds: u32) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut group = Group::of(5, 20, 20 << 10);
    let mut members: Vec<u64> = (1..=5).collect();
    let mut newest = 5;
    let mut down = BTreeSet::new();
    let mut isolated = BTreeSet::new();
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let id = members[random.below(5) as usize];
        let may_go = down.len() + isolated.len() < AWAY;
        match random.below(8) {
            0 | 1 if may_go && !isolated.contains(&id) && down.insert(id) => group.crash(id).await,
            2 if may_go && !down.contains(&id) && isolated.insert(id) => group.network.isolate(id),
            3 | 4 => {
                if let Some(id) = down.pop_first() {
                    group.start_node(id);
                }
            }
            5 => {
                if let Some(id) = isolated.pop_first() {
                    group.network.rejoin(id);
                }
            }
            6 if down.is_empty() && isolated.is_empty() => {
                newest += 1;
                group.start_as(newest, Bootstrap::Join).unwrap();
                change(&group, async |raft| raft.remove(id).await).await;
                change(&group, async |raft| {
                    raft.add_learner(newest, address(newest)).await
                })
                .await;
                change(&group, async |raft| raft.promote(newest).await).await;
                group.crash(id).await;
                members.retain(|member| *member != id);
                members.push(newest);
            }
            7 => {
                let leader = group.leader().await;
                let _ = group.nodes[&leader].transfer(id).await;
            }
            _ => {}
        }
        let commands: Vec<_> = (0..30u32)
            .map(|number| {
                let mut command = format!("{round}/{number}/").into_bytes();
                command.resize(1000, b'x');
                command
            })
            .collect();
        let proposals = commands.iter().map(|command| group.propose(command, None));
        futures::future::join_all(proposals).await;
        acknowledged.extend(commands);
    }
    for id in down {
        group.start_node(id);
    }
    for id in isolated {
        group.network.rejoin(id);
    }
    let leader = group.propose(b"the last", None).await;
    let expected = group.machines[&leader].state.lock().commands.clone();
    let there: BTreeSet<_> = expected.values().cloned().collect();
    assert!(acknowledged.is_subset(&there), "seed {seed}: lost commands");
    for id in members {
        group.catches_up(id, leader).await;
        let mut commands = group.machines[&id].state.lock().commands.clone();
        let last = expected.keys().last().unwrap();
        commands.retain(|index, _| index <= last);
        assert!(commands == expected, "seed {seed}: node {id} differs");
    }
    let checkpoints: u64 = group.machines.values().map(|m| *m.checkpoints.lock()).sum();
    println!("{newest} nodes, {checkpoints} checkpoints");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_whatever_happens() {
    live_through(1, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand after changes of snapshots or membership"]
async fn nothing_is_lost_for_long() {
    for seed in 2..22 {
        live_through(seed, 100).await;
    }
}
