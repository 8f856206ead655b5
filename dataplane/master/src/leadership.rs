//! Whether this master leads, and who does: begins and ends reigns as raft elects, and tells callers.

use crate::{
    error::{Error, Result},
    follower::Follower,
    machine::Outcomes,
    membership,
    metrics::Metrics,
    node_id,
    reign::{Office, Reign},
    service::source::Source,
    transport::Peers,
};
use forebay_consensus::{Member, ProposeError, Raft, Status};
use forebay_service::{Shutdown, data_dir::DataDir};
use forebay_types::{Address, Code};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How often raft is asked where it stands: a part of the time without a leader.
const LOOK: Duration = Duration::from_millis(10);

/// The same for an only master, whom nobody takes the lead from.
const LOOK_ALONE: Duration = Duration::from_secs(1);

/// How long a reign that cannot begin waits for the next attempt.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a call waits for a reign that is beginning.
const BEGINNING: Duration = Duration::from_secs(5);

/// A follower further behind than this is not ready, in entries of the journal.
const BEHIND: u64 = 10_000;

/// Who leads, as far as this master knows.
#[derive(Clone, Default)]
struct Standing {
    /// Number of the leader; 0: nobody known.
    leader: u64,
    /// This master's reign.
    reign: Option<Arc<Reign>>,
    /// What it answers while it does not lead.
    follower: Option<Arc<Follower>>,
    /// Why this master, which raft has elected, cannot lead.
    fault: Option<Error>,
}

/// Whether this master leads.
pub(crate) struct Leadership {
    node: u64,
    /// Of the configuration: where masters serve now, whatever the journal says.
    configured: BTreeMap<u64, Address>,
    raft: Raft<Outcomes>,
    peers: Arc<Peers>,
    standing: watch::Sender<Standing>,
}

impl Leadership {
    /// Of node `node`, followed by [`Leadership::run`]. `configured`: addresses by master.
    pub(crate) fn new(
        node: u64,
        configured: BTreeMap<u64, Address>,
        raft: Raft<Outcomes>,
        peers: Arc<Peers>,
    ) -> Leadership {
        Leadership {
            node,
            configured,
            raft,
            peers,
            standing: watch::Sender::default(),
        }
    }

    /// This master's node.
    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// The ways to the others.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Where a member of the quorum serves.
    pub(crate) fn address(&self, member: &Member) -> Option<Address> {
        let configured = self.configured.get(&node_id::master_of(member.id));
        configured.cloned().or_else(|| membership::address(member))
    }

    /// Where all nodes of the quorum serve, this one included.
    fn addresses(&self, members: &[Member]) -> BTreeMap<u64, Address> {
        let known = members
            .iter()
            .filter_map(|m| Some((m.id, self.address(m)?)));
        known.collect()
    }

    /// The present reign; the error says that another master leads. Nothing here proves that the
    /// reign still holds: proposals and barriers do.
    pub(crate) async fn reign(&self) -> Result<Arc<Reign>> {
        if let Some(reign) = &self.standing.borrow().reign {
            return Ok(reign.clone());
        }
        if self.raft.status().is_leader {
            let mut standing = self.standing.subscribe();
            let begun = standing.wait_for(|s| {
                s.reign.is_some() || s.fault.is_some() || !self.raft.status().is_leader
            });
            let begun = timeout(BEGINNING, begun).await;
            if let Ok(Ok(standing)) = &begun {
                if let Some(reign) = &standing.reign {
                    return Ok(reign.clone());
                }
                if let Some(fault) = &standing.fault {
                    let text = format!("the leading master cannot serve: {fault}");
                    return Err(Error::new(Code::Unavailable, text));
                }
            } else {
                let text = "the leading master is not ready to serve yet";
                return Err(Error::new(Code::Unavailable, text));
            }
        }
        let leader = Some(self.standing.borrow().leader).filter(|leader| *leader != 0);
        Err(ProposeError::NotLeader { leader }.into())
    }

    /// Who answers questions here: the present reign, or, if any voter will do, this master while
    /// another leads.
    pub(crate) async fn source(&self, any_voter: bool) -> Result<Source> {
        match self.reign().await {
            Ok(reign) => Ok(Source::Reign(reign)),
            Err(error) => match self.standing.borrow().follower.clone() {
                Some(follower) if any_voter => Ok(Source::Follower(follower)),
                _ => Err(error),
            },
        }
    }

    /// The present reign, proven: what is read of the state afterwards shows all that was ever
    /// acknowledged.
    pub(crate) async fn reading(&self) -> Result<Arc<Reign>> {
        let reign = self.reign().await?;
        reign.namespace.barrier().await?;
        Ok(reign)
    }

    /// Where the leader serves, waiting up to `patience` until somebody leads.
    pub(crate) async fn leader(&self, patience: Duration) -> Option<Address> {
        let mut standing = self.standing.subscribe();
        let known = timeout(patience, standing.wait_for(|s| s.leader != 0)).await;
        let leader = known.ok()?.ok()?.leader;
        self.addresses(&self.raft.members()).remove(&leader)
    }

    /// Resolves when the first reign has begun, or cannot.
    pub(crate) async fn begun(&self) -> Result<()> {
        let mut standing = self.standing.subscribe();
        let begun = standing
            .wait_for(|s| s.reign.is_some() || s.fault.is_some())
            .await;
        match begun.ok().and_then(|s| s.fault.clone()) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// Why this master is not ready to serve; `None` when it is.
    pub(crate) fn unready(&self) -> Option<String> {
        let Status {
            leader,
            is_leader,
            committed,
            applied,
            disk_full,
            ..
        } = self.raft.status();
        let standing = self.standing.borrow();
        if leader == 0 {
            Some("no leader".to_owned())
        } else if disk_full {
            Some(
                "the disk is full, nothing can be changed: make space in the data directory"
                    .to_owned(),
            )
        } else if let Some(fault) = &standing.fault {
            Some(fault.to_string())
        } else if is_leader && standing.reign.is_none() {
            Some("the lead is being taken over".to_owned())
        } else if committed.saturating_sub(applied) > BEHIND {
            Some(format!("{} entries behind", committed - applied))
        } else {
            None
        }
    }

    /// Follows raft until it is dropped.
    pub(crate) async fn run(
        self: Arc<Self>,
        office: Office,
        data_dir: Arc<DataDir>,
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
    ) {
        self.end(&office);
        let mut reigning = None;
        let mut members = Vec::new();
        loop {
            let now = self.raft.members();
            if now != members {
                members = now;
                let addresses = self.addresses(&members);
                for (node, address) in &addresses {
                    self.peers.learn(*node, address);
                }
                self.peers.keep(&addresses);
            }
            let look = if members.len() == 1 { LOOK_ALONE } else { LOOK };
            let status = self.raft.status();
            metrics.stands(&status);
            let elected = status.is_leader.then_some(status.term);
            if reigning != elected {
                self.end(&office);
                reigning = None;
            }
            self.standing.send_if_modified(|standing| {
                let changed = standing.leader != status.leader;
                standing.leader = status.leader;
                if elected.is_none() {
                    standing.fault = None;
                }
                changed
            });
            if let (Some(term), None) = (elected, reigning)
                && self.begin(&office, term).await
            {
                reigning = elected;
            }
            if data_dir.cluster().is_none()
                && let Err(error) = bind(&office, &data_dir)
            {
                tracing::error!(%error, "the master shuts down");
                shutdown.begin();
                return;
            }
            sleep(look).await;
        }
    }

    /// Returns whether the reign of this term has begun.
    async fn begin(&self, office: &Office, term: u64) -> bool {
        tracing::info!(term, "elected: taking over the lead");
        match office.enter(term).await {
            Ok(reign) => {
                tracing::info!(term, cluster = reign.cluster, "this master leads");
                let reign = Arc::new(reign);
                self.standing.send_modify(|standing| {
                    standing.reign = Some(reign);
                    standing.fault = None;
                    if let Some(follower) = standing.follower.take() {
                        follower.shutdown.begin();
                    }
                });
                true
            }
            Err(error) if !self.raft.status().is_leader => {
                tracing::info!(term, %error, "the lead was lost before it was taken over");
                false
            }
            Err(error) => {
                tracing::error!(term, %error, "cannot take over the lead; trying again");
                self.standing.send_modify(|s| s.fault = Some(error));
                sleep(AGAIN).await;
                false
            }
        }
    }

    /// Another term: whoever reigned or followed in the last one does so no longer.
    fn end(&self, office: &Office) {
        let now = Standing {
            follower: Some(Arc::new(Follower::new(office))),
            ..Standing::default()
        };
        let former = self.standing.send_replace(now);
        if let Some(reign) = former.reign {
            tracing::info!("this master leads no longer");
            reign.shutdown.begin();
        }
        if let Some(follower) = former.follower {
            follower.shutdown.begin();
        }
    }
}

/// Binds the directory to the cluster once that is known from the journal.
fn bind(office: &Office, data_dir: &DataDir) -> anyhow::Result<()> {
    if let Some(cluster) = office.machine.meta().cluster()? {
        data_dir.bind(&cluster)?;
    }
    Ok(())
}
