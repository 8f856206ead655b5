//! Those who wait for another leader, or for a change of the membership.

use crate::{
    ChangeError,
    node::{Accepted, ELECTION_TICKS, Position},
};
use tokio::sync::oneshot;

/// Ticks that handing over the leadership may take.
pub(crate) const TRANSFER_TICKS: u64 = 2 * ELECTION_TICKS as u64;

/// Told the end.
pub(crate) type Reply = oneshot::Sender<Result<(), ChangeError>>;

/// Somebody waits for `to` to lead, until the tick `until`.
struct Transfer {
    to: u64,
    until: u64,
    reply: Reply,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Changes {
    transfers: Vec<Transfer>,
    /// Of the membership, by the entry that makes them.
    changes: Vec<(Accepted, Reply)>,
}

impl Changes {
    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.transfers.is_empty() && self.changes.is_empty()
    }

    /// Waits for `to` to lead.
    pub(crate) fn transfer(&mut self, to: u64, now: u64, reply: Reply) {
        let until = now + TRANSFER_TICKS;
        self.transfers.push(Transfer { to, until, reply });
    }

    /// Waits for a change to be committed.
    pub(crate) fn change(&mut self, accepted: Accepted, reply: Reply) {
        self.changes.push((accepted, reply));
    }

    /// This is the position from now on.
    pub(crate) fn report(&mut self, position: &Position) {
        let leads = |transfer: &mut Transfer| transfer.to == position.leader;
        for transfer in self.transfers.extract_if(.., leads) {
            let _ = transfer.reply.send(Ok(()));
        }
        let lost = |(accepted, _): &mut (Accepted, Reply)| {
            !position.leading || accepted.term != position.term
        };
        for (_, reply) in self.changes.extract_if(.., lost) {
            let lost = "this node lost the leadership before the change was committed";
            let _ = reply.send(Err(ChangeError::Closed(lost.to_owned())));
        }
    }

    /// The configuration is now that of the entry `index`.
    pub(crate) fn configured(&mut self, index: u64) {
        let done = |(accepted, _): &mut (Accepted, Reply)| accepted.first <= index;
        for (_, reply) in self.changes.extract_if(.., done) {
            let _ = reply.send(Ok(()));
        }
    }

    /// Gives up on what takes too long.
    pub(crate) fn expire(&mut self, now: u64) {
        for transfer in self.transfers.extract_if(.., |t| t.until <= now) {
            let late = format!("node {} did not take over in time", transfer.to);
            let _ = transfer.reply.send(Err(ChangeError::NotYet(late)));
        }
    }
}
