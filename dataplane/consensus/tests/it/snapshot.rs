//! Followers that were away while the journal was cut.

use crate::{
    fixture::{Group, numbers},
    machine::InstallFault,
};
use std::{collections::BTreeMap, time::Duration};

/// Bytes after which the journal is flushed, and which it keeps.
const FLUSH_BYTES: u64 = 200 << 10;

/// A group with a follower that is down and so far behind that it needs a snapshot: the group, the
/// leader, the follower.
async fn left_behind() -> (Group, u64, u64) {
    let mut group = Group::of(3, 0, FLUSH_BYTES);
    let leader = group.propose(b"first", None).await;
    let away = leader % 3 + 1;
    group.catches_up(away, leader).await;
    group.crash(away).await;
    fill(&group, 0..1000).await;
    let leader = group.leader().await;
    until("the journal is cut", || {
        group.kvs[&leader].entries()[0] > 100
    })
    .await;
    (group, leader, away)
}

/// Proposes large commands, many at once.
async fn fill(group: &Group, numbers: std::ops::Range<u32>) {
    let leader = group.leader().await;
    let command = |number: u32| {
        let mut command = number.to_be_bytes().to_vec();
        command.resize(1000, 7);
        group.nodes[&leader].propose(command.into())
    };
    for outcome in futures::future::join_all(numbers.map(command)).await {
        outcome.unwrap();
    }
}

/// The node has everything that the leader has.
async fn assert_same(group: &Group, node: u64, leader: u64) {
    group.catches_up(node, leader).await;
    let states = [node, leader].map(|id| group.machines[&id].state.lock().commands.clone());
    assert!(states[0] == states[1], "node {node} differs");
}

/// Waits until `done` says so.
pub(crate) async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_while_the_journal_was_cut_catches_up() {
    let (mut group, leader, away) = left_behind().await;
    group.start_node(away);
    assert_same(&group, away, leader).await;
    // It goes on as any other: commands, reads, restarts.
    fill(&group, 1000..1100).await;
    group.nodes[&away].read_barrier().await.unwrap();
    assert_same(&group, away, leader).await;
    group.crash(away).await;
    group.start_node(away);
    assert_same(&group, away, leader).await;
    // What was fetched is gone.
    let incoming = group.dir_of(away).join("incoming");
    until("the fetched files are removed", || !incoming.exists()).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_followers_share_one_checkpoint() {
    let mut group = Group::of(5, 10, FLUSH_BYTES);
    let leader = group.propose(b"first", None).await;
    let away: Vec<_> = (1..=5).filter(|id| *id != leader).take(2).collect();
    for id in &away {
        group.crash(*id).await;
    }
    fill(&group, 0..1000).await;
    let leader = group.leader().await;
    until("the journal is cut", || {
        group.kvs[&leader].entries()[0] > 100
    })
    .await;
    let term = group.nodes[&leader].status().term;
    for id in &away {
        group.start_node(*id);
    }
    for id in away {
        assert_same(&group, id, leader).await;
    }
    let checkpoints: u64 = group.machines.values().map(|m| *m.checkpoints.lock()).sum();
    // Another leader, where messages are lost, takes its own.
    let reigns = group.nodes[&leader].status().term - term + 1;
    assert!((1..=reigns).contains(&checkpoints), "{checkpoints}");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_snapshot_is_resumed() {
    let (mut group, leader, away) = left_behind().await;
    // Three times the way is cut in the middle of a file; then the node crashes, too.
    group.network.allow(Some(100_000), 7_000);
    group.start_node(away);
    until("bytes of the snapshot come", || fetched(&group) >= 100_000).await;
    group.crash(away).await;
    group.network.allow(Some(200_000), 7_000);
    group.start_node(away);
    until("more bytes come", || fetched(&group) >= 300_000).await;
    group.network.allow(None, 0);
    assert_same(&group, away, leader).await;

    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    let mut bytes = 0;
    for (file, offset, len) in group.network.fetched() {
        let end = sizes.entry(file.clone()).or_default();
        assert_eq!(offset, *end, "{file} is not continued where it ended");
        *end += len;
        bytes += len;
    }
    assert_eq!(bytes, sizes.values().sum::<u64>(), "fetched twice");
    assert!(sizes.len() > 10);
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_did_not_change_are_not_fetched_for_the_next_snapshot() {
    let (mut group, leader, away) = left_behind().await;
    group.network.allow(Some(300_000), 0);
    group.start_node(away);
    until("bytes of the snapshot come", || fetched(&group) >= 300_000).await;
    group.crash(away).await;
    // The leader goes, and its checkpoint with it.
    group.crash(leader).await;
    group.start_node(leader);
    group.propose(b"more", None).await;
    group.network.allow(None, 0);
    group.start_node(away);
    let leader = group.leader().await;
    assert_same(&group, away, leader).await;
    let mut seen = BTreeMap::new();
    for (file, offset, len) in group.network.fetched() {
        *seen.entry((file, offset)).or_default() += len;
    }
    let whole: u64 = seen.values().sum();
    // The last file and the one with the index differ; nothing else comes twice.
    assert!(whole < 1_200_000, "{whole} bytes fetched");
    group.stop().await;
}

/// Bytes of snapshots that were fetched.
fn fetched(group: &Group) -> u64 {
    group.network.fetched().iter().map(|(.., n)| n).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn power_lost_before_a_snapshot_is_in_the_journal_leaves_the_old_state() {
    let (mut group, leader, away) = left_behind().await;
    let old = group.machines[&away].state.lock().commands.clone();
    group.network.allow(Some(900_000), 0);
    group.start_node(away);
    until("most of it is here", || fetched(&group) >= 900_000).await;
    group.kvs[&away].stall(true);
    group.network.allow(None, 0);
    let last = |(file, ..): &(String, u64, u64)| file == "applied";
    until("all of it is here", || {
        group.network.fetched().iter().any(last)
    })
    .await;
    group.crash(away).await;
    assert!(group.machines[&away].state.lock().commands == old);
    let bytes = fetched(&group);
    group.start_node(away);
    assert_same(&group, away, leader).await;
    assert_eq!(fetched(&group), bytes, "whole files are fetched again");
    group.stop().await;
}

/// The journal is that of the snapshot, and the state machine does not have it yet, or has it just
/// now: the state must become so before anything else.
#[tokio::test(flavor = "multi_thread")]
async fn power_lost_during_an_installation_leaves_the_old_state_or_the_new_one() {
    for fault in [InstallFault::Before, InstallFault::After] {
        let (mut group, leader, away) = left_behind().await;
        let old = group.machines[&away].state.lock().commands.clone();
        *group.machines[&away].install_fault.lock() = Some(fault);
        group.start_node(away);
        let reason = group.nodes[&away].stopped().await;
        assert!(reason.contains("power is gone"), "{reason}");
        group.crash(away).await;
        let state = group.machines[&away].state.lock().commands.clone();
        assert_eq!(state == old, fault == InstallFault::Before);
        // It fails again: then the node does not even start.
        *group.machines[&away].install_fault.lock() = Some(fault);
        let bootstrap = group.options.bootstrap.clone();
        let refused = group.start_as(away, bootstrap).err();
        assert_eq!(refused.is_some(), fault == InstallFault::Before);
        if refused.is_some() {
            group.start_node(away);
        }
        assert_same(&group, away, leader).await;
        group.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_stays_bounded_while_a_follower_is_down() {
    let (mut group, leader, away) = left_behind().await;
    for round in 1..6 {
        fill(&group, round * 1000..(round + 1) * 1000).await;
        until("the journal is cut", || {
            let bytes = group.kvs[&leader].entries().len() as u64 * 1000;
            bytes < 3 * FLUSH_BYTES // kept, and grown since the last flush
        })
        .await;
    }
    group.start_node(away);
    assert_same(&group, away, leader).await;
    assert_eq!(numbers(&group.machines[&away]).len(), 6001);
    group.stop().await;
}
