//! Disks that are full or broken, state machines that cannot go on.

use crate::{
    durability::{options, start_with},
    kv::{Fault, ForgetfulKv},
    machine::Recorder,
    network::NoNetwork,
    snapshot::until,
};
use forebay_consensus::{ProposeError, Raft};
use forebay_kv::Kv;
use std::{sync::Arc, time::Duration};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_changes_until_there_is_space_again() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::new();
    let raft = start_with(&kv, &machine, u64::MAX);
    raft.propose(vec![1].into()).await.unwrap();
    kv.set_fault(Some(Fault::NoSpace));
    for number in [2, 3] {
        let refused = raft.propose(vec![number].into()).await;
        assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    }
    // Reading goes on.
    raft.read_barrier().await.unwrap();
    assert!(raft.status().is_leader);
    kv.set_fault(None);
    until_accepted(&raft, 4).await;
    // The one that was being written took effect; the one that came after was refused for good.
    assert_eq!(machine.commands(), [[1], [2], [4]]);
    raft.shutdown().await;
}

/// Proposes `number` until it is taken.
async fn until_accepted(raft: &Raft<u64>, number: u8) {
    let accepted = async {
        while raft.propose(vec![number].into()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), accepted)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_hang_on_a_full_disk() {
    let kv = ForgetfulKv::new();
    let raft = start_with(&kv, &Recorder::new(), u64::MAX);
    raft.propose(vec![1].into()).await.unwrap();
    kv.set_fault(Some(Fault::NoSpace));
    raft.propose(vec![2].into()).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(20), raft.shutdown())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_state_refuses_changes_until_there_is_space_again() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::new();
    let raft = start_with(&kv, &machine, u64::MAX);
    raft.propose(vec![1].into()).await.unwrap();
    *machine.full.lock() = true;
    let refused = raft.propose(vec![2].into()).await;
    assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    until("the full disk is told", || raft.status().disk_full).await;
    let refused = raft.propose(vec![3].into()).await;
    assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    // Reading goes on.
    raft.read_barrier().await.unwrap();
    *machine.full.lock() = false;
    until_accepted(&raft, 4).await;
    until("the disk has space", || !raft.status().disk_full).await;
    // The one that was being applied took effect; the one that came after was refused for good.
    assert_eq!(machine.commands(), [[1], [2], [4]]);
    *machine.full.lock() = true;
    raft.propose(vec![5].into()).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(20), raft.shutdown())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_journal_stops_the_node_with_the_reason() {
    let kv = ForgetfulKv::new();
    let raft = start_with(&kv, &Recorder::new(), u64::MAX);
    raft.propose(vec![1].into()).await.unwrap();
    kv.set_fault(Some(Fault::Corrupt));
    let error = raft.propose(vec![2].into()).await.unwrap_err();
    let reason = raft.stopped().await;
    assert_eq!(
        reason,
        "cannot write the journal: key-value store is corrupt: the test says so"
    );
    assert!(error.to_string().contains(&reason), "{error}");
    let later = raft.propose(vec![3].into()).await.unwrap_err();
    assert!(
        matches!(&later, ProposeError::Closed(why) if *why == reason),
        "{later}"
    );
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_applied_stops_the_node_with_the_reason() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::with_poison(b"poison");
    let raft = start_with(&kv, &machine, u64::MAX);
    raft.propose(b"good".as_slice().into()).await.unwrap();
    raft.propose(b"poison".as_slice().into()).await.unwrap_err();
    assert_eq!(
        raft.stopped().await,
        "cannot apply the command: the test says so"
    );
    raft.shutdown().await;
    assert_eq!(machine.commands(), [b"good"]);
}

#[tokio::test]
async fn a_state_machine_of_another_journal_is_refused_at_start() {
    let machine = Recorder::new();
    machine.state.lock().applied = 7;
    let kv: Arc<dyn Kv> = ForgetfulKv::new();
    let refused = Raft::start(options(u64::MAX), kv, machine, Arc::new(NoNetwork));
    let message = refused.err().unwrap().to_string();
    assert!(
        message.contains("applied up to 7, but the journal holds 1..=0"),
        "{message}"
    );
}
