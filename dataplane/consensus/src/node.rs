//! One raft node as a pure state machine: it is told what happened, and says what to do.
//!
//! Nothing here waits, looks at a clock or writes. The driver executes [`Output`]s in their order
//! and reports back with [`Node::persisted`] and [`Node::applied`]; simulation does the same. (The
//! library draws election timeouts by chance, within its configured window.)

use crate::{
    Fatal,
    conf::Conf,
    log::{Log, entry_bytes},
    logger,
};
use forebay_kv::Batch;
pub(crate) use output::{Output, Position};
use raft::{
    Config, GetEntriesContext, RawNode, StateRole, Storage,
    eraftpb::{Entry, Message, MessageType},
};
use reads::Reads;
use snapshots::{Incoming, Outgoing};
use std::collections::VecDeque;

mod leadership;
mod membership;
mod output;
mod reads;
mod snapshots;

/// Ticks between heartbeats.
const HEARTBEAT_TICKS: usize = 2;

/// Ticks without a leader before an election, at least; at most twice as many.
pub(crate) const ELECTION_TICKS: usize = 10;

/// Most bytes of entries in one message.
const MESSAGE_BYTES: u64 = 1 << 20;

/// Messages of entries under way to one follower.
const MESSAGES_IN_FLIGHT: usize = 64;

/// Most bytes of entries in one [`Output::Apply`].
const APPLY_BYTES: u64 = 1 << 20;

/// Bytes of entries handed out and not yet applied, beyond which nothing more is handed out. The
/// rest stays in the journal; everything else goes on.
const APPLYING_BYTES: u64 = 16 << 20;

/// Runs of messages that wait for the disk. While it hangs or is full the node is as good as cut
/// off, and what it would say is as good as lost.
const HELD_RUNS: usize = 4096;

/// How long the journal may get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of entries that a group keeps, for followers close behind.
    pub(crate) tail_bytes: u64,
    /// Bytes of entries beyond which no more are taken.
    pub(crate) max_bytes: u64,
}

/// Where proposals went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Index of the first; the others follow.
    pub(crate) first: u64,
    /// Their term: another term at the same index means that they were lost.
    pub(crate) term: u64,
}

/// A batch being written.
struct Writing {
    number: u64,
    /// Its first entry; nothing from there on is known to be on disk.
    first: u64,
}

/// The node.
pub(crate) struct Node {
    id: u64,
    raw: RawNode<Log>,
    bounds: Bounds,
    writing: VecDeque<Writing>,
    /// Messages that promise what is still being written, with the batch they wait for.
    held: VecDeque<(u64, Vec<Message>)>,
    /// Messages whose batch is on disk.
    released: Vec<Message>,
    /// Last index and bytes of each [`Output::Apply`] not yet confirmed.
    applying: VecDeque<(u64, u64)>,
    applying_bytes: u64,
    /// Last index that the state machine has applied.
    applied: u64,
    /// Last index that the library has released for apply.
    committed: u64,
    /// Last index handed out for apply.
    handed_out: u64,
    /// Entries from this index on are handed out when this batch is on disk: a change of the
    /// configuration must not be lost once the state machine may have flushed what follows it.
    hold: Option<(u64, u64)>,
    /// Who has left the group, and is told when that is on disk.
    leavers: Vec<u64>,
    /// Ticks since this node, which has left the group, last asked whether others know.
    left_ticks: u32,
    /// What events asked for beside what the library says.
    orders: Vec<Output>,
    incoming: Incoming,
    outgoing: Outgoing,
    reads: Reads,
    /// What the last [`Node::step_aside`] turned to.
    successor: u64,
    /// Term, vote, leader and role that the library has reported.
    seen: Seen,
    reported: Position,
}

/// What changes of raft's own state must not wait for apply.
type Seen = (u64, u64, u64, StateRole);

impl Node {
    /// A node over its journal, whose state machine has applied up to `applied`.
    pub(crate) fn new(id: u64, mut log: Log, applied: u64, bounds: Bounds) -> Result<Node, Fatal> {
        let conf = log.conf();
        let belongs = conf.is_empty() || conf.contains(id) || conf.was_removed(id);
        if id == 0 || !belongs {
            return Err(Fatal::new(format!(
                "node {id} is not among the members {:?} of the journal; give the id that this \
                 directory was made with",
                conf.voters().collect::<Vec<_>>()
            )));
        }
        let known = conf.index;
        let only_voter = conf.is_only_voter(id);
        if applied < log.cut_index() || applied > log.last() {
            return Err(Fatal::new(format!(
                "the state has applied up to {applied}, but the journal holds {}..={}; they do \
                 not belong together: restore the master's directory as a whole",
                log.cut_index() + 1,
                log.last()
            )));
        }
        // What was applied was committed; the commit index on disk may be older.
        log.committed_at_least(applied.max(known));
        let config = Config {
            id,
            applied,
            heartbeat_tick: HEARTBEAT_TICKS,
            election_tick: ELECTION_TICKS,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            max_committed_size_per_ready: APPLY_BYTES,
            check_quorum: true,
            pre_vote: true,
            // The library joins entries to an empty message that waits, even if they begin before it
            // (after a rejection): the follower then confirms entries that it does not have.
            batch_append: false,
            ..Config::default()
        };
        let mut raw = RawNode::new(&config, log, &logger::to_tracing())
            .map_err(|e| Fatal::caused("cannot start raft over the journal", e))?;
        let hard = raw.raft.hard_state();
        let seen = (hard.term, hard.vote, 0, StateRole::Follower);
        if only_voter {
            raw.campaign()
                .map_err(|e| Fatal::caused("cannot begin a term", e))?;
        }
        Ok(Node {
            id,
            raw,
            bounds,
            writing: VecDeque::new(),
            held: VecDeque::new(),
            released: Vec::new(),
            applying: VecDeque::new(),
            applying_bytes: 0,
            applied,
            committed: applied,
            handed_out: applied,
            hold: None,
            leavers: Vec::new(),
            left_ticks: 0,
            orders: Vec::new(),
            incoming: Incoming::None,
            outgoing: Outgoing::default(),
            reads: Reads::default(),
            successor: 0,
            seen,
            reported: Position::default(),
        })
    }

    /// A tick of the clock has passed.
    pub(crate) fn tick(&mut self) {
        if !self.is_busy() {
            self.raw.tick();
        }
        self.reads.tick();
        self.tick_snapshots();
        self.tick_removed();
    }

    /// Whether an election would find the library in the middle of something: entries that it has
    /// not handed over yet, a snapshot that is being written, or (where the own vote decides at
    /// once) entries that are not on disk.
    fn is_busy(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state != StateRole::Leader
            && (!raft.raft_log.unstable_entries().is_empty()
                || self.incoming.is_being_written()
                || self.conf().is_only_voter(self.id) && !self.writing.is_empty())
    }

    /// The configuration.
    pub(crate) fn conf(&self) -> &Conf {
        self.raw.store().conf()
    }

    /// A message came in.
    pub(crate) fn receive(&mut self, message: Message) -> Result<(), Fatal> {
        if message.to != self.id {
            tracing::warn!(
                from = message.from,
                to = message.to,
                "message for another node"
            );
            return Ok(());
        }
        if self.conf().was_removed(message.from) {
            if self.is_conf_durable() {
                self.dismiss(message.from);
            }
            return Ok(());
        }
        // A leader announces no commit beyond what this node once confirmed to have on disk.
        let last = self.raw.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && message.commit > last
        {
            return Err(Fatal::new(format!(
                "the journal ends at {last}, but this node confirmed entries up to {}: its disk \
                 lost data; remove this master's directory and let it join anew",
                message.commit
            )));
        }
        match message.get_msg_type() {
            // The library would pass it on, perhaps back and forth between two that each take
            // the other for the leader. The one that asked asks again.
            MessageType::MsgReadIndex if self.raw.raft.state != StateRole::Leader => return Ok(()),
            MessageType::MsgTimeoutNow if self.is_busy() => return Ok(()),
            MessageType::MsgRequestPreVote if self.contests(&message) => return Ok(()),
            MessageType::MsgSnapshot => {
                self.offered(message);
                return Ok(());
            }
            MessageType::MsgUnreachable => return self.dismissed(&message),
            _ if self.conf().is_empty() => {
                self.receive_outside(message);
                return Ok(());
            }
            // As if lost; there will be room when the state machine has made progress. Where it
            // has nothing to do, more entries are what is needed: to commit those that are here.
            MessageType::MsgAppend
                if !message.entries.is_empty()
                    && self.is_full()
                    && self.applied < self.raw.raft.raft_log.committed =>
            {
                return Ok(());
            }
            _ => {}
        }
        self.note_progress(&message);
        self.step(message);
        Ok(())
    }

    fn step(&mut self, message: Message) {
        if let Err(error) = self.raw.step(message) {
            // Of a node that is no member, or of a kind that makes no sense: as if lost.
            tracing::debug!(%error, "message ignored");
        }
    }

    /// Puts commands (none empty) at the end of the journal, if this node leads; else says who
    /// does.
    pub(crate) fn propose(&mut self, commands: Vec<Vec<u8>>) -> Result<Accepted, Option<u64>> {
        let raft = &mut self.raw.raft;
        // The library would forward the commands, and nobody would learn their outcomes.
        if raft.state != StateRole::Leader {
            return Err(leader(raft.leader_id));
        }
        let count = commands.len() as u64;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id;
        message.entries = commands
            .into_iter()
            .map(|data| Entry {
                data,
                ..Entry::default()
            })
            .collect();
        // Refused while the leadership is being handed over: then the successor is to be asked.
        raft.step(message)
            .map_err(|_| raft.lead_transferee.or(leader(raft.leader_id)))?;
        Ok(Accepted {
            first: raft.raft_log.last_index() + 1 - count,
            term: raft.term,
        })
    }

    /// The batch `number`, and all before it, are on disk.
    pub(crate) fn persisted(&mut self, number: u64) {
        while self
            .writing
            .front()
            .is_some_and(|writing| writing.number <= number)
        {
            self.writing.pop_front();
        }
        self.raw.on_persist_ready(number);
        self.snapshot_persisted(number);
        self.hold = self.hold.filter(|(awaited, _)| *awaited > number);
        self.dismiss_leavers();
        while self
            .held
            .front()
            .is_some_and(|(awaited, _)| *awaited <= number)
        {
            let (_, messages) = self.held.pop_front().expect("just seen");
            self.released.extend(messages);
        }
        let unwritten = self.writing.iter().map(|writing| writing.first).min();
        self.raw.mut_store().evict(unwritten.unwrap_or(u64::MAX));
    }

    /// Everything up to `index` is applied; how many bytes more that is.
    pub(crate) fn applied(&mut self, index: u64) -> u64 {
        let before = self.applying_bytes;
        while let Some((last, bytes)) = self.applying.front().copied()
            && last <= index
        {
            self.applying.pop_front();
            self.applying_bytes -= bytes;
        }
        self.applied = index;
        self.snapshot_installed(index);
        // A snapshot that is on disk counts as applied for the library.
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
        }
        // At the start it may have been too early for that: a change of the configuration was to
        // be applied first.
        let raft = &self.raw.raft;
        if raft.leader_id == 0 && self.conf().is_only_voter(self.id) && !self.is_busy() {
            let _ = self.raw.campaign();
        }
        before - self.applying_bytes
    }

    /// Cuts the journal up to `durable`, which the state machine made durable, as far as that is
    /// known here to be applied. A group keeps a tail for followers close behind, and what
    /// continues a snapshot, until the journal gets too long. The batch needs no fsync.
    pub(crate) fn cut(&mut self, durable: u64) -> Option<Batch> {
        let mut index = durable.min(self.applied);
        if !self.is_alone() {
            let store = self.raw.store();
            index = index.min(store.cut_keeping(self.bounds.tail_bytes));
            if let Some(pin) = self.outgoing.pin()
                && store.bytes() < self.bounds.max_bytes / 2
            {
                index = index.min(pin);
            }
        }
        self.raw.mut_store().cut(index)
    }

    /// Whether the journal has reached its bound: then it takes no more proposals, and a flush of
    /// the state machine is called for.
    pub(crate) fn is_full(&self) -> bool {
        self.raw.store().bytes() >= self.bounds.max_bytes
    }

    /// Bytes of the entries in the journal, about.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.raw.store().bytes()
    }

    /// Whether there is no other node.
    pub(crate) fn is_alone(&self) -> bool {
        self.conf().is_alone(self.id)
    }

    /// What is to be done now. Called after every event or run of events.
    pub(crate) fn outputs(&mut self) -> Result<Vec<Output>, Fatal> {
        let mut outputs = Vec::new();
        outputs.extend(self.released.drain(..).map(send));
        self.restore();
        loop {
            outputs.append(&mut self.orders);
            self.ask_reads();
            self.hand_out(&mut outputs)?;
            let behind = self.is_apply_behind();
            if !(self.has_urgent() || !behind && self.raw.has_ready()) {
                break;
            }
            // At least one entry comes with every ready, so only as many as there are messages.
            let committed_bytes = if behind { 0 } else { APPLY_BYTES };
            self.raw
                .raft
                .set_max_committed_size_per_ready(committed_bytes);
            let mut ready = self.raw.ready();
            if let Some(fault) = self.raw.store().take_fault() {
                return Err(Fatal::caused("cannot read the journal", fault));
            }
            let number = ready.number();
            let must_sync = ready.must_sync();
            let committed = ready.take_committed_entries();
            let entries = ready.take_entries();
            let promises = ready.take_persisted_messages();
            let reads = ready.take_read_states();
            let hard = ready.hs().cloned();
            outputs.extend(ready.take_messages().into_iter().map(send));

            let first = entries.first().map_or(u64::MAX, |entry| entry.index);
            let mut batch = Batch::default();
            if !ready.snapshot().is_empty() {
                batch = self.begin_install(number);
            }
            let appended = self.raw.mut_store().append(entries, hard, must_sync);
            batch.ops.extend(appended.ops);
            self.raw.advance_append_async(ready);
            self.seen = self.current();
            let changed = self.reconfigure(number, &committed, &mut batch)?;
            if must_sync || changed {
                self.writing.push_back(Writing { number, first });
                self.hold_back(number, promises);
                outputs.push(Output::Persist { number, batch });
            } else if let Some(number) = self.writing.back().map(|writing| writing.number) {
                self.hold_back(number, promises);
            } else {
                self.raw.on_persist_ready(number);
                outputs.extend(promises.into_iter().map(send));
            }
            // Before what depends on it: a command that is committed may be acknowledged at once.
            self.report(&mut outputs);
            for read in reads {
                self.answer(&read, &mut outputs);
            }
            if changed {
                outputs.push(Output::Configure(self.conf().clone()));
            }
            self.commit(committed, &mut outputs);
        }
        self.order_checkpoint();
        outputs.append(&mut self.orders);
        self.report(&mut outputs);
        Ok(outputs)
    }

    /// Keeps messages until the batch `number` is on disk.
    fn hold_back(&mut self, number: u64, messages: Vec<Message>) {
        if !messages.is_empty() && self.held.len() < HELD_RUNS {
            self.held.push_back((number, messages));
        }
    }

    /// Takes note of entries that are committed, and hands them out if apply has room.
    fn commit(&mut self, entries: Vec<Entry>, outputs: &mut Vec<Output>) {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        let behind = self.is_apply_behind();
        self.committed = last;
        // Else they are read again when their turn comes.
        if !behind && self.may_hand_out() == last {
            self.apply(entries, outputs);
        }
    }

    /// The last index that may be handed out, if there is room.
    fn may_hand_out(&self) -> u64 {
        let held_from = self.hold.map_or(u64::MAX, |(_, index)| index);
        self.committed.min(held_from - 1)
    }

    /// Hands out what was held back, as far as apply has room.
    fn hand_out(&mut self, outputs: &mut Vec<Output>) -> Result<(), Fatal> {
        let end = self.may_hand_out() + 1;
        while self.handed_out + 1 < end && self.applying_bytes < APPLYING_BYTES {
            let store = self.raw.store();
            let context = GetEntriesContext::empty(false);
            let entries = store
                .entries(self.handed_out + 1, end, Some(APPLY_BYTES), context)
                .map_err(|e| Fatal::caused("cannot read committed entries of the journal", e))?;
            if let Some(fault) = store.take_fault() {
                return Err(Fatal::caused("cannot read the journal", fault));
            }
            self.apply(entries, outputs);
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>, outputs: &mut Vec<Output>) {
        let last = entries.last().expect("not empty").index;
        let bytes = entries.iter().map(|entry| entry_bytes(entry) as u64).sum();
        self.applying.push_back((last, bytes));
        self.applying_bytes += bytes;
        self.handed_out = last;
        outputs.push(Output::Apply(entries));
    }

    fn is_apply_behind(&self) -> bool {
        self.handed_out < self.committed || self.applying_bytes >= APPLYING_BYTES
    }

    /// Whether there is anything to do but apply: a node whose state machine is slow goes on to
    /// answer, to vote, to write and to lead.
    fn has_urgent(&self) -> bool {
        let raft = &self.raw.raft;
        !raft.msgs.is_empty()
            || !raft.read_states.is_empty()
            || !raft.raft_log.unstable_entries().is_empty()
            || raft.raft_log.unstable_snapshot().is_some()
            || self.seen != self.current()
    }

    fn current(&self) -> Seen {
        let raft = &self.raw.raft;
        (raft.term, raft.vote, raft.leader_id, raft.state)
    }

    fn report(&mut self, outputs: &mut Vec<Output>) {
        let raft = &self.raw.raft;
        let leading = raft.state == StateRole::Leader;
        let position = Position {
            leader: raft.leader_id,
            leading,
            term: raft.term,
            committed: raft.raft_log.committed,
            alone_from: (leading && self.is_alone())
                .then(|| self.raw.store().start_of_last_term(raft.term))
                .flatten(),
        };
        if position != self.reported {
            self.reported = position;
            outputs.push(Output::Report(position));
        }
    }
}

#[cfg(test)]
impl Node {
    /// The library's part, for the simulation: it sets election timeouts, so that a seed replays,
    /// and looks for what must never be.
    pub(crate) fn raft(&mut self) -> &mut raft::Raft<Log> {
        &mut self.raw.raft
    }
}

fn send(message: Message) -> Output {
    Output::Send(Box::new(message))
}

fn leader(id: u64) -> Option<u64> {
    (id != 0).then_some(id)
}

#[cfg(test)]
mod tests;
