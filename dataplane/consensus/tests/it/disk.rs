//! A journal on a real disk whose bytes are damaged.

use crate::{durability::options, machine::Recorder, network::NoNetwork};
use forebay_consensus::Raft;
use forebay_kv_rocksdb::{Options, RocksKv};
use std::{fs, path::Path, sync::Arc};
use tempfile::TempDir;

const COMMANDS: u64 = 200;

/// The journal of a lone voter with so many acknowledged commands, as the loss of power leaves it,
/// its log changed.
async fn journal(change: impl Fn(&mut Vec<u8>)) -> TempDir {
    let running = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let raft = start(running.path(), &Recorder::new()).unwrap();
    for number in 0..COMMANDS {
        raft.propose(number.to_be_bytes().to_vec().into())
            .await
            .unwrap();
    }
    let copy = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for file in fs::read_dir(running.path()).unwrap() {
        let file = file.unwrap();
        let mut bytes = fs::read(file.path()).unwrap();
        if file.path().extension().is_some_and(|e| e == "log") {
            assert!(bytes.len() as u64 > COMMANDS * 8);
            change(&mut bytes);
        }
        fs::write(copy.path().join(file.file_name()), bytes).unwrap();
    }
    raft.shutdown().await;
    copy
}

fn start(dir: &Path, machine: &Arc<Recorder>) -> Result<Raft<u64>, String> {
    let kv =
        RocksKv::open(dir, &Options::default()).map_err(|e| forebay_types::error::chain(&e))?;
    let network = Arc::new(NoNetwork);
    Raft::start(options(u64::MAX), kv, Arc::clone(machine), network).map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_being_written_when_power_was_lost_is_dropped() {
    let dir = journal(|log| log.truncate(log.len() - 5)).await;
    let machine = Recorder::new();
    let raft = start(dir.path(), &machine).unwrap();
    raft.read_barrier().await.unwrap();
    let applied = machine.commands().len() as u64;
    assert_eq!(applied, COMMANDS - 1);
    raft.propose(b"goes on".as_slice().into()).await.unwrap();
    raft.shutdown().await;
}

/// Also the last command was acknowledged, so its damage is no torn end.
#[tokio::test(flavor = "multi_thread")]
async fn damage_to_what_was_acknowledged_keeps_the_node_from_starting() {
    for from_end in [3, 3000] {
        let dir = journal(|log| {
            let place = log.len() - from_end;
            log[place] ^= 0xff;
        })
        .await;
        let refused = start(dir.path(), &Recorder::new()).err().unwrap();
        let place = dir.path().to_str().unwrap();
        assert!(refused.contains(place), "{refused}");
        assert!(refused.contains(".log; "), "{refused}");
        assert!(refused.contains("put back a copy of it"), "{refused}");
    }
}
