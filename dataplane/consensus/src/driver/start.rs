//! Opening the journal, and the threads.

use super::{Driver, Parts, shutdown::Stopping};
use crate::{
    Fatal, Options, StateMachine, apply,
    barriers::Barriers,
    changes::Changes,
    checkpoint,
    log::Log,
    node::{Bounds, Node, Position},
    pull::{self, Incoming},
    shared::Event,
    waiting::Waiting,
    writer,
};
use forebay_kv::{Durability, Kv};
use forebay_types::error::chain;
use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{Builder, JoinHandle},
    time::Instant,
};

/// Opens the journal and starts the threads of a node.
pub(crate) fn start<S: StateMachine>(
    options: Options,
    parts: Parts<S>,
    events: Sender<Event<S::Outcome>>,
    queue: Receiver<Event<S::Outcome>>,
) -> Result<(), Fatal> {
    let Options {
        id,
        bootstrap,
        dir,
        tick,
        flush_bytes,
        tail_bytes,
        max_bytes,
    } = options;
    let Parts {
        log: kv,
        machine,
        transport,
        shared,
    } = parts;
    let (outgoing, incoming) = (dir.join("outgoing"), Incoming::under(dir.join("incoming")));
    // Nobody can be fetching from it any more.
    checkpoint::remove(&outgoing);
    let (log, install) = Log::open(Arc::clone(&kv), &bootstrap)?;
    if let Some(manifest) = install {
        finish_install(&*kv, &*machine, &incoming, manifest.index)?;
    }
    let replay_end = log.last();
    let bounds = Bounds {
        tail_bytes,
        max_bytes,
    };
    let applied = machine.applied();
    incoming.discard_old(applied);
    let node = Node::new(id, log, applied, bounds)?;
    shared.applied.send_replace(applied);
    *shared.conf.lock() = node.conf().clone();
    let grown = node.journal_bytes();

    // Bounded by what the node lets out: bytes being proposed, bytes being applied.
    let (jobs, jobs_queue) = mpsc::channel();
    let (work, work_queue) = mpsc::channel();
    let (flush, flush_queue) = mpsc::sync_channel(1);
    let (checkpoints, checkpoints_queue) = mpsc::sync_channel(1);
    let (pulls, pulls_queue) = mpsc::channel();
    let mut threads = Vec::new();
    threads.push(spawn("raft-log", {
        let (shared, events) = (Arc::clone(&shared), events.clone());
        move || writer::run(&*kv, &jobs_queue, &shared, &events)
    })?);
    threads.push(spawn("raft-apply", {
        let (machine, shared, events) = (Arc::clone(&machine), Arc::clone(&shared), events.clone());
        move || apply::run(&*machine, &work_queue, &shared, &events)
    })?);
    threads.push(spawn("raft-flush", {
        let (machine, events) = (Arc::clone(&machine), events.clone());
        move || run_flush(&*machine, &flush_queue, &events)
    })?);
    threads.push(spawn("raft-checkpoint", {
        let (machine, events) = (Arc::clone(&machine), events.clone());
        move || checkpoint::run(&*machine, &outgoing, &checkpoints_queue, &events)
    })?);
    threads.push(spawn("raft-pull", {
        let (incoming, transport) = (incoming.clone(), Arc::clone(&transport));
        move || pull::run(&incoming, &*transport, &pulls_queue, &events)
    })?);
    let mut driver = Driver {
        node,
        queue,
        shared,
        transport,
        machine,
        jobs,
        work,
        flush,
        checkpoints,
        pulls,
        incoming,
        waiting: Waiting::new(),
        barriers: Barriers::new(),
        changes: Changes::default(),
        position: Position::default(),
        tick,
        next_tick: Instant::now() + tick,
        ticks: 0,
        flush_bytes,
        grown,
        flushing: false,
        flush_tick: 0,
        replay_end,
        flushed: 0,
        checkpoint_used: 0,
        stopping: Stopping::No,
    };
    // A lone voter leads from here on, before anybody has a handle.
    driver.execute()?;
    spawn("raft", move || driver.supervise(threads))?;
    Ok(())
}

/// The journal begins with a snapshot that the state machine may not have taken over before the
/// process ended. Its files stay until it has.
fn finish_install<S: StateMachine>(
    kv: &dyn Kv,
    machine: &S,
    incoming: &Incoming,
    index: u64,
) -> Result<(), Fatal> {
    if machine.applied() < index {
        tracing::info!(index, "finishing the installation of a snapshot");
        machine.install(&incoming.files())?;
    }
    kv.write(&Log::installed(), Durability::Logged)
        .map_err(|e| Fatal::caused("cannot write the journal", e))?;
    incoming.discard();
    Ok(())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fatal> {
    Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|e| Fatal::caused(format!("cannot start the thread {name}"), e))
}

fn run_flush<S: StateMachine>(
    machine: &S,
    orders: &Receiver<()>,
    events: &Sender<Event<S::Outcome>>,
) {
    while orders.recv().is_ok() {
        let event = match machine.flush() {
            Ok(index) => Event::Flushed(index),
            Err(fatal) => Event::Fault(chain(&fatal)),
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
