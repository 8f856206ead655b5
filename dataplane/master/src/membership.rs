//! Who belongs to the quorum: taking masters in and letting them go, by whoever leads.

use crate::{
    arrival::hello,
    error::{Error, Result},
    machine::Outcomes,
    node_id,
};
use bytes::Bytes;
use forebay_consensus::{ChangeError, Member, Raft};
use forebay_types::{Address, Code};
use std::time::Duration;
use tokio::time::sleep;

/// How often a node that receives the journal is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Takes in the master that serves at `address`; returns its node. Another node of the same master goes
/// for good: its disk is lost, or it would be that node still.
pub(crate) async fn add(raft: &Raft<Outcomes>, cluster: &str, address: &Address) -> Result<u64> {
    let refuse = |text: String| Err(Error::new(Code::InvalidArgument, text));
    let Some(hello) = hello(address).await else {
        return refuse(format!(
            "no master answers at {address}: start it first, with 'join' in its configuration"
        ));
    };
    if hello.node == 0 {
        return Err(Error::new(
            Code::Unavailable,
            format!("the master at {address} is still starting"),
        ));
    }
    if !hello.cluster.is_empty() && hello.cluster != cluster {
        return refuse(format!(
            "the master at {address} belongs to cluster {}: give it an empty directory",
            hello.cluster
        ));
    }
    if hello.cluster.is_empty() && node_id::founded(hello.node) {
        return refuse(format!(
            "the master at {address} has founded a cluster of its own: give it an empty directory, and \
             'join' instead of 'peers' in its configuration"
        ));
    }
    let members = raft.members();
    if members.iter().any(|member| member.id == hello.node) {
        return Ok(hello.node);
    }
    let former = members
        .iter()
        .find(|member| node_id::master_of(member.id) == hello.master);
    if let Some(former) = former {
        tracing::info!(
            former.id,
            node = hello.node,
            "a master comes back with an empty disk"
        );
        raft.remove(former.id).await.map_err(changed)?;
    }
    let context = Bytes::from(address.to_string());
    raft.add_learner(hello.node, context)
        .await
        .map_err(changed)?;
    Ok(hello.node)
}

/// Lets a master go for good.
pub(crate) async fn remove(raft: &Raft<Outcomes>, master: u64) -> Result<()> {
    raft.remove(node_of(raft, master)?).await.map_err(changed)
}

/// Hands the lead to a master.
pub(crate) async fn transfer(raft: &Raft<Outcomes>, master: u64) -> Result<()> {
    raft.transfer(node_of(raft, master)?).await.map_err(changed)
}

fn node_of(raft: &Raft<Outcomes>, master: u64) -> Result<u64> {
    let members = raft.members();
    let named = members
        .iter()
        .find(|member| node_id::master_of(member.id) == master);
    named.map(|member| member.id).ok_or_else(|| {
        let known: Vec<_> = members
            .iter()
            .map(|member| node_id::master_of(member.id).to_string())
            .collect();
        let known = known.join(", ");
        let text = format!("no master {master} is in the quorum: it has {known}");
        Error::new(Code::NotFound, text)
    })
}

/// Lets every node that receives the journal count as soon as it has caught up; until dropped.
pub(crate) async fn promote(raft: Raft<Outcomes>) {
    loop {
        let members = raft.members();
        for learner in members.iter().filter(|member| !member.voter) {
            match raft.promote(learner.id).await {
                Ok(()) => tracing::info!(node = learner.id, "a master has caught up and counts"),
                Err(error) => tracing::debug!(node = learner.id, %error, "not promoted yet"),
            }
        }
        sleep(LOOK).await;
    }
}

/// The address in a member's context.
pub(crate) fn address(member: &Member) -> Option<Address> {
    std::str::from_utf8(&member.context).ok()?.parse().ok()
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn changed(error: ChangeError) -> Error {
    let code = match &error {
        ChangeError::NotLeader { .. } => Code::NotLeader,
        ChangeError::Refused(_) => Code::InvalidArgument,
        ChangeError::NotYet(_) | ChangeError::Closed(_) => Code::Unavailable,
    };
    Error::new(code, error.to_string())
}
