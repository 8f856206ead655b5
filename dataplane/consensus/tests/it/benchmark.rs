//! How many commands per second one voter commits on a real disk.

#![expect(clippy::disallowed_methods, reason = "measures")]

use crate::{durability::options, machine::Recorder, network::NoNetwork};
use bytes::Bytes;
use forebay_consensus::Raft;
use forebay_kv::{Batch, Durability, Kv, Read, Result, Scan};
use forebay_kv_rocksdb::{Options, RocksKv};
use parking_lot::Mutex;
use std::{
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Notes how long each synced write took. A shared disk changes its speed twentyfold from one
/// second to the next, so a rate says nothing without the writes of the very same run.
struct Timed {
    kv: Arc<RocksKv>,
    writes: Mutex<Vec<Duration>>,
}

impl Read for Timed {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.kv.get(key)
    }

    fn scan(&self, range: Range<&[u8]>) -> Scan<'_> {
        self.kv.scan(range)
    }
}

impl Kv for Timed {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<()> {
        let begun = Instant::now();
        self.kv.write(batch, durability)?;
        if durability == Durability::Synced {
            self.writes.lock().push(begun.elapsed());
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        self.kv.snapshot()
    }

    fn flush(&self) -> Result<()> {
        self.kv.flush()
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        self.kv.checkpoint(dir)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; run with --nocapture on an idle machine"]
async fn proposals_per_second() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("waiting  commands/s  fsyncs  median fsync  of the time in fsync  rest per fsync");
    for round in 0..5 {
        for (waiting, each) in [(1u32, 300u32), (32, 100), (128, 100)] {
            let dir = dir.path().join(format!("{round}-{waiting}"));
            let timed = Arc::new(Timed {
                kv: RocksKv::open(&dir, &Options::default()).unwrap(),
                writes: Mutex::default(),
            });
            let kv: Arc<dyn Kv> = Arc::<Timed>::clone(&timed);
            let (machine, network) = (Recorder::new(), Arc::new(NoNetwork));
            let raft = Raft::start(options(64 << 20), kv, machine, network).unwrap();
            raft.read_barrier().await.unwrap();
            timed.writes.lock().clear();

            let begun = Instant::now();
            let mut proposers = JoinSet::new();
            for _ in 0..waiting {
                let raft = raft.clone();
                proposers.spawn(async move {
                    for _ in 0..each {
                        raft.propose(Bytes::from(vec![1; 200])).await.unwrap();
                    }
                });
            }
            proposers.join_all().await;
            let took = begun.elapsed();
            raft.shutdown().await;

            let mut writes = timed.writes.lock().clone();
            writes.sort();
            let in_fsync: Duration = writes.iter().sum();
            println!(
                "{waiting:7} {:11.0} {:7} {:>13?} {:20.0}% {:>15?}",
                f64::from(waiting * each) / took.as_secs_f64(),
                writes.len(),
                writes[writes.len() / 2],
                100.0 * in_fsync.as_secs_f64() / took.as_secs_f64(),
                took.saturating_sub(in_fsync) / writes.len() as u32,
            );
        }
    }
}
