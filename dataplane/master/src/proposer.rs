//! From a change to its outcome: stamps the time, proposes, waits until it is applied.

use crate::{
    error::{Error, Result},
    machine::Outcomes,
};
use forebay_consensus::Raft;
use forebay_meta::{Change, Command, Reply, RequestId};
use forebay_types::Code;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    sync::Arc,
    task::Poll,
    time::{SystemTime, UNIX_EPOCH},
};

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Proposes changes: the masters' own, and those of clients.
pub(crate) struct Proposer {
    raft: Raft<Outcomes>,
}

impl Proposer {
    pub(crate) fn new(raft: Raft<Outcomes>) -> Proposer {
        Proposer { raft }
    }

    /// The journal.
    pub(crate) fn raft(&self) -> &Raft<Outcomes> {
        &self.raft
    }

    /// Proposes a change of the masters' own; resolves when it is durable and applied here.
    pub(crate) async fn propose(&self, change: Change) -> Result<Reply> {
        match self.propose_all([(None, change)]).await?.pop() {
            Some(Reply::Refused { code, reason }) => Err(Error::new(code, reason)),
            Some(reply) => Ok(reply),
            None => Err(Error::new(Code::Internal, "a command without an outcome")),
        }
    }

    /// Proposes changes, small ones if more than one, as one entry of the journal; resolves when
    /// they are durable and applied here, with a reply to each.
    pub(crate) async fn propose_all(
        &self,
        changes: impl IntoIterator<Item = (Option<RequestId>, Change)>,
    ) -> Result<Vec<Reply>> {
        let now_ns = now_ns();
        let command = |(request, change)| Command {
            now_ns,
            request,
            change,
        };
        let commands: Vec<Command> = changes.into_iter().map(command).collect();
        let bytes = postcard::to_allocvec(&commands)
            .map_err(|e| Error::new(Code::Internal, format!("cannot encode a command: {e}")))?;
        let outcomes = self.raft.propose(bytes.into()).await?;
        Ok(outcomes.into_iter().map(|outcome| outcome.reply).collect())
    }
}

/// What changes of entries did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// New names.
    pub(crate) added: u64,
    /// Names that lead to a new inode.
    pub(crate) changed: u64,
    /// Names gone.
    pub(crate) removed: u64,
}

impl std::ops::AddAssign for Changes {
    fn add_assign(&mut self, other: Changes) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}

impl From<&Reply> for Changes {
    fn from(reply: &Reply) -> Changes {
        match *reply {
            Reply::Entries {
                added,
                changed,
                removed,
            } => Changes {
                added,
                changed,
                removed,
            },
            _ => Changes::default(),
        }
    }
}

/// Proposals in order, a few in flight.
pub(crate) struct Pipeline {
    proposer: Arc<Proposer>,
    flying: FuturesUnordered<BoxFuture<'static, Result<Reply>>>,
    changes: Changes,
}

impl Pipeline {
    /// Proposals in flight. One fsync serves all that wait, so more would only hold memory.
    const DEPTH: usize = 4;

    pub(crate) fn new(proposer: Arc<Proposer>) -> Pipeline {
        Pipeline {
            proposer,
            flying: FuturesUnordered::new(),
            changes: Changes::default(),
        }
    }

    /// Proposes after everything pushed before; waits while too many are in flight. An error may
    /// be that of an earlier proposal.
    pub(crate) async fn push(&mut self, change: Change) -> Result<()> {
        while self.flying.len() >= Pipeline::DEPTH {
            self.land().await?;
        }
        let proposer = self.proposer.clone();
        let mut proposal = async move { proposer.propose(change).await }.boxed();
        // The first poll hands it to the journal, so the order of pushes is the journal's.
        match futures::poll!(&mut proposal) {
            Poll::Ready(reply) => self.changes += Changes::from(&reply?),
            Poll::Pending => self.flying.push(proposal),
        }
        Ok(())
    }

    /// Waits for all that was pushed; the sum of what it did since the last call.
    pub(crate) async fn drain(&mut self) -> Result<Changes> {
        while !self.flying.is_empty() {
            self.land().await?;
        }
        Ok(std::mem::take(&mut self.changes))
    }

    async fn land(&mut self) -> Result<()> {
        if let Some(reply) = self.flying.next().await {
            self.changes += Changes::from(&reply?);
        }
        Ok(())
    }
}
