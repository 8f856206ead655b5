//! Who waits for what the raft thread brings about: proposals for their entry to be committed,
//! reads for the index that must be applied before them. Pure; the driver and the simulation
//! share it.

use crate::node::{Accepted, Position};
use raft::eraftpb::Entry;
use std::collections::VecDeque;

/// A command in the journal whose outcome somebody waits for.
struct Pending<P> {
    index: u64,
    term: u64,
    proposer: P,
}

/// Proposers `P` and readers `R` that wait.
pub(crate) struct Waiting<P, R> {
    pending: VecDeque<Pending<P>>,
    readers: VecDeque<(u64, R)>,
    /// Token of the last read asked for.
    token: u64,
    position: Position,
}

/// Who waits in vain from here on.
#[must_use = "they wait for an answer"]
pub(crate) struct Lost<P, R> {
    pub(crate) proposers: Vec<P>,
    pub(crate) readers: Vec<R>,
}

/// Whose command an entry is.
pub(crate) enum Claim<P> {
    /// Of nobody who waits here.
    Nobody,
    /// Of this one.
    Proposer(P),
    /// This one's command was at the same place, and is lost.
    Lost(P),
}

impl<P, R> Waiting<P, R> {
    pub(crate) fn new() -> Waiting<P, R> {
        Waiting {
            pending: VecDeque::new(),
            readers: VecDeque::new(),
            token: 0,
            position: Position::default(),
        }
    }

    /// Where the node last said that it stands.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Whether no proposer waits.
    pub(crate) fn no_proposer(&self) -> bool {
        self.pending.is_empty()
    }

    /// The commands of `proposers`, in this order, were accepted.
    pub(crate) fn accepted(&mut self, accepted: Accepted, proposers: impl IntoIterator<Item = P>) {
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
    pub(crate) fn committed(&mut self, entry: &Entry) -> Claim<P> {
        match self
            .pending
            .pop_front_if(|pending| pending.index <= entry.index)
        {
            None => Claim::Nobody,
            Some(Pending {
                index,
                term,
                proposer,
            }) if (index, term) == (entry.index, entry.term) => Claim::Proposer(proposer),
            Some(Pending { proposer, .. }) => Claim::Lost(proposer),
        }
    }

    /// One round of messages, of the token returned, serves all readers that came together.
    pub(crate) fn read(&mut self, readers: impl IntoIterator<Item = R>) -> u64 {
        self.token += 1;
        self.readers
            .extend(readers.into_iter().map(|reader| (self.token, reader)));
        self.token
    }

    /// Readers whom the round of this token serves.
    pub(crate) fn readable(&mut self, token: u64) -> Vec<R> {
        let mut served = Vec::new();
        while let Some((_, reader)) = self.readers.pop_front_if(|(waiting, _)| *waiting <= token) {
            served.push(reader);
        }
        served
    }

    /// The node stands elsewhere; those who relied on a reign that is over are lost.
    pub(crate) fn report(&mut self, position: Position) -> Lost<P, R> {
        let same_reign =
            position.leading && self.position.leading && position.term == self.position.term;
        self.position = position;
        if same_reign {
            return Lost {
                proposers: Vec::new(),
                readers: Vec::new(),
            };
        }
        // Commands of the reign that just began may be among them already.
        let lost: VecDeque<_>;
        (self.pending, lost) = self
            .pending
            .drain(..)
            .partition(|pending| position.leading && pending.term == position.term);
        Lost {
            proposers: lost.into_iter().map(|pending| pending.proposer).collect(),
            readers: self.take_readers(),
        }
    }

    /// All proposers; none waits any more.
    pub(crate) fn take_proposers(&mut self) -> Vec<P> {
        self.pending
            .drain(..)
            .map(|pending| pending.proposer)
            .collect()
    }

    /// All readers; none waits any more.
    pub(crate) fn take_readers(&mut self) -> Vec<R> {
        self.readers.drain(..).map(|(_, reader)| reader).collect()
    }
}
