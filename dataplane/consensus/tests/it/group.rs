//! Three nodes over a network that loses every tenth message.

use crate::{
    fixture::{Group, numbers},
    kv::Fault,
};
use forebay_consensus::{Bootstrap, ChangeError, ProposeError};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

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
    group.nodes[&follower].read_barrier().await.unwrap();
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

/// Whatever was acknowledged anywhere before a barrier began, the node of the barrier has applied
/// after it; also while messages are lost and the leader changes.
#[tokio::test(flavor = "multi_thread")]
async fn reads_on_every_node_are_linearizable() {
    let group = Group::start(10);
    let acknowledged = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let reads = [const { AtomicU64::new(0) }; 3];
    let writer = async {
        // On a busy machine few reads come to their end between two commands.
        let enough = || reads.iter().all(|reads| reads.load(Ordering::SeqCst) > 10);
        let mut number = 0_u64;
        while number < 200 || !enough() {
            group.propose(&number.to_be_bytes(), None).await;
            acknowledged.store(number + 1, Ordering::SeqCst);
            if number % 50 == 25 {
                // Whether it works does not matter here, only that it is tried.
                let to = number / 50 % 3 + 1;
                let leader = group.leader().await;
                let _ = group.nodes[&leader].transfer(to).await;
            }
            number += 1;
        }
        done.store(true, Ordering::SeqCst);
    };
    let reader = async |id: u64| {
        while !done.load(Ordering::SeqCst) {
            let before = acknowledged.load(Ordering::SeqCst);
            if group.nodes[&id].read_barrier().await.is_ok() {
                let there = numbers(&group.machines[&id]).len() as u64;
                assert!(there >= before, "node {id}: {there} of {before}");
                reads[id as usize - 1].fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let all = async { tokio::join!(writer, reader(1), reader(2), reader(3)) };
    tokio::time::timeout(Duration::from_mins(2), all)
        .await
        .expect("reads do not come to their end");
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_of_a_follower_that_is_cut_off_fails_in_bounded_time() {
    let group = Group::start(0);
    let leader = group.propose(b"a", None).await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    group.nodes[&follower].read_barrier().await.unwrap();
    group.network.isolate(follower);
    let barrier = group.nodes[&follower].read_barrier();
    let refused = tokio::time::timeout(Duration::from_secs(30), barrier).await;
    assert!(
        matches!(refused, Ok(Err(ProposeError::NotLeader { .. }))),
        "{refused:?}"
    );
    // It heals by itself.
    group.network.rejoin(follower);
    let healed = async { while group.nodes[&follower].read_barrier().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), healed)
        .await
        .unwrap();
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_handed_over_without_an_election_timeout() {
    let group = Group::start(0);
    let leader = group.propose(b"a", None).await;
    let term = group.nodes[&leader].status().term;
    let to = leader % 3 + 1;
    group.nodes[&leader].transfer(to).await.unwrap();
    assert_eq!(group.leader().await, to);
    assert_eq!(group.propose(b"b", None).await, to);
    assert_eq!(group.nodes[&to].status().term, term + 1);
    let refused = group.nodes[&to].transfer(9).await;
    assert!(
        matches!(refused, Err(ChangeError::Refused(_))),
        "{refused:?}"
    );
    let refused = group.nodes[&leader].transfer(leader).await;
    assert!(
        matches!(refused, Err(ChangeError::NotLeader { leader: Some(l) }) if l == to),
        "{refused:?}"
    );
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_shuts_down_hands_over_first() {
    let mut group = Group::start(0);
    for round in 0..5u64 {
        let leader = group.propose(&[round as u8], None).await;
        let term = group.nodes[&leader].status().term;
        group.nodes[&leader].shutdown().await;
        // The next one leads already, in the very next term: nobody had to time out.
        let next = group.leader().await;
        assert_ne!(next, leader);
        assert_eq!(group.nodes[&next].status().term, term + 1);
        group.network.detach(leader);
        group.nodes.remove(&leader);
        group.start_node(leader);
        group.nodes[&leader].read_barrier().await.unwrap();
    }
    group.stop().await;
}

/// The disk of the leader is full: another one leads, and commands go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_full_disk_hands_over_to_one_whose_disk_is_fine() {
    let group = Group::start(0);
    let leader = group.propose(b"a", None).await;
    group.kvs[&leader].set_fault(Some(Fault::NoSpace));
    // Its own write finds out.
    let _ = group.nodes[&leader].propose(b"b".as_slice().into()).await;
    let next = group.propose(b"c", Some(leader)).await;
    assert_ne!(next, leader);
    group.kvs[&leader].set_fault(None);
    group.catches_up(leader, next).await;
    group.stop().await;
}

/// The same where the state has no space: what it cannot apply, the next leader has.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_state_has_no_space_hands_over() {
    let group = Group::start(0);
    let leader = group.propose(b"a", None).await;
    *group.machines[&leader].full.lock() = true;
    let refused = group.nodes[&leader].propose(b"b".as_slice().into()).await;
    assert!(refused.is_err(), "{refused:?}");
    let next = group.propose(b"c", Some(leader)).await;
    assert_ne!(next, leader);
    let read = group.nodes[&leader].read_barrier().await;
    assert!(matches!(read, Err(ProposeError::NoSpace)), "{read:?}");
    *group.machines[&leader].full.lock() = false;
    group.catches_up(leader, next).await;
    group.nodes[&leader].read_barrier().await.unwrap();
    group.stop().await;
}

/// The leader's state machine stands still: the group goes on without noticing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_state_machine_costs_nobody_the_leadership() {
    let mut group = Group::of(0, 0, u64::MAX);
    // Large messages of a debug build on a busy machine are slow themselves.
    group.options.tick = Duration::from_millis(100);
    group.options.bootstrap = Bootstrap::found(1..=3);
    for id in 1..=3 {
        group.start_node(id);
    }
    let leader = group.propose(b"a", None).await;
    let before = group.nodes[&leader].status();
    group.machines[&leader].stall(true);
    // More than may be on its way to apply.
    let proposals = (0..20u8).map(|n| group.nodes[&leader].propose(vec![n; 1 << 20].into()));
    let proposals = futures::future::join_all(proposals);
    // Committed and applied by the others, and read by them, all through this leader.
    let others = async {
        for id in (1..=3).filter(|id| *id != leader) {
            while group.nodes[&id].status().applied < before.applied + 20 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            group.nodes[&id].read_barrier().await.unwrap();
        }
        let status = group.nodes[&leader].status();
        assert_eq!((status.is_leader, status.term), (true, before.term));
        assert!(status.applied < before.applied + 20);
        group.machines[&leader].stall(false);
    };
    let others = tokio::time::timeout(Duration::from_mins(1), others);
    let (outcomes, others) = tokio::join!(proposals, others);
    others.expect("the group stands still");
    assert!(outcomes.iter().all(Result::is_ok));
    group.stop().await;
}
