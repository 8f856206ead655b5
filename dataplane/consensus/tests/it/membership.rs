//! Nodes come and go while commands run.

use crate::{
    fixture::{Group, numbers},
    kv::ForgetfulKv,
    machine::Recorder,
};
use forebay_consensus::{Bootstrap, ChangeError, Raft};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

pub(crate) fn address(id: u64) -> bytes::Bytes {
    format!("master-{id}:7000").into()
}

/// Makes a change at whoever leads, until it is made.
pub(crate) async fn change(
    group: &Group,
    what: impl AsyncFn(&Raft<u64>) -> Result<(), ChangeError>,
) {
    let mut last = None;
    let attempt = async {
        loop {
            let leader = group.leader().await;
            let bounded = tokio::time::timeout(Duration::from_secs(2), what(&group.nodes[&leader]));
            match bounded.await {
                Ok(Ok(())) => return,
                Ok(Err(ChangeError::Refused(why))) => panic!("{why}"),
                outcome => last = Some((leader, outcome)),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let made = tokio::time::timeout(Duration::from_mins(1), attempt).await;
    let standing = |(id, node): (&u64, &Raft<u64>)| (*id, node.status(), node.members());
    assert!(
        made.is_ok(),
        "the change is never made: {last:?}; {:?}",
        group.nodes.iter().map(standing).collect::<Vec<_>>()
    );
}

/// A new node with an empty directory becomes a voter.
async fn join(group: &mut Group, id: u64) {
    group.start_as(id, Bootstrap::Join).unwrap();
    change(group, async |raft| raft.add_learner(id, address(id)).await).await;
    change(group, async |raft| raft.promote(id).await).await;
}

fn voters(raft: &Raft<u64>) -> Vec<u64> {
    let members = raft.members().into_iter();
    members.filter(|m| m.voter).map(|m| m.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_grows_to_five_and_shrinks_to_one_while_commands_run() {
    // A snapshot must arrive before the leader has written half of its longest journal, 5 MiB.
    let mut group = Group::of(1, 10, 1 << 20);
    let next = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    for id in 2..=5 {
        // The harness is borrowed by those who propose, so the node is started before.
        group.start_as(id, Bootstrap::Join).unwrap();
    }
    let propose = async {
        while !done.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let mut command = number.to_be_bytes().to_vec();
            command.resize(1000, 0);
            group.propose(&command, None).await;
        }
    };
    let reconfigure = async {
        for id in 2..=5 {
            change(&group, async |raft| raft.add_learner(id, address(id)).await).await;
            change(&group, async |raft| raft.promote(id).await).await;
        }
        // Another leader may not have heard yet of the last change.
        while voters(&group.nodes[&group.leader().await]) != [1, 2, 3, 4, 5] {
            tokio::task::yield_now().await;
        }
        let member = &group.nodes[&group.leader().await].members()[3];
        assert_eq!((member.id, &member.context), (4, &address(4)));
        // Whoever leads stays last; each of the others goes.
        for id in [1, 3, 5, 2] {
            change(&group, async |raft| raft.remove(id).await).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(propose, reconfigure);
    for id in [1, 2, 3, 5] {
        let stopped = group.nodes[&id].stopped();
        let reason = tokio::time::timeout(Duration::from_secs(30), stopped)
            .await
            .unwrap();
        assert!(
            reason.contains(&format!("node {id} was removed from the group")),
            "{reason}"
        );
    }
    assert_eq!(voters(&group.nodes[&4]), [4]);
    // Alone, it needs nobody.
    for id in [1, 2, 3, 5] {
        group.network.isolate(id);
    }
    group.propose(b"the last", None).await;
    let commands = numbers(&group.machines[&4]);
    let expected = next.load(Ordering::Relaxed);
    assert_eq!(commands.len() as u64, expected + 1);
    for (command, number) in commands.iter().zip(0..expected) {
        assert_eq!(command[..8], number.to_be_bytes());
    }
    // It is still alone after a restart, and its journal knows of who left.
    group.crash(4).await;
    group.start_node(4);
    group.propose(b"once more", None).await;
    assert_eq!(voters(&group.nodes[&4]), [4]);
    let refused = group.nodes[&4].add_learner(3, address(3)).await;
    assert!(
        matches!(refused, Err(ChangeError::Refused(_))),
        "{refused:?}"
    );
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_knows_the_members_and_their_addresses_also_after_a_restart() {
    let mut group = Group::of(3, 0, u64::MAX);
    join(&mut group, 7).await;
    let leader = group.propose(b"a", None).await;
    for id in [1, 2, 3, 7] {
        group.catches_up(id, leader).await;
        group.crash(id).await;
        group.start_as(id, Bootstrap::Join).unwrap();
        let members = group.nodes[&id].members();
        let known: Vec<_> = members.iter().map(|m| (m.id, m.voter)).collect();
        assert_eq!(known, [(1, true), (2, true), (3, true), (7, true)]);
        assert_eq!(members[3].context, address(7));
        group.propose(b"b", None).await;
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_to_join_neither_votes_nor_leads() {
    let mut group = Group::of(3, 0, u64::MAX);
    let leader = group.propose(b"a", None).await;
    group.start_as(4, Bootstrap::Join).unwrap();
    let refused = group.nodes[&leader].promote(4).await;
    assert!(
        matches!(refused, Err(ChangeError::Refused(_))),
        "{refused:?}"
    );
    assert!(group.nodes[&4].members().is_empty());
    assert!(group.nodes[&4].read_barrier().await.is_err());
    // A learner does not count: with two of three voters gone, nothing is committed.
    group.nodes[&leader]
        .add_learner(4, address(4))
        .await
        .unwrap();
    group.propose(b"b", None).await;
    group.catches_up(4, leader).await;
    group.nodes[&4].read_barrier().await.unwrap();
    for id in (1..=3).filter(|id| *id != leader) {
        group.network.isolate(id);
    }
    let lost = group.nodes[&leader].propose(b"c".as_slice().into()).await;
    assert!(lost.is_err());
    assert!(!group.nodes[&4].status().is_leader);
    for id in 1..=3 {
        group.network.rejoin(id);
    }
    group.propose(b"d", None).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_far_behind_is_not_promoted() {
    let mut group = Group::of(1, 0, u64::MAX);
    group.propose(b"a", None).await;
    let leader = &group.nodes[&1];
    leader.add_learner(2, address(2)).await.unwrap();
    // It is so already.
    leader.add_learner(2, address(2)).await.unwrap();
    let refused = leader.promote(2).await;
    assert!(
        matches!(refused, Err(ChangeError::NotYet(_))),
        "{refused:?}"
    );
    for (refused, why) in [
        (leader.remove(1).await, "the only voter"),
        (leader.remove(9).await, "no member"),
        (leader.add_learner(0, address(0)).await, "no id"),
        (leader.add_learner(2, address(3)).await, "another context"),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    group.start_as(2, Bootstrap::Join).unwrap();
    change(&group, async |raft| raft.promote(2).await).await;
    group.propose(b"b", None).await;
    group.catches_up(2, 1).await;
    assert_eq!(numbers(&group.machines[&2]), [b"a", b"b"]);
    group.stop().await;
}

/// The disk of a voter was emptied: it has forgotten what it voted and promised. It comes back
/// under another id, and the old one is gone for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_whose_disk_was_emptied_comes_back_under_a_new_id() {
    let mut group = Group::of(3, 0, 50 << 10);
    let leader = group.propose(b"a", None).await;
    for number in 0..300u32 {
        let mut command = number.to_be_bytes().to_vec();
        command.resize(1000, 0);
        group.propose(&command, None).await;
    }
    let lost = leader % 3 + 1;
    group.crash(lost).await;
    group.kvs.insert(lost, ForgetfulKv::new());
    group.machines.insert(lost, Recorder::new());
    std::fs::remove_dir_all(group.dir_of(lost)).ok();

    // Under its old id it is found out.
    group.start_as(lost, Bootstrap::Join).unwrap();
    let stopped = group.nodes[&lost].stopped();
    let reason = tokio::time::timeout(Duration::from_secs(30), stopped)
        .await
        .unwrap();
    assert!(reason.contains("its disk lost data"), "{reason}");
    group.crash(lost).await;
    group.kvs.remove(&lost);
    group.machines.remove(&lost);

    change(&group, async |raft| raft.remove(lost).await).await;
    join(&mut group, 4).await;
    let leader = group.propose(b"z", None).await;
    group.catches_up(4, leader).await;
    assert_eq!(numbers(&group.machines[&4]).len(), 302);
    let expected: Vec<_> = (1..=4).filter(|id| *id != lost).collect();
    assert_eq!(voters(&group.nodes[&4]), expected);
    // The new one counts.
    let third = (1..=3).find(|id| *id != lost && *id != leader).unwrap();
    group.crash(third).await;
    group.propose(b"without the third", None).await;

    // Whoever comes under the old id hears that it is out.
    group.start_as(lost, Bootstrap::found(1..=3)).unwrap();
    let stopped = group.nodes[&lost].stopped();
    let reason = tokio::time::timeout(Duration::from_secs(30), stopped)
        .await
        .unwrap();
    assert!(reason.contains("was removed from the group"), "{reason}");
    group.stop().await;
}
