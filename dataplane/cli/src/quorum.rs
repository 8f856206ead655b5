//! `forebay quorum`: the masters, who leads, and who belongs to them.

use crate::{
    args::{ClusterArgs, QuorumArgs, QuorumCommand},
    failure::Failure,
    output,
};
use forebay_client::{Error, Master};
use forebay_proto::v1::{
    AddMasterRequest, QuorumRequest, QuorumResponse, RemoveMasterRequest, TransferRequest,
    quorum_response::Member,
};
use forebay_types::Address;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How long one master may take to say where it stands.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a master that is added may take to catch up before the command stops to watch.
const CATCH_UP: Duration = Duration::from_mins(10);

/// Runs the command.
pub(crate) async fn run(args: &QuorumArgs) -> Result<(), Failure> {
    let master = connect(&args.cluster)?;
    match &args.command {
        QuorumCommand::Status => status(&master, args.cluster.json).await,
        QuorumCommand::Add { address } => add(&master, address).await,
        QuorumCommand::Remove { id } => {
            let ask = || {
                let (mut admin, id) = (master.admin(), *id);
                async move { admin.remove_master(RemoveMasterRequest { id }).await }
            };
            master.retrying("remove", ask).await?;
            println!("master {id} is no longer in the quorum; its directory can be removed");
            Ok(())
        }
        QuorumCommand::Transfer { id } => {
            let ask = || {
                let (mut admin, id) = (master.admin(), *id);
                async move { admin.transfer(TransferRequest { id }).await }
            };
            master.retrying("transfer", ask).await?;
            println!("master {id} leads");
            Ok(())
        }
    }
}

fn connect(cluster: &ClusterArgs) -> Result<Master, Failure> {
    let masters = cluster.master.as_ref().ok_or_else(|| {
        Failure::usage("which cluster? give --master ADDRESS, or set FOREBAY_MASTER")
    })?;
    Ok(Master::new(masters))
}

async fn add(master: &Master, address: &Address) -> Result<(), Failure> {
    let ask = || {
        let (mut admin, address) = (master.admin(), address.to_string());
        async move { admin.add_master(AddMasterRequest { address }).await }
    };
    let node = master.retrying("add", ask).await?.into_inner().node;
    println!("the master at {address} receives the journal");
    let begun = Instant::now();
    while begun.elapsed() < CATCH_UP {
        let quorum = leader_view(master).await?;
        if quorum.members.iter().any(|m| m.node == node && m.voter) {
            println!("it has caught up and counts");
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(Failure::run(format!(
        "the master at {address} has not caught up in {} minutes; it will count when it has",
        CATCH_UP.as_secs() / 60
    )))
}

/// The quorum as its leader sees it.
async fn leader_view(master: &Master) -> Result<QuorumResponse, Failure> {
    let ask = || {
        let mut admin = master.admin();
        async move { admin.quorum(QuorumRequest { of_leader: true }).await }
    };
    Ok(master.retrying("quorum", ask).await?.into_inner())
}

async fn status(master: &Master, json: bool) -> Result<(), Failure> {
    let quorum = leader_view(master).await?;
    let mut rows = Vec::new();
    for member in &quorum.members {
        rows.push((member.clone(), standing(member).await));
    }
    if json {
        let members: Vec<_> = rows
            .iter()
            .map(|(member, standing)| {
                serde_json::json!({
                    "id": member.id,
                    "node": member.node,
                    "address": member.address,
                    "voter": member.voter,
                    "leads": member.node == quorum.leader,
                    "applied": standing.as_ref().map(|s| s.applied),
                    "committed": standing.as_ref().map(|s| s.committed),
                })
            })
            .collect();
        println!(
            "{}",
            serde_json::json!({ "term": quorum.term, "members": members })
        );
        return Ok(());
    }
    println!("term {}", quorum.term);
    let mut table = output::table(&["ID", "ROLE", "ADDRESS", "APPLIED", "BEHIND"], &[0, 3, 4]);
    for (member, standing) in &rows {
        let role = if member.node == quorum.leader {
            "leader"
        } else if member.voter {
            "follower"
        } else {
            "joining"
        };
        let (applied, behind) = match standing {
            Some(s) => (
                s.applied.to_string(),
                quorum.committed.saturating_sub(s.applied).to_string(),
            ),
            None => ("-".to_owned(), "no answer".to_owned()),
        };
        table.add_row([
            member.id.to_string(),
            role.to_owned(),
            member.address.clone(),
            applied,
            behind,
        ]);
    }
    output::print(&table);
    Ok(())
}

/// What the member itself says; `None`: it does not answer.
async fn standing(member: &Member) -> Option<QuorumResponse> {
    let address: Address = member.address.parse().ok()?;
    let master = Master::new(address);
    let ask = async {
        let request = QuorumRequest { of_leader: false };
        Ok::<_, Error>(master.admin().quorum(request).await)
    };
    Some(timeout(ANSWER, ask).await.ok()?.ok()?.ok()?.into_inner())
}
