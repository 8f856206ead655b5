//! Snapshots of a state machine on a real disk: RocksDB checkpoints.

use crate::network::Network;
use forebay_consensus::{Bootstrap, Fatal, Options, Raft, StateMachine};
use forebay_kv::{Batch, Durability, Kv, MemKv, Read};
use forebay_kv_rocksdb::RocksKv;
use parking_lot::RwLock;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const APPLIED: &[u8] = b"applied";

/// Commands by index, in a database whose log is the journal.
struct Table {
    dir: PathBuf,
    /// None only while another database takes its place.
    kv: RwLock<Option<Arc<RocksKv>>>,
}

fn fatal(error: forebay_kv::Error) -> Fatal {
    Fatal::caused("the table failed", error)
}

fn applied_in(kv: &dyn Read) -> u64 {
    let bytes = kv.get(APPLIED).unwrap();
    bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
}

impl Table {
    fn open(dir: PathBuf) -> Arc<Table> {
        let kv = RwLock::new(Some(open(&dir)));
        Arc::new(Table { dir, kv })
    }

    fn kv(&self) -> Arc<RocksKv> {
        Arc::clone(self.kv.read().as_ref().unwrap())
    }

    fn put(&self, index: u64, command: Option<&[u8]>) -> Result<u64, Fatal> {
        let mut batch = Batch::default();
        batch.put(APPLIED, index.to_be_bytes());
        if let Some(command) = command {
            batch.put(index.to_be_bytes(), command);
        }
        let kv = self.kv();
        assert_eq!(applied_in(&*kv) + 1, index);
        kv.write(&batch, Durability::Volatile).map_err(fatal)?;
        Ok(index)
    }

    fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let kv = self.kv();
        kv.scan(b"".as_slice()..&[0xff])
            .map(|r| r.unwrap())
            .collect()
    }
}

fn open(dir: &Path) -> Arc<RocksKv> {
    let options = forebay_kv_rocksdb::Options {
        memory_bytes: 4 << 20,
    };
    RocksKv::open(dir, &options).unwrap()
}

impl StateMachine for Table {
    type Outcome = u64;

    fn applied(&self) -> u64 {
        applied_in(&*self.kv())
    }

    fn apply(&self, index: u64, command: &[u8]) -> Result<u64, Fatal> {
        self.put(index, Some(command))
    }

    fn skip(&self, index: u64) -> Result<(), Fatal> {
        self.put(index, None).map(drop)
    }

    fn flush(&self) -> Result<u64, Fatal> {
        let kv = self.kv();
        let applied = applied_in(&*kv);
        kv.flush().map_err(fatal)?;
        Ok(applied)
    }

    fn checkpoint(&self, dir: &Path) -> Result<u64, Fatal> {
        self.kv().checkpoint(dir).map_err(fatal)?;
        // Which moment that was only the copy knows.
        Ok(applied_in(&*open(dir)))
    }

    fn install(&self, dir: &Path) -> Result<(), Fatal> {
        let mut kv = self.kv.write();
        // Whoever reads or flushes still holds it for a moment.
        let mut closing = kv.take().unwrap();
        while Arc::get_mut(&mut closing).is_none() {
            std::thread::yield_now();
        }
        drop(closing);
        forebay_kv_rocksdb::replace(&self.dir, dir).map_err(fatal)?;
        *kv = Some(open(&self.dir));
        Ok(())
    }
}

struct Node {
    raft: Raft<u64>,
    table: Arc<Table>,
}

fn start(dir: &Path, id: u64, journal: &Arc<MemKv>, network: &Arc<Network>) -> Node {
    let options = Options {
        id,
        bootstrap: Bootstrap::found(1..=3),
        dir: dir.join(format!("{id}-raft")),
        tick: Duration::from_millis(20),
        flush_bytes: 100 << 10,
        tail_bytes: 100 << 10,
        max_bytes: 10 << 20,
    };
    let table = Table::open(dir.join(format!("{id}-table")));
    let journal: Arc<dyn Kv> = Arc::<MemKv>::clone(journal);
    let raft = Raft::start(options, journal, Arc::clone(&table), network.port(id)).unwrap();
    network.attach(id, raft.clone());
    Node { raft, table }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_taken_over_from_a_checkpoint_of_another_nodes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    let network = Network::losing_one_in(0);
    let journals: [Arc<MemKv>; 3] = std::array::from_fn(|_| Arc::new(MemKv::new()));
    let nodes = [1, 2].map(|id| start(dir, id, &journals[id as usize - 1], &network));
    let proposals = async {
        let mut done = 0;
        while done < 600 {
            for node in nodes.iter().filter(|node| node.raft.status().is_leader) {
                let proposals = (0..50).map(|n| node.raft.propose(vec![n; 1000].into()));
                for outcome in futures::future::join_all(proposals).await {
                    done += u32::from(outcome.is_ok());
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), proposals)
        .await
        .unwrap();
    // The third one starts with nothing, when the journal is cut; twice, the second time with what
    // it has.
    for _ in 0..2 {
        let late = start(dir, 3, &journals[2], &network);
        let caught_up = async { while late.raft.read_barrier().await.is_err() {} };
        tokio::time::timeout(Duration::from_mins(1), caught_up)
            .await
            .unwrap();
        assert!(journals[2].get(b"cut").unwrap().is_some());
        assert!(late.table.rows() == nodes[0].table.rows());
        assert!(late.table.rows().len() > 600);
        network.detach(3);
        late.raft.shutdown().await;
    }
    for (node, id) in nodes.into_iter().zip(1..) {
        network.detach(id);
        node.raft.shutdown().await;
    }
}
