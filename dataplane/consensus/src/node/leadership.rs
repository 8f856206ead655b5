//! Elections, and handing the leadership to another voter.

use super::{Node, leader};
use crate::ChangeError;
use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};
use std::cmp::Ordering;

impl Node {
    /// Whether this node, which asks who would vote for it, ignores that another asks the same, as
    /// if the question were lost. If both said yes, both would stand for the next term, and neither
    /// would win it. The one with the better journal goes on, of two equals the one with the higher
    /// id; the other takes its question back.
    pub(super) fn contests(&mut self, message: &Message) -> bool {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::PreCandidate
            || message.get_msg_type() != MessageType::MsgRequestPreVote
            || message.term != raft.term + 1
        {
            return false;
        }
        let ours = (raft.raft_log.last_term(), raft.raft_log.last_index());
        match ours.cmp(&(message.log_term, message.index)) {
            Ordering::Equal if self.id > message.from => true,
            // The library says no, and why.
            Ordering::Greater => false,
            Ordering::Equal | Ordering::Less => {
                raft.become_follower(raft.term, 0);
                false
            }
        }
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
        if !self.conf().is_voter(to) {
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
        let quorum = raft::majority(self.conf().voters().count());
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
            leading && **id != self.id && progress.recent_active && self.conf().is_voter(**id)
        });
        others.map(|(id, progress)| (*id, progress.matched))
    }
}
