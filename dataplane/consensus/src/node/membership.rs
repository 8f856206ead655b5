//! Who belongs to the group: changes, one at a time, and what those hear who left.

use super::{Accepted, ELECTION_TICKS, Node, leader, send};
use crate::{ChangeError, Fatal, conf::Change, wire::Wire};
use forebay_kv::Batch;
use raft::{
    StateRole,
    eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType},
};

/// Entries that a learner may lack when it becomes a voter: less than a second of a busy group.
const PROMOTION_LAG: u64 = 1000;

/// Raft asks for a snapshot by naming an index that it must have at least.
const ANY_SNAPSHOT: u64 = 1;

/// What stops a node that does not belong to the group any more.
pub(super) fn removed(id: u64) -> Fatal {
    Fatal::new(format!(
        "node {id} was removed from the group: it has stopped for good; empty this master's \
         directory and let it join under a new id"
    ))
}

impl Node {
    /// Proposes a change of the membership. None: it is so already.
    pub(crate) fn change(&mut self, change: &Change) -> Result<Option<Accepted>, ChangeError> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || self.is_transferring() {
            let leader = raft.lead_transferee.or(leader(raft.leader_id));
            return Err(ChangeError::NotLeader { leader });
        }
        if self.is_so_already(change)? {
            return Ok(None);
        }
        if let Change::Remove(id) = change
            && *id == self.id
        {
            // It would have to commit its own removal; its successor does it.
            self.retire();
            let leader = self.raw.raft.lead_transferee;
            return Err(ChangeError::NotLeader { leader });
        }
        // Before that, a change by a former leader may still come to light (Ongaro 2015).
        if !self.raw.raft.commit_to_current_term() {
            let early = "the leader has only just been elected";
            return Err(ChangeError::NotYet(early.to_owned()));
        }
        if self.raw.raft.has_pending_conf() {
            let busy = "another change of the membership is under way";
            return Err(ChangeError::NotYet(busy.to_owned()));
        }
        let raft = &mut self.raw.raft;
        let mut entry = Entry {
            data: change.to_raft().to_bytes(),
            ..Entry::default()
        };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        let mut message = Message {
            from: self.id,
            entries: vec![entry],
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        raft.step(message)
            .map_err(|e| ChangeError::NotYet(format!("raft does not take the change now: {e}")))?;
        Ok(Some(Accepted {
            first: raft.raft_log.last_index(),
            term: raft.term,
        }))
    }

    /// Whether there is nothing to change; an error if the change makes no sense, or none yet.
    fn is_so_already(&self, change: &Change) -> Result<bool, ChangeError> {
        let conf = self.conf();
        match change {
            Change::AddLearner(id, _) if *id == 0 || conf.was_removed(*id) => {
                Err(ChangeError::Refused(format!(
                    "{id} is no id for a new node: give one that was never used"
                )))
            }
            Change::AddLearner(id, context) => match conf.members().iter().find(|m| m.id == *id) {
                None => Ok(false),
                Some(member) if member.context == *context => Ok(true),
                Some(_) => Err(ChangeError::Refused(format!(
                    "node {id} is a member with another context"
                ))),
            },
            Change::Promote(id) if !conf.contains(*id) => Err(ChangeError::Refused(format!(
                "node {id} is no member: add it as a learner first"
            ))),
            Change::Promote(id) if conf.is_voter(*id) => Ok(true),
            Change::Promote(id) if self.lags(*id) => Err(ChangeError::NotYet(format!(
                "node {id} has not caught up with the journal yet"
            ))),
            Change::Remove(id) if conf.was_removed(*id) => Ok(true),
            Change::Remove(id) if !conf.contains(*id) => {
                Err(ChangeError::Refused(format!("node {id} is no member")))
            }
            Change::Remove(id) if conf.is_only_voter(*id) => Err(ChangeError::Refused(format!(
                "node {id} is the only voter: promote another one first"
            ))),
            Change::Promote(_) | Change::Remove(_) => Ok(false),
        }
    }

    fn lags(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        raft.prs().get(id).is_none_or(|progress| {
            !progress.recent_active
                || progress.matched < self.conf().index
                || progress.matched + PROMOTION_LAG < raft.raft_log.last_index()
        })
    }

    /// Takes over the changes of the configuration among entries that were just committed. They
    /// go to disk with the batch `number`, before the state machine hears of these entries.
    /// Whether there were any.
    pub(super) fn reconfigure(
        &mut self,
        number: u64,
        committed: &[Entry],
        batch: &mut Batch,
    ) -> Result<bool, Fatal> {
        let mut changed = false;
        for entry in committed {
            // After a restart the state machine gets entries again that the configuration has.
            if entry.get_entry_type() == EntryType::EntryNormal || entry.index <= self.conf().index
            {
                continue;
            }
            let unusable = |e| {
                let what = format!(
                    "entry {} of the journal holds no change of the membership that this version \
                     of Forebay knows: use a newer one",
                    entry.index
                );
                Fatal::caused(what, e)
            };
            let change = ConfChangeV2::from_bytes(&entry.data).map_err(unusable)?;
            self.raw
                .apply_conf_change(&change)
                .map_err(|e| unusable(e.into()))?;
            let conf = self.conf().after(entry.index, &change);
            let raft = &mut self.raw.raft;
            if conf.was_removed(self.id) && raft.state == StateRole::Leader {
                // The library cannot lead a group that it is not in.
                raft.become_follower(raft.term, 0);
            }
            let gone = change.changes.iter().map(|single| single.node_id);
            let gone = gone.filter(|id| conf.was_removed(*id) && *id != self.id);
            self.leavers.extend(gone);
            let applied = self.applied;
            batch
                .ops
                .extend(self.raw.mut_store().set_conf(conf, applied).ops);
            if !changed {
                self.hold = Some((number, entry.index));
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Whether the configuration survives a crash of this node.
    pub(super) fn is_conf_durable(&self) -> bool {
        self.hold.is_none() && !self.incoming.is_being_written()
    }

    /// Tells those who left, once this node cannot forget it any more: until then it may need
    /// their votes.
    pub(super) fn dismiss_leavers(&mut self) {
        if self.is_conf_durable() {
            for id in std::mem::take(&mut self.leavers) {
                self.dismiss(id);
            }
        }
    }

    /// A node that has seen its own removal goes on until a member says that it knows, too: those
    /// that do not know may need its vote to learn of it.
    pub(super) fn tick_removed(&mut self) {
        if !self.conf().was_removed(self.id) {
            return;
        }
        self.left_ticks += 1;
        if self.left_ticks < ELECTION_TICKS as u32 {
            return;
        }
        self.left_ticks = 0;
        for member in self.conf().members() {
            // It is answered as any message of a node that was removed, and else says nothing.
            let mut message = Message {
                from: self.id,
                to: member.id,
                ..Message::default()
            };
            message.set_msg_type(MessageType::MsgUnreachable);
            self.orders.push(send(message));
        }
    }

    /// Tells a node that it was removed: nobody sends it the entry that says so.
    pub(super) fn dismiss(&mut self, id: u64) {
        let mut message = Message {
            from: self.id,
            to: id,
            commit: self.conf().index,
            ..Message::default()
        };
        // Raft has no such message, and never sends one of this kind to another node.
        message.set_msg_type(MessageType::MsgUnreachable);
        self.orders.push(send(message));
    }

    /// Somebody says that this node was removed by the entry `message.commit`, or one before it.
    pub(super) fn dismissed(&self, message: &Message) -> Result<(), Fatal> {
        let conf = self.conf();
        if message.commit > conf.index || message.commit > 0 && conf.was_removed(self.id) {
            return Err(removed(self.id));
        }
        Ok(())
    }

    /// A message to a node that waits to join. The founders stand in no entry of the journal, so
    /// it must begin with a snapshot; and it must not vote: it may have done so in a former life.
    pub(super) fn receive_outside(&mut self, message: Message) {
        match message.get_msg_type() {
            MessageType::MsgAppend => {
                let mut answer = Message {
                    from: self.id,
                    to: message.from,
                    term: message.term,
                    index: message.index,
                    reject: true,
                    request_snapshot: ANY_SNAPSHOT,
                    ..Message::default()
                };
                answer.set_msg_type(MessageType::MsgAppendResponse);
                self.orders.push(send(answer));
            }
            MessageType::MsgHeartbeat => self.step(message),
            _ => {}
        }
    }

    /// Hears from a follower that has what it was sent. One that asked for a snapshot has it.
    pub(super) fn note_progress(&mut self, message: &Message) {
        if message.get_msg_type() == MessageType::MsgAppendResponse
            && !message.reject
            && message.index > 0
            && let Some(progress) = self.raw.raft.mut_prs().get_mut(message.from)
        {
            progress.pending_request_snapshot = 0;
        }
    }
}
