//! What a master with an empty directory does: found a group with the others, or join the one that is
//! there.
//!
//! A group is founded only when all its masters are there and none of them knows of one: a master that
//! lost its disk must not vote again as the one that it was, and it cannot know that it did.

use crate::{
    config::MasterConfig, listen::Listener, node_id, server, service::hello::HelloService,
};
use anyhow::Context;
use bytes::Bytes;
use forebay_client::{Master, channel::connect};
use forebay_consensus::{Bootstrap, Raft};
use forebay_proto::v1::{AddMasterRequest, HelloRequest, HelloResponse, raft_client::RaftClient};
use forebay_service::{Shutdown, config::ConfigError, data_dir::DataDir};
use forebay_types::{Address, Addresses};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often the others are asked.
const AGAIN: Duration = Duration::from_millis(200);

/// After the leader has refused, or nobody has answered: it may be for good.
const REFUSED: Duration = Duration::from_secs(5);

/// How long one of them may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Rounds without a decision after which the log says who is waited for.
const PATIENCE: u32 = 25;

/// How this master starts.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Its node in raft.
    pub(crate) node: u64,
    /// What raft does if its journal is empty.
    pub(crate) bootstrap: Bootstrap,
}

/// Finds out how to start, and records it in the directory.
pub(crate) async fn arrive(
    config: &MasterConfig,
    address: &Address,
    listener: &Listener,
    data_dir: &DataDir,
    shutdown: &Shutdown,
) -> anyhow::Result<Arrival> {
    let node = if let Some(node) = data_dir.id() {
        check(config.id, node, data_dir)?;
        node
    } else {
        let node = decide(config, listener, shutdown).await?;
        data_dir.bind_id(node)?;
        node
    };
    let bootstrap = if node_id::founded(node) {
        Bootstrap::Found(founders(config, address))
    } else {
        Bootstrap::Join
    };
    Ok(Arrival { node, bootstrap })
}

/// The directory of another master, or one whose journal somebody took away, is refused.
fn check(master: u64, node: u64, data_dir: &DataDir) -> Result<(), ConfigError> {
    let dir = data_dir.path();
    let bound = node_id::master_of(node);
    if bound != master {
        return Err(ConfigError(format!(
            "data directory {} belongs to master {bound} and not to master {master}: give each master \
             its own directory",
            dir.display()
        )));
    }
    if data_dir.cluster().is_some() && !dir.join("journal").exists() {
        return Err(ConfigError(format!(
            "data directory {} has lost its journal: remove the whole directory, and this master joins \
             the others anew",
            dir.display()
        )));
    }
    Ok(())
}

fn founders(config: &MasterConfig, address: &Address) -> BTreeMap<u64, Bytes> {
    let context = |address: &Address| Bytes::from(address.to_string());
    if config.peers.is_empty() {
        return BTreeMap::from([(node_id::founder(config.id), context(address))]);
    }
    let peers = config.peers.iter();
    peers
        .map(|peer| (node_id::founder(peer.id), context(&peer.address)))
        .collect()
}

/// The node that this master is from now on.
async fn decide(
    config: &MasterConfig,
    listener: &Listener,
    shutdown: &Shutdown,
) -> anyhow::Result<u64> {
    let others: Vec<Address> = others(config);
    if others.is_empty() {
        return Ok(node_id::founder(config.id));
    }
    // The others ask the same of this one.
    let asking = Shutdown::new();
    let hello = HelloService::empty(config.id);
    server::serve_hello(
        listener.twin().context("cannot listen twice")?,
        hello,
        &asking,
    );
    let decided = tokio::select! {
        node = ask(config, &others) => Some(node),
        () = shutdown.begun() => None,
    };
    asking.finish().await;
    decided.context("stopped before the other masters answered")
}

fn others(config: &MasterConfig) -> Vec<Address> {
    let peers = config.peers.iter().filter(|peer| peer.id != config.id);
    let peers = peers.map(|peer| peer.address.clone());
    peers.chain(config.join.iter().cloned()).collect()
}

async fn ask(config: &MasterConfig, others: &[Address]) -> u64 {
    let mut rounds = 0;
    loop {
        let answers = others.iter().map(hello);
        let answers = futures::future::join_all(answers).await;
        if answers
            .iter()
            .flatten()
            .any(|answer| !answer.cluster.is_empty())
        {
            let chance = RandomState::new().hash_one(config.id) as u32;
            let node = node_id::joiner(config.id, chance);
            tracing::info!(node, "there is a group already: joining it");
            return node;
        }
        if config.join.is_empty() && answers.iter().all(Option::is_some) {
            tracing::info!("all masters are there: founding a group");
            return node_id::founder(config.id);
        }
        rounds += 1;
        if rounds == PATIENCE {
            let silent = others.iter().zip(&answers).filter(|(_, a)| a.is_none());
            let silent: Vec<_> = silent.map(|(address, _)| address.to_string()).collect();
            tracing::warn!(silent = silent.join(", "), "waiting for the other masters");
        }
        sleep(AGAIN).await;
    }
}

/// Who serves at an address; `None`: nobody answers.
pub(crate) async fn hello(address: &Address) -> Option<HelloResponse> {
    let mut client = RaftClient::new(connect(address));
    let answer = timeout(ANSWER, client.hello(HelloRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner())
}

/// Asks the leader to take this node, which others find at `address`, into the group, until it is in.
pub(crate) async fn ask_to_join<O: Send + 'static>(
    raft: Raft<O>,
    node: u64,
    config: MasterConfig,
    address: Address,
) {
    let Ok(masters) = Addresses::new(others(&config)) else {
        return;
    };
    let master = Master::new(masters);
    let address = address.to_string();
    while !raft.members().iter().any(|member| member.id == node) {
        let ask = || {
            let (mut admin, address) = (master.admin(), address.clone());
            async move { admin.add_master(AddMasterRequest { address }).await }
        };
        let pause = match master.retrying("join", ask).await {
            Ok(_) => AGAIN,
            Err(error) => {
                tracing::warn!(%error, "cannot join the group; trying again");
                REFUSED
            }
        };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_master_or_without_its_journal_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path(), "master").unwrap();
        let said = |master, node| check(master, node, &data_dir).err().map(|e| e.0);
        assert_eq!(said(2, node_id::founder(2)), None);
        let other = said(2, node_id::joiner(3, 9)).unwrap();
        assert!(other.contains("belongs to master 3"), "{other}");
        data_dir.bind("c").unwrap();
        let lost = said(2, 2).unwrap();
        assert!(lost.contains("remove the whole directory"), "{lost}");
        std::fs::create_dir(dir.path().join("journal")).unwrap();
        assert_eq!(said(2, 2), None);
    }
}
