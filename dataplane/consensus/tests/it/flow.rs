//! How proposals flow: together, bounded, and with no more fsyncs than needed.

use crate::{durability::start_with, kv::ForgetfulKv, machine::Recorder};
use bytes::Bytes;
use futures::future::join_all;
use tokio::task::unconstrained;

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_command_costs_one_fsync() {
    let kv = ForgetfulKv::new();
    let raft = start_with(&kv, &Recorder::new(), u64::MAX);
    raft.read_barrier().await.unwrap();
    let before = kv.syncs();
    for _ in 0..20 {
        raft.propose(vec![1].into()).await.unwrap();
    }
    assert_eq!(kv.syncs() - before, 20);
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_wait_for_the_disk_share_one_fsync() {
    let kv = ForgetfulKv::new();
    let raft = start_with(&kv, &Recorder::new(), u64::MAX);
    raft.read_barrier().await.unwrap();
    let before = kv.syncs();
    kv.stall(true);
    let mut proposals = Box::pin(unconstrained(join_all(
        (0..1000).map(|_| raft.propose(vec![1].into())),
    )));
    // All are handed over at their first poll, which tokio would cut short after some.
    assert!(futures::poll!(&mut proposals).is_pending());
    kv.stall(false);
    for (outcome, index) in proposals.await.into_iter().zip(2..) {
        assert_eq!(outcome.unwrap(), index);
    }
    let syncs = kv.syncs() - before;
    assert!(syncs <= 10, "{syncs} fsyncs for 1000 commands");
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_flight_are_bounded_in_bytes() {
    let kv = ForgetfulKv::new();
    let raft = start_with(&kv, &Recorder::new(), u64::MAX);
    kv.stall(true);
    let command = Bytes::from(vec![1; 1 << 20]);
    let mut proposals = Box::pin(unconstrained(join_all(
        (0..100).map(|_| raft.propose(command.clone())),
    )));
    assert!(futures::poll!(&mut proposals).is_pending());
    kv.stall(false);
    assert!(proposals.await.iter().all(Result::is_ok));
    let largest = kv.largest_write();
    assert!(largest <= 65 << 20, "{largest} bytes in one write");
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_waits_for_everything_in_the_journal_of_a_former_life() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::new();
    let raft = start_with(&kv, &machine, u64::MAX);
    let command = Bytes::from(vec![1; 1 << 20]);
    for outcome in join_all((0..50).map(|_| raft.propose(command.clone()))).await {
        outcome.unwrap();
    }
    let (kv, machine) = (kv.crash(0), machine.crash());
    raft.shutdown().await;
    let raft = start_with(&kv, &machine, u64::MAX);
    assert!(raft.status().is_leader);
    raft.read_barrier().await.unwrap();
    assert_eq!(machine.commands().len(), 50);
    raft.shutdown().await;
}
