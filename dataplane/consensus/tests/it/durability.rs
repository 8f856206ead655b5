//! What was acknowledged survives.

use crate::{kv::ForgetfulKv, machine::Recorder, network::NoNetwork};
use forebay_consensus::{Bootstrap, Options, Raft};
use forebay_kv::Kv;
use parking_lot::Mutex;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tokio::{sync::Notify, task::JoinSet};

/// Of a lone voter, whose directory stays empty.
pub(crate) fn options(flush_bytes: u64) -> Options {
    Options {
        id: 1,
        bootstrap: Bootstrap::found([1]),
        dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join("lone"),
        tick: Duration::from_millis(20),
        flush_bytes,
        tail_bytes: 0,
        max_bytes: u64::MAX,
    }
}

pub(crate) fn start_with(
    kv: &Arc<ForgetfulKv>,
    machine: &Arc<Recorder>,
    flush_bytes: u64,
) -> Raft<u64> {
    let kv: Arc<dyn Kv> = Arc::<ForgetfulKv>::clone(kv);
    Raft::start(
        options(flush_bytes),
        kv,
        Arc::clone(machine),
        Arc::new(NoNetwork),
    )
    .unwrap()
}

/// Power is lost at arbitrary moments under eight proposers, thirty times. Every acknowledged
/// command is there afterwards, at its index; none is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_command_survives_the_loss_of_power() {
    let mut kv = ForgetfulKv::new();
    let mut machine = Recorder::new();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for round in 0..30u64 {
        let raft = start_with(&kv, &machine, 4096);
        let enough = Arc::new(Notify::new());
        let target = acknowledged.lock().len() + 5 + (round as usize * 37) % 90;
        let mut proposers = JoinSet::new();
        for proposer in 0..8 {
            let (raft, acknowledged, enough) =
                (raft.clone(), Arc::clone(&acknowledged), Arc::clone(&enough));
            proposers.spawn(async move {
                for number in 0.. {
                    let command = format!("{round}/{proposer}/{number}/{}", "x".repeat(60));
                    let Ok(index) = raft.propose(command.clone().into()).await else {
                        return;
                    };
                    let mut acknowledged = acknowledged.lock();
                    acknowledged.insert((index, command.into_bytes()));
                    if acknowledged.len() >= target {
                        enough.notify_one();
                    }
                }
            });
        }
        enough.notified().await;
        kv = kv.crash(round as usize % 3);
        machine = machine.crash();
        proposers.join_all().await;
        raft.shutdown().await;

        let raft = start_with(&kv, &machine, 4096);
        raft.read_barrier().await.unwrap();
        let commands = machine.state.lock().commands.clone();
        for (index, command) in &*acknowledged.lock() {
            assert_eq!(
                commands.get(index),
                Some(command),
                "round {round}, index {index}"
            );
        }
        let distinct: BTreeSet<_> = commands.values().collect();
        assert_eq!(distinct.len(), commands.len(), "round {round}");
        raft.shutdown().await;
    }
    assert!(kv.entries().len() < 1000, "the journal was never cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_that_lost_everything_unflushed_gets_it_again_in_order() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::new();
    let raft = start_with(&kv, &machine, u64::MAX);
    for number in 0..50u8 {
        raft.propose(vec![number].into()).await.unwrap();
    }
    let (kv, machine) = (kv.crash(0), machine.crash());
    raft.shutdown().await;
    assert!(machine.commands().is_empty());
    let raft = start_with(&kv, &machine, u64::MAX);
    raft.read_barrier().await.unwrap();
    // The recorder itself refuses gaps and repetitions.
    assert_eq!(
        machine.commands(),
        (0..50).map(|n| vec![n]).collect::<Vec<_>>()
    );
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_cut_exactly_up_to_what_was_flushed() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::new();
    let raft = start_with(&kv, &machine, 10_000);
    for _ in 0..200 {
        raft.propose(vec![7; 100].into()).await.unwrap();
        let flushed = machine.flushed.lock().applied;
        let first = kv.entries().first().copied();
        // Flushing may have gone on since then, so only one direction can be checked here.
        assert!(first.is_none_or(|first| first <= machine.flushed.lock().applied + 1));
        assert!(flushed <= machine.state.lock().applied);
    }
    assert!(
        machine.flushed.lock().applied > 0,
        "never flushed while running"
    );
    raft.shutdown().await;
    assert_eq!(machine.flushed.lock().applied, 201);
    assert_eq!(kv.entries(), [] as [u64; 0]);
    // A restart finds nothing to do again and goes on at the next index.
    let machine = machine.crash();
    let raft = start_with(&kv, &machine, 10_000);
    assert_eq!(raft.propose(vec![1].into()).await.unwrap(), 203);
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_is_in_flight_and_lets_everything_go() {
    let kv = ForgetfulKv::new();
    let machine = Recorder::new();
    let raft = start_with(&kv, &machine, u64::MAX);
    kv.stall(true);
    let mut in_flight = Box::pin(raft.propose(vec![1].into()));
    assert!(futures::poll!(&mut in_flight).is_pending());
    let mut shutdown = Box::pin(raft.shutdown());
    assert!(futures::poll!(&mut shutdown).is_pending());
    kv.stall(false);
    shutdown.await;
    assert_eq!(in_flight.await.unwrap(), 2);
    assert!(
        raft.propose(vec![2].into())
            .await
            .unwrap_err()
            .to_string()
            .contains("shutting down")
    );
    assert!(raft.read_barrier().await.is_err());
    assert!(!raft.status().is_leader);
    assert_eq!(
        (Arc::strong_count(&kv), Arc::strong_count(&machine)),
        (1, 1)
    );
}
