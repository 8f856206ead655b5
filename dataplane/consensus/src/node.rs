//! One raft node as a pure state machine: it is told what happened, and says what to do.
//!
//! Nothing here waits, looks at a clock or writes. The driver executes [`Output`]s in their order
//! and reports back with [`Node::persisted`] and [`Node::applied`]; simulation does the same. (The
//! library draws election timeouts by chance, within its configured window.)

use crate::{
    ChangeError, Fatal,
    log::{Log, entry_bytes},
    logger,
};
use forebay_kv::Batch;
use raft::{
    Config, GetEntriesContext, RawNode, ReadState, StateRole, Storage,
    eraftpb::{Entry, Message, MessageType},
};
use std::collections::VecDeque;

/// Ticks between heartbeats.
const HEARTBEAT_TICKS: usize = 2;

/// Ticks without a leader before an election, at least; at most twice as many.
pub(crate) const ELECTION_TICKS: usize = 10;

/// Ticks after which a read that nobody has answered is asked for again: the question or the
/// answer was lost.
const READ_TICKS: u32 = 3;

/// Most bytes of entries in one message.
const MESSAGE_BYTES: u64 = 1 << 20;

/// Messages of entries under way to one follower.
const MESSAGES_IN_FLIGHT: usize = 64;

/// Most bytes of entries in one [`Output::Apply`].
const APPLY_BYTES: u64 = 1 << 20;

/// Bytes of entries handed out and not yet applied, beyond which nothing more is handed out. The
/// rest stays in the journal; everything else goes on.
const APPLYING_BYTES: u64 = 16 << 20;

/// What the driver has to do, in order.
#[derive(Debug)]
pub(crate) enum Output {
    /// Write `batch` with fsync, after everything that was handed out before, then say so with
    /// [`Node::persisted`].
    Persist {
        /// Ascending.
        number: u64,
        /// What to write.
        batch: Batch,
        /// Bytes by which the journal grows.
        bytes: u64,
    },
    /// Send to the node named in the message. May be lost.
    Send(Box<Message>),
    /// Apply these, then say so with [`Node::applied`].
    Apply(Vec<Entry>),
    /// Reads asked for up to this token are linearizable once `index` is applied.
    Read {
        /// As given to [`Node::read_index`].
        token: u64,
        /// What must be applied.
        index: u64,
    },
    /// The position changed.
    Report(Position),
}

/// Where the node stands, as far as raft is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Who leads; 0: nobody known.
    pub(crate) leader: u64,
    /// Whether this node does.
    pub(crate) leading: bool,
    /// Raft term.
    pub(crate) term: u64,
    /// Commit index.
    pub(crate) committed: u64,
    /// The only voter leads: the first index of its term. Reads need no round of messages, only
    /// that this index and everything committed is applied.
    pub(crate) alone_from: Option<u64>,
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
    writing: VecDeque<Writing>,
    /// Messages that promise what is still being written, with the batch they wait for.
    held: VecDeque<(u64, Vec<Message>)>,
    /// Messages whose batch is on disk.
    released: Vec<Message>,
    /// Last index and bytes of each [`Output::Apply`] not yet confirmed.
    applying: VecDeque<(u64, u64)>,
    applying_bytes: u64,
    /// Last index that the library has released for apply.
    committed: u64,
    /// Last index handed out for apply.
    handed_out: u64,
    reads: Reads,
    /// What the last [`Node::step_aside`] turned to.
    successor: u64,
    /// Term, vote, leader and role that the library has reported.
    seen: Seen,
    reported: Position,
}

/// Reads on their way: tokens, ascending.
#[derive(Default)]
struct Reads {
    /// Highest token wanted, asked for in a round of messages, and answered.
    wanted: u64,
    asked: u64,
    answered: u64,
    /// Term and leader in which `asked` was asked for.
    reign: (u64, u64),
    /// Ticks since then.
    ticks: u32,
}

/// What changes of raft's own state must not wait for apply.
type Seen = (u64, u64, u64, StateRole);

impl Node {
    /// A node over its journal, whose state machine has applied up to `applied`.
    pub(crate) fn new(id: u64, mut log: Log, applied: u64) -> Result<Node, Fatal> {
        if id == 0 || !log.voters().contains(&id) {
            return Err(Fatal::new(format!(
                "node {id} is not among the voters {:?} of the journal; give the id that this \
                 directory was made with",
                log.voters()
            )));
        }
        if applied < log.cut_index() || applied > log.last() {
            return Err(Fatal::new(format!(
                "the state has applied up to {applied}, but the journal holds {}..={}; they do \
                 not belong together: restore the master's directory as a whole",
                log.cut_index() + 1,
                log.last()
            )));
        }
        // What was applied was committed; the commit index on disk may be older.
        log.committed_at_least(applied);
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
        let alone = log.voters() == [id];
        let mut raw = RawNode::new(&config, log, &logger::to_tracing())
            .map_err(|e| Fatal::caused("cannot start raft over the journal", e))?;
        let hard = raw.raft.hard_state();
        let seen = (hard.term, hard.vote, 0, StateRole::Follower);
        if alone {
            raw.campaign()
                .map_err(|e| Fatal::caused("cannot begin a term", e))?;
        }
        Ok(Node {
            id,
            raw,
            writing: VecDeque::new(),
            held: VecDeque::new(),
            released: Vec::new(),
            applying: VecDeque::new(),
            applying_bytes: 0,
            committed: applied,
            handed_out: applied,
            reads: Reads::default(),
            successor: 0,
            seen,
            reported: Position::default(),
        })
    }

    /// A tick of the clock has passed.
    pub(crate) fn tick(&mut self) {
        self.raw.tick();
        let reads = &mut self.reads;
        reads.ticks += 1;
        if reads.ticks >= READ_TICKS {
            reads.asked = reads.answered;
        }
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
        let raft = &self.raw.raft;
        if message.get_msg_type() == MessageType::MsgReadIndex && raft.state != StateRole::Leader {
            // The library would pass it on, perhaps back and forth between two that each take
            // the other for the leader. The one that asked asks again.
            return Ok(());
        }
        // A leader announces no commit beyond what this node once confirmed to have on disk.
        let last = raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= raft.term
            && message.commit > last
        {
            return Err(Fatal::new(format!(
                "the journal ends at {last}, but this node confirmed entries up to {}: its disk \
                 lost data; remove this master's directory and let it join anew",
                message.commit
            )));
        }
        if let Err(error) = self.raw.step(message) {
            // Of a node that is no member, or of a kind that makes no sense: as if lost.
            tracing::debug!(%error, "message ignored");
        }
        Ok(())
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

    /// Everything up to `index` is applied.
    pub(crate) fn applied(&mut self, index: u64) {
        while let Some((last, bytes)) = self.applying.front().copied()
            && last <= index
        {
            self.applying.pop_front();
            self.applying_bytes -= bytes;
        }
        self.raw.advance_apply_to(index);
    }

    /// Asks for [`Output::Read`] with this token or a higher one, on whatever node: of the leader,
    /// who asks a majority. Repeated until there is an answer. Tokens ascend, and no life of this
    /// node uses those of another: a late answer to a former life must not pass for a fresh one.
    pub(crate) fn read_index(&mut self, token: u64) {
        self.reads.wanted = token;
    }

    /// Starts handing the leadership to `to`, which takes it once it has the whole journal. Given
    /// up after [`ELECTION_TICKS`]; meanwhile this node takes no proposals.
    pub(crate) fn transfer(&mut self, to: u64) -> Result<(), ChangeError> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Err(ChangeError::NotLeader {
                leader: leader(raft.leader_id),
            });
        }
        if !self.raw.store().voters().contains(&to) {
            return Err(ChangeError::Refused(format!(
                "node {to} cannot lead: it is no voter"
            )));
        }
        self.raw.transfer_leader(to);
        Ok(())
    }

    /// Whether the leadership is being handed over.
    pub(crate) fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Starts handing the leadership to the voter that has most of the journal, among those that
    /// were heard of lately.
    pub(crate) fn retire(&mut self) {
        let best = self.followers().max_by_key(|(_, matched)| *matched);
        if let Some((id, _)) = best
            && !self.is_transferring()
        {
            self.raw.transfer_leader(id);
        }
    }

    /// For a leader that cannot write: starts handing the leadership to a voter that has the
    /// whole journal, so that its disk is probably fine; each in turn. Only if the others can
    /// elect it without this node, which could not write its vote.
    pub(crate) fn step_aside(&mut self) {
        if self.raw.raft.state != StateRole::Leader || self.is_transferring() {
            return;
        }
        let quorum = raft::majority(self.raw.store().voters().len());
        if self.followers().count() < quorum {
            return;
        }
        let last = self.raw.raft.raft_log.last_index();
        let fit = |(id, matched)| (matched == last).then_some(id);
        let mut fit: Vec<_> = self.followers().filter_map(fit).collect();
        fit.sort_unstable();
        let next = fit.iter().find(|id| **id > self.successor).or(fit.first());
        if let Some(next) = next.copied() {
            self.successor = next;
            self.raw.transfer_leader(next);
        }
    }

    /// The other voters that this leader has heard of lately, and how far their journals go.
    fn followers(&self) -> impl Iterator<Item = (u64, u64)> {
        let raft = &self.raw.raft;
        let leading = raft.state == StateRole::Leader;
        let others = raft.prs().iter().filter(move |(id, progress)| {
            leading
                && **id != self.id
                && progress.recent_active
                && self.raw.store().voters().contains(id)
        });
        others.map(|(id, progress)| (*id, progress.matched))
    }

    /// Cuts the journal up to `index`, which the state machine made durable, as far as that is
    /// known here to be applied. The batch needs no fsync.
    pub(crate) fn cut(&mut self, index: u64) -> Option<Batch> {
        let index = index.min(self.raw.raft.raft_log.applied);
        self.raw.mut_store().cut(index)
    }

    /// Whether there is no other voter.
    pub(crate) fn is_alone(&self) -> bool {
        self.raw.store().voters() == [self.id]
    }

    /// What is to be done now. Called after every event or run of events.
    pub(crate) fn outputs(&mut self) -> Result<Vec<Output>, Fatal> {
        let mut outputs = Vec::new();
        outputs.extend(self.released.drain(..).map(send));
        loop {
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

            let bytes = entries.iter().map(|entry| entry_bytes(entry) as u64).sum();
            let first = entries.first().map_or(u64::MAX, |entry| entry.index);
            let batch = self.raw.mut_store().append(entries, hard, must_sync);
            self.raw.advance_append_async(ready);
            self.seen = self.current();
            if must_sync {
                self.writing.push_back(Writing { number, first });
                self.held.push_back((number, promises));
                outputs.push(Output::Persist {
                    number,
                    batch,
                    bytes,
                });
            } else if let Some(writing) = self.writing.back() {
                self.held.push_back((writing.number, promises));
            } else {
                self.raw.on_persist_ready(number);
                outputs.extend(promises.into_iter().map(send));
            }
            // Before what depends on it: a command that is committed may be acknowledged at once.
            self.report(&mut outputs);
            for read in reads {
                self.answer(&read, &mut outputs);
            }
            self.commit(committed, &mut outputs);
        }
        self.report(&mut outputs);
        Ok(outputs)
    }

    /// Takes note of entries that are committed, and hands them out if apply has room.
    fn commit(&mut self, entries: Vec<Entry>, outputs: &mut Vec<Output>) {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        let behind = self.is_apply_behind();
        self.committed = last;
        // Else they are read again when their turn comes.
        if !behind {
            self.apply(entries, outputs);
        }
    }

    /// Hands out what was held back, as far as apply has room.
    fn hand_out(&mut self, outputs: &mut Vec<Output>) -> Result<(), Fatal> {
        while self.handed_out < self.committed && self.applying_bytes < APPLYING_BYTES {
            let store = self.raw.store();
            let entries = store
                .entries(
                    self.handed_out + 1,
                    self.committed + 1,
                    Some(APPLY_BYTES),
                    GetEntriesContext::empty(false),
                )
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
            || self.seen != self.current()
    }

    fn current(&self) -> Seen {
        let raft = &self.raw.raft;
        (raft.term, raft.vote, raft.leader_id, raft.state)
    }

    /// One round of messages for all reads that wait. The library drops the question silently
    /// where nobody leads, and before the leader has committed an entry of its own term.
    fn ask_reads(&mut self) {
        let raft = &self.raw.raft;
        let reign = (raft.term, raft.leader_id);
        if reign != self.reads.reign {
            // The former leader will not answer any more.
            self.reads.reign = reign;
            self.reads.asked = self.reads.answered;
        }
        let answers = match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            StateRole::Follower => raft.leader_id != 0,
            StateRole::Candidate | StateRole::PreCandidate => false,
        };
        if answers && self.reads.asked < self.reads.wanted {
            self.reads.asked = self.reads.wanted;
            self.reads.ticks = 0;
            // The leader tells questions apart by these bytes alone.
            let question = [self.id, self.reads.wanted].map(u64::to_be_bytes).concat();
            self.raw.read_index(question);
        }
    }

    fn answer(&mut self, read: &ReadState, outputs: &mut Vec<Output>) {
        let (id, token) = read.request_ctx.split_at_checked(8).unwrap_or_default();
        if id == self.id.to_be_bytes()
            && let Ok(token) = token.try_into().map(u64::from_be_bytes)
        {
            self.reads.answered = self.reads.answered.max(token);
            outputs.push(Output::Read {
                token,
                index: read.index,
            });
        }
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
mod tests {
    use super::*;
    use forebay_kv::{Durability, Kv, MemKv};
    use std::sync::Arc;

    fn node(kv: &Arc<MemKv>, id: u64, voters: &[u64], applied: u64) -> Result<Node, Fatal> {
        let (log, _) = Log::open(Arc::<MemKv>::clone(kv), voters)?;
        Node::new(id, log, applied)
    }

    fn describe(outputs: &[Output]) -> Vec<String> {
        outputs
            .iter()
            .map(|output| match output {
                Output::Persist { number, .. } => format!("persist {number}"),
                Output::Send(message) => format!("{:?} to {}", message.get_msg_type(), message.to),
                Output::Apply(entries) => {
                    let range = (
                        entries.first().unwrap().index,
                        entries.last().unwrap().index,
                    );
                    format!("apply {}..={}", range.0, range.1)
                }
                Output::Read { token, index } => format!("read {token} at {index}"),
                Output::Report(p) => format!("report leader {} commit {}", p.leader, p.committed),
            })
            .collect()
    }

    fn step(node: &mut Node) -> Vec<String> {
        describe(&node.outputs().unwrap())
    }

    /// A lone leader that has written and applied its first entry.
    fn leader_of_one() -> Node {
        let mut node = node(&Arc::new(MemKv::new()), 1, &[1], 0).unwrap();
        assert_eq!(step(&mut node), ["persist 1", "report leader 1 commit 0"]);
        node.persisted(1);
        assert_eq!(step(&mut node), ["report leader 1 commit 1", "apply 1..=1"]);
        node.applied(1);
        node
    }

    #[test]
    fn one_voter_leads_at_once_and_commits_a_run_of_proposals_with_one_write() {
        let mut node = leader_of_one();
        let commands = (0..100).map(|i| vec![i + 1]).collect();
        assert_eq!(node.propose(commands), Ok(Accepted { first: 2, term: 1 }));
        assert_eq!(step(&mut node), ["persist 3"]);
        // The disk is busy; the next ones are taken in meanwhile.
        assert_eq!(
            node.propose(vec![vec![7]]),
            Ok(Accepted {
                first: 102,
                term: 1
            })
        );
        assert_eq!(step(&mut node), ["persist 4"]);
        node.persisted(3);
        assert_eq!(
            step(&mut node),
            ["report leader 1 commit 101", "apply 2..=101"]
        );
        node.persisted(4);
        assert_eq!(
            step(&mut node),
            ["report leader 1 commit 102", "apply 102..=102"]
        );
        node.applied(102);
        assert!(step(&mut node).is_empty());
    }

    #[test]
    fn a_lone_leader_says_from_where_reads_are_fresh() {
        let mut node = leader_of_one();
        node.propose(vec![vec![1]]).unwrap();
        node.outputs().unwrap();
        assert_eq!(node.reported.alone_from, Some(1));
    }

    #[test]
    fn the_journal_is_cut_only_up_to_what_is_applied() {
        let mut node = leader_of_one();
        node.propose(vec![vec![1]; 5]).unwrap();
        assert_eq!(step(&mut node), ["persist 3"]);
        node.persisted(3);
        node.outputs().unwrap();
        assert!(node.cut(6).is_some());
        assert_eq!(node.raw.store().cut_index(), 1);
        node.applied(4);
        assert!(node.cut(3).is_some());
        assert_eq!(node.raw.store().cut_index(), 3);
    }

    #[test]
    fn entries_for_a_slow_apply_are_handed_out_in_bounded_memory() {
        let kv = Arc::new(MemKv::new());
        let mut node = node(&kv, 1, &[1], 0).unwrap();
        // Writes at once, and says what was handed out for apply.
        let write = |node: &mut Node| {
            let mut handed_out = Vec::new();
            for output in node.outputs().unwrap() {
                match output {
                    Output::Persist { number, batch, .. } => {
                        kv.write(&batch, Durability::Synced).unwrap();
                        node.persisted(number);
                    }
                    Output::Apply(entries) => handed_out.extend(entries),
                    _ => {}
                }
            }
            handed_out
        };
        write(&mut node);
        node.propose(vec![vec![1; 1 << 20]; 40]).unwrap();
        let mut applied = 0;
        let mut rounds = 0;
        loop {
            let handed_out = write(&mut node);
            let bytes: usize = handed_out.iter().map(entry_bytes).sum();
            assert!(bytes < 18 << 20, "{bytes}");
            let Some(last) = handed_out.last() else { break };
            assert_eq!(handed_out[0].index, applied + 1);
            applied = last.index;
            rounds += 1;
            // Nothing more before apply has caught up, unless there was room left.
            assert!(bytes < 16 << 20 || write(&mut node).is_empty());
            node.applied(applied);
        }
        assert_eq!(applied, 41);
        assert!(rounds >= 3, "{rounds}");
    }

    #[test]
    fn a_follower_answers_only_when_its_journal_is_on_disk() {
        let mut node = node(&Arc::new(MemKv::new()), 2, &[1, 2, 3], 0).unwrap();
        assert!(step(&mut node).is_empty());
        assert_eq!(node.propose(vec![vec![1]]), Err(None));
        let mut append = Message {
            from: 1,
            to: 2,
            term: 1,
            ..Message::default()
        };
        append.set_msg_type(MessageType::MsgAppend);
        append.entries = vec![Entry {
            index: 1,
            term: 1,
            ..Entry::default()
        }];
        node.receive(append.clone()).unwrap();
        assert_eq!(step(&mut node), ["persist 1", "report leader 1 commit 0"]);
        assert_eq!(node.propose(vec![vec![1]]), Err(Some(1)));
        // The leader asks again before the write is done: no answer yet either.
        node.receive(append).unwrap();
        assert!(step(&mut node).is_empty());
        node.persisted(1);
        let sent = step(&mut node);
        assert_eq!(sent, ["MsgAppendResponse to 1", "MsgAppendResponse to 1"]);
    }

    /// A heartbeat of node 1, which leads term 1 of a group of three, to node 2.
    fn heartbeat(commit: u64) -> Message {
        let mut heartbeat = Message {
            from: 1,
            to: 2,
            term: 1,
            commit,
            ..Message::default()
        };
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        heartbeat
    }

    #[test]
    fn a_follower_asks_the_leader_for_reads_until_it_answers() {
        let mut node = node(&Arc::new(MemKv::new()), 2, &[1, 2, 3], 0).unwrap();
        node.read_index(7);
        assert!(step(&mut node).is_empty(), "nobody to ask");
        node.receive(heartbeat(0)).unwrap();
        step(&mut node);
        node.persisted(1);
        let asked = node.outputs().unwrap();
        let Some(Output::Send(question)) = asked.iter().find(
            |o| matches!(o, Output::Send(m) if m.get_msg_type() == MessageType::MsgReadIndex),
        ) else {
            panic!("{:?}", describe(&asked));
        };
        for _ in 1..READ_TICKS {
            node.tick();
            assert!(step(&mut node).is_empty());
        }
        node.tick();
        assert_eq!(step(&mut node), ["MsgReadIndex to 1"]);

        let mut answer = Message {
            from: 1,
            to: 2,
            term: 1,
            index: 5,
            entries: question.entries.clone(),
            ..Message::default()
        };
        answer.set_msg_type(MessageType::MsgReadIndexResp);
        let mut foreign = answer.clone();
        foreign.entries[0].data[7] = 3;
        node.receive(foreign).unwrap();
        assert!(step(&mut node).is_empty(), "an answer for another node");
        node.receive(answer).unwrap();
        assert_eq!(step(&mut node), ["read 7 at 5"]);
        for _ in 0..READ_TICKS {
            node.tick();
        }
        assert!(step(&mut node).is_empty());
    }

    #[test]
    fn a_node_whose_apply_is_slow_still_answers_and_writes() {
        let kv = Arc::new(MemKv::new());
        let mut node = node(&kv, 2, &[1, 2, 3], 0).unwrap();
        let mut index = 0;
        let mut handed_out = 0;
        for round in 0..30 {
            let mut append = heartbeat(index);
            append.set_msg_type(MessageType::MsgAppend);
            (append.index, append.log_term) = (index, u64::from(index > 0));
            index += 1;
            append.entries = vec![Entry {
                index,
                term: 1,
                data: vec![1; 1 << 20],
                ..Entry::default()
            }];
            append.commit = index;
            node.receive(append).unwrap();
            node.receive(heartbeat(0)).unwrap();
            let mut sent = Vec::new();
            let mut take = |outputs: Vec<Output>| {
                let mut written = 0;
                for output in outputs {
                    match output {
                        Output::Persist { number, batch, .. } => {
                            kv.write(&batch, Durability::Synced).unwrap();
                            written = number;
                        }
                        Output::Send(message) => sent.push(message.get_msg_type()),
                        Output::Apply(entries) => handed_out += entries.len(),
                        _ => {}
                    }
                }
                written
            };
            let written = take(node.outputs().unwrap());
            node.persisted(written);
            take(node.outputs().unwrap());
            assert!(sent.contains(&MessageType::MsgAppendResponse), "{round}");
            assert!(sent.contains(&MessageType::MsgHeartbeatResponse), "{round}");
        }
        assert!((16..18).contains(&handed_out), "{handed_out}");
        assert_eq!(node.reported.committed, 30);
        // It catches up in order.
        for applied in 1..=30 {
            node.applied(applied);
            let outputs = node.outputs().unwrap();
            for output in &outputs {
                if let Output::Apply(entries) = output {
                    assert_eq!(entries[0].index, handed_out as u64 + 1);
                    handed_out += entries.len();
                }
            }
        }
        assert_eq!(handed_out, 30);
    }

    #[test]
    fn a_leader_that_knows_of_entries_this_node_lost_stops_it() {
        let mut node = node(&Arc::new(MemKv::new()), 2, &[1, 2, 3], 0).unwrap();
        let fatal = node.receive(heartbeat(9)).unwrap_err();
        assert!(
            fatal.message.contains("confirmed entries up to 9"),
            "{fatal}"
        );
    }

    #[test]
    fn a_state_that_does_not_fit_the_journal_is_refused() {
        let kv = Arc::new(MemKv::new());
        let mut first = node(&kv, 1, &[1], 0).unwrap();
        for output in first.outputs().unwrap() {
            if let Output::Persist { batch, .. } = output {
                kv.write(&batch, Durability::Synced).unwrap();
            }
        }
        assert!(node(&kv, 1, &[1], 1).is_ok());
        let ahead = node(&kv, 1, &[1], 2).err().unwrap();
        assert!(
            ahead
                .message
                .contains("applied up to 2, but the journal holds 1..=1"),
            "{ahead}"
        );
        let stranger = node(&kv, 4, &[4], 0).err().unwrap();
        assert!(
            stranger
                .message
                .contains("node 4 is not among the voters [1]"),
            "{stranger}"
        );
    }
}
