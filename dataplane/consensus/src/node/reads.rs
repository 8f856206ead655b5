//! Linearizable reads on any node: what is the commit index of a leader that a majority still
//! follows?

use super::{Node, Output};
use raft::{ReadState, StateRole};

/// Ticks after which a read that nobody has answered is asked for again: the question or the
/// answer was lost.
pub(super) const READ_TICKS: u32 = 3;

/// Reads on their way: tokens, ascending.
#[derive(Default)]
pub(super) struct Reads {
    /// Highest token wanted, asked for in a round of messages, and answered.
    wanted: u64,
    asked: u64,
    answered: u64,
    /// Term and leader in which `asked` was asked for.
    reign: (u64, u64),
    /// Ticks since then.
    ticks: u32,
}

impl Reads {
    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks >= READ_TICKS {
            self.asked = self.answered;
        }
    }
}

impl Node {
    /// Asks for [`Output::Read`] with this token or a higher one, on whatever node: of the leader,
    /// who asks a majority. Repeated until there is an answer. Tokens ascend, and no life of this
    /// node uses those of another: a late answer to a former life must not pass for a fresh one.
    pub(crate) fn read_index(&mut self, token: u64) {
        self.reads.wanted = token;
    }

    /// One round of messages for all reads that wait. The library drops the question silently
    /// where nobody leads, and before the leader has committed an entry of its own term.
    pub(super) fn ask_reads(&mut self) {
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

    pub(super) fn answer(&mut self, read: &ReadState, outputs: &mut Vec<Output>) {
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
}
