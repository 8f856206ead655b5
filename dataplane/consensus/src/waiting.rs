//! Proposers who wait until their entry is committed. Pure; the driver and the simulation share
//! it.

use crate::node::{Accepted, Position};
use raft::eraftpb::Entry;
use std::collections::VecDeque;

/// A command in the journal whose outcome somebody waits for.
struct Pending<P> {
    index: u64,
    term: u64,
    proposer: P,
}

/// The proposers `P` that wait, in the order of the journal.
pub(crate) struct Waiting<P> {
    pending: VecDeque<Pending<P>>,
    /// Where the node last said that it stands.
    position: Position,
}

/// Whose command a committed entry is.
pub(crate) enum Claim<P> {
    /// Of nobody who waits here.
    Nobody,
    /// Of this one.
    Proposer(P),
    /// This one's command was at the same place, and is lost.
    Lost(P),
}

impl<P> Waiting<P> {
    /// Nobody waits.
    pub(crate) fn new() -> Waiting<P> {
        Waiting {
            pending: VecDeque::new(),
            position: Position::default(),
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The commands of `proposers`, in this order, were accepted.
    pub(crate) fn begin(&mut self, accepted: Accepted, proposers: impl IntoIterator<Item = P>) {
        let pending = proposers
            .into_iter()
            .zip(accepted.first..)
            .map(|(proposer, index)| Pending {
                index,
                term: accepted.term,
                proposer,
            });
        self.pending.extend(pending);
    }

    /// Whoever proposed this very entry, which is committed.
    pub(crate) fn claim(&mut self, entry: &Entry) -> Claim<P> {
        match self
            .pending
            .pop_front_if(|pending| pending.index <= entry.index)
        {
            None => Claim::Nobody,
            Some(pending) if (pending.index, pending.term) == (entry.index, entry.term) => {
                Claim::Proposer(pending.proposer)
            }
            Some(pending) => Claim::Lost(pending.proposer),
        }
    }

    /// The node stands elsewhere: those who relied on a reign that is over wait in vain.
    #[must_use = "they wait for an answer"]
    pub(crate) fn report(&mut self, position: Position) -> Vec<P> {
        let same_reign =
            position.leading && self.position.leading && position.term == self.position.term;
        self.position = position;
        if same_reign {
            return Vec::new();
        }
        // Commands of the reign that just began may be among them already.
        let lost: VecDeque<_>;
        (self.pending, lost) = self
            .pending
            .drain(..)
            .partition(|pending| position.leading && pending.term == position.term);
        lost.into_iter().map(|pending| pending.proposer).collect()
    }

    /// All of them; nobody waits any more.
    pub(crate) fn give_up(&mut self) -> Vec<P> {
        let pending = self.pending.drain(..);
        pending.map(|pending| pending.proposer).collect()
    }
}
