//! Who belongs to the group: part of the replicated configuration, with the address of each.

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a node with an empty journal does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Founds a group of these voters, each with its context. Every one of them is started with
    /// the same value.
    Found(BTreeMap<u64, Bytes>),
    /// Waits until the leader of an existing group, which was told of this node, sends the state.
    /// Until then the node neither votes nor counts.
    Join,
}

impl Bootstrap {
    /// A group of voters without contexts.
    pub fn found(voters: impl IntoIterator<Item = u64>) -> Bootstrap {
        Bootstrap::Found(voters.into_iter().map(|id| (id, Bytes::new())).collect())
    }
}

/// A node of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Never 0, and never used again after the node was removed.
    pub id: u64,
    /// Whether it counts; a learner only receives the journal.
    pub voter: bool,
    /// What the others need to know of it (its address); opaque to this crate.
    pub context: Bytes,
}

/// A change of the membership; one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddLearner(u64, Bytes),
    Promote(u64),
    Remove(u64),
}

impl Change {
    /// As raft has it.
    pub(crate) fn to_raft(&self) -> ConfChangeV2 {
        let (kind, node_id, context) = match self {
            Change::AddLearner(id, context) => {
                (ConfChangeType::AddLearnerNode, *id, context.to_vec())
            }
            Change::Promote(id) => (ConfChangeType::AddNode, *id, Vec::new()),
            Change::Remove(id) => (ConfChangeType::RemoveNode, *id, Vec::new()),
        };
        let mut single = ConfChangeSingle {
            node_id,
            ..ConfChangeSingle::default()
        };
        single.set_change_type(kind);
        ConfChangeV2 {
            changes: vec![single],
            context,
            ..ConfChangeV2::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    voter: bool,
    context: Vec<u8>,
}

/// A configuration of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conf {
    /// The entry that made it so; 0 for the founding.
    pub(crate) index: u64,
    seats: BTreeMap<u64, Seat>,
    /// Every id that was a member once.
    removed: BTreeSet<u64>,
}

impl Conf {
    /// The configuration that an empty journal begins with.
    pub(crate) fn begin(bootstrap: &Bootstrap) -> Conf {
        let mut conf = Conf::default();
        if let Bootstrap::Found(voters) = bootstrap {
            let seat = |context: &Bytes| Seat {
                voter: true,
                context: context.to_vec(),
            };
            conf.seats = voters.iter().map(|(id, c)| (*id, seat(c))).collect();
        }
        conf
    }

    /// Whether nothing is known of the group yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether `id` belongs to the group.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.seats.contains_key(&id)
    }

    /// Whether `id` is a member that counts.
    pub(crate) fn is_voter(&self, id: u64) -> bool {
        self.seats.get(&id).is_some_and(|seat| seat.voter)
    }

    /// Whether `id` was a member once.
    pub(crate) fn was_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The members that count.
    pub(crate) fn voters(&self) -> impl Iterator<Item = u64> {
        let voters = self.seats.iter().filter(|(_, seat)| seat.voter);
        voters.map(|(id, _)| *id)
    }

    /// Whether `id` is the only voter.
    pub(crate) fn is_only_voter(&self, id: u64) -> bool {
        self.voters().eq([id])
    }

    /// Whether `id` is the only member.
    pub(crate) fn is_alone(&self, id: u64) -> bool {
        self.seats.keys().eq([&id])
    }

    /// All members, by id.
    pub(crate) fn members(&self) -> Vec<Member> {
        let member = |(id, seat): (&u64, &Seat)| Member {
            id: *id,
            voter: seat.voter,
            context: seat.context.clone().into(),
        };
        self.seats.iter().map(member).collect()
    }

    /// As raft has it.
    pub(crate) fn to_raft(&self) -> ConfState {
        let learners = self.seats.iter().filter(|(_, seat)| !seat.voter);
        ConfState {
            voters: self.voters().collect(),
            learners: learners.map(|(id, _)| *id).collect(),
            ..ConfState::default()
        }
    }

    /// The configuration after the change in the entry `index`.
    pub(crate) fn after(&self, index: u64, change: &ConfChangeV2) -> Conf {
        let mut conf = self.clone();
        conf.index = index;
        for single in &change.changes {
            let id = single.node_id;
            match single.get_change_type() {
                ConfChangeType::AddNode => {
                    let seat = conf.seats.entry(id).or_insert(Seat {
                        voter: true,
                        context: change.context.clone(),
                    });
                    seat.voter = true;
                }
                ConfChangeType::AddLearnerNode => {
                    let seat = Seat {
                        voter: false,
                        context: change.context.clone(),
                    };
                    conf.seats.insert(id, seat);
                }
                ConfChangeType::RemoveNode => {
                    conf.seats.remove(&id);
                    conf.removed.insert(id);
                }
            }
        }
        conf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_keep_contexts_and_remember_who_left() {
        let mut conf = Conf::begin(&Bootstrap::found([1]));
        assert!(conf.is_alone(1) && conf.is_only_voter(1));
        let changes = [
            Change::AddLearner(2, Bytes::from_static(b"two:1")),
            Change::Promote(2),
            Change::Remove(1),
        ];
        let after: Vec<_> = (5..)
            .zip(&changes)
            .map(|(index, change)| {
                conf = conf.after(index, &change.to_raft());
                (conf.index, conf.to_raft().voters, conf.to_raft().learners)
            })
            .collect();
        let expected = [
            (5, vec![1], vec![2]),
            (6, vec![1, 2], vec![]),
            (7, vec![2], vec![]),
        ];
        assert_eq!(after, expected);
        let two = Member {
            id: 2,
            voter: true,
            context: Bytes::from_static(b"two:1"),
        };
        assert_eq!(conf.members(), [two]);
        assert!(conf.was_removed(1) && !conf.contains(1));
    }
}
