//! One process of peers: told what to do by lines on standard input, says where it stands by lines on
//! standard output.

use super::peer::{Seen, SimulatedWorker, client};
use anyhow::Context;
use forebay_service::{Shutdown, limits::raise_open_files};
use forebay_types::Addresses;
use rustix::process::nice;
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write, stdin, stdout},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{sync::mpsc, time::interval};

/// How often it says where it stands.
const SAY: Duration = Duration::from_millis(200);

/// The peers of one process.
#[derive(Clone, Debug)]
pub struct Share {
    /// Where the masters are.
    pub masters: Addresses,
    /// Number of the first worker.
    pub first: u64,
    /// Workers.
    pub workers: u64,
    /// Clients.
    pub clients: u64,
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// All peers begin.
    Begin,
    /// From now on those workers count as informed that know of so many.
    Expect(u64),
    /// So many workers die.
    Die(u64),
}

/// Where it stands.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) registrations: u64,
    /// How many workers were expected …
    pub(super) expected: u64,
    /// … and how many living ones know of so many.
    pub(super) informed: u64,
    /// Clients that have a session and a `Watch` stream.
    pub(super) clients: u64,
    pub(super) calls: u64,
    pub(super) errors: u64,
}

/// Runs the peers until standard input ends.
pub fn part(share: Share) -> anyhow::Result<()> {
    // Fails only where a lower priority is forbidden.
    let _ = nice(2);
    raise_open_files();
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(obey(share));
    runtime.shutdown_background();
    ended
}

async fn obey(share: Share) -> anyhow::Result<()> {
    let seen = Arc::new(Seen::default());
    let (ordered, mut orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            // Nobody obeys any more: the process ends.
            let _ = ordered.send(line);
        }
    });
    let mut workers: Vec<(Shutdown, Arc<AtomicU64>)> = Vec::new();
    let mut expected = 0;
    let mut say = interval(SAY);
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { return Ok(()) };
                match serde_json::from_str(&order).context("an order that nobody gives")? {
                    Order::Begin => workers = begin(&share, &seen),
                    Order::Expect(count) => expected = count,
                    Order::Die(count) => {
                        let dying = workers.len().min(count as usize);
                        workers.drain(..dying).for_each(|(shutdown, _)| shutdown.begin());
                    }
                }
            }
            _ = say.tick() => {
                let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let informed = workers.iter().filter(|(_, knows)| get(knows) == expected);
                let standing = Standing {
                    expected,
                    registrations: get(&seen.registrations),
                    informed: informed.count() as u64,
                    clients: get(&seen.clients),
                    calls: get(&seen.calls),
                    errors: get(&seen.errors),
                };
                let line = serde_json::to_string(&standing)?;
                writeln!(stdout(), "{line}")?;
            }
        }
    }
}

fn begin(share: &Share, seen: &Arc<Seen>) -> Vec<(Shutdown, Arc<AtomicU64>)> {
    for id in 0..share.clients {
        let (masters, seen) = (share.masters.clone(), seen.clone());
        tokio::spawn(client(id, masters, seen, Shutdown::new()));
    }
    let worker = |id| {
        let (shutdown, knows) = (Shutdown::new(), Arc::new(AtomicU64::new(0)));
        let node = SimulatedWorker::new(id, seen.clone(), knows.clone());
        let (masters, until, seen) = (share.masters.clone(), shutdown.clone(), seen.clone());
        tokio::spawn(async move {
            if let Err(error) = node.run(&masters, &until).await {
                eprintln!("worker {id}: {error:#}");
                seen.errors.fetch_add(1, Ordering::Relaxed);
            }
        });
        (shutdown, knows)
    };
    (share.first..share.first + share.workers)
        .map(worker)
        .collect()
}
