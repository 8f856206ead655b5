//! Three masters in one process, each on its own socket.

use crate::fixture::{Stores, config, eventually, opener};
use forebay_client::{Master as Client, Voter};
use forebay_master::{
    Master,
    config::{MasterConfig, Peer},
};
use forebay_proto::{
    convert::{code_of, leader_of},
    v1::{self, raft_client::RaftClient},
};
use forebay_service::Shutdown;
use forebay_types::{Address, Addresses, Code};
use forebay_ufs::memory::{MemStore, Operation};
use futures::future::join_all;
use prometheus_client::registry::Registry;
use std::{path::Path, sync::Arc};
use tempfile::TempDir;
use tonic::Status;

/// Masters 1 to 3; those that are stopped are absent.
struct Quorum {
    dir: TempDir,
    stores: Stores,
    running: [Option<(Master, Shutdown)>; 3],
}

fn address(dir: &Path, id: u64) -> Address {
    Address::Unix(dir.join(format!("{id}.sock")))
}

impl Quorum {
    async fn start() -> Quorum {
        let store = MemStore::new();
        store.put("d/a", "x");
        Quorum::over(store).await
    }

    async fn over(store: MemStore) -> Quorum {
        let mut quorum = Quorum {
            dir: tempfile::tempdir().unwrap(),
            stores: vec![("/", "never", Arc::new(store))],
            running: [const { None }; 3],
        };
        quorum.found().await;
        quorum
    }

    /// New masters wait for each other.
    async fn found(&mut self) {
        let started = (1..=3).map(|id| start(self.config(id), &self.stores));
        let started = join_all(started).await;
        for (place, started) in self.running.iter_mut().zip(started) {
            *place = Some(started);
        }
    }

    async fn start_alone() -> Quorum {
        let mut quorum = Quorum {
            dir: tempfile::tempdir().unwrap(),
            stores: Vec::new(),
            running: [const { None }; 3],
        };
        let config = MasterConfig {
            peers: Vec::new(),
            ..quorum.config(1)
        };
        quorum.running[0] = Some(start(config, &quorum.stores).await);
        quorum
    }

    async fn run_joining(&mut self, id: u64) {
        let config = MasterConfig {
            peers: Vec::new(),
            join: vec![address(self.dir.path(), 1)],
            ..self.config(id)
        };
        self.running[id as usize - 1] = Some(start(config, &self.stores).await);
    }

    fn config(&self, id: u64) -> MasterConfig {
        let dir = self.dir.path();
        let peer = |id| Peer {
            id,
            address: address(dir, id),
        };
        MasterConfig {
            data_dir: dir.join(id.to_string()),
            listen: address(dir, id),
            id,
            peers: (1..=3).map(peer).collect(),
            ..config(dir, &self.stores)
        }
    }

    async fn run(&mut self, id: u64) {
        let started = start(self.config(id), &self.stores).await;
        self.running[id as usize - 1] = Some(started);
    }

    async fn stop(&mut self, id: u64) {
        let (master, shutdown) = self.running[id as usize - 1].take().unwrap();
        shutdown.finish().await;
        master.close().await;
    }

    async fn end(mut self) {
        for id in 1..=3 {
            if self.running[id as usize - 1].is_some() {
                self.stop(id).await;
            }
        }
    }

    fn addresses(&self) -> Addresses {
        let all = (1..=3).map(|id| address(self.dir.path(), id)).collect();
        Addresses::new(all).unwrap()
    }

    fn client(&self) -> Client {
        Client::new(self.addresses())
    }

    /// One master, whether it leads or not.
    fn voter(&self, id: u64) -> Voter {
        Voter::at(&address(self.dir.path(), id))
    }

    /// Of one master and no other.
    fn only(&self, id: u64) -> Client {
        Client::new(address(self.dir.path(), id))
    }

    async fn standing(&self, id: u64) -> v1::QuorumResponse {
        let answer = self
            .only(id)
            .admin()
            .quorum(v1::QuorumRequest { of_leader: false })
            .await;
        answer.unwrap().into_inner()
    }
}

async fn start(config: MasterConfig, stores: &Stores) -> (Master, Shutdown) {
    let shutdown = Shutdown::new();
    let open = opener(stores);
    let master = Master::start_with(config, open, &mut Registry::default(), &shutdown).await;
    (master.unwrap(), shutdown)
}

/// A change through whoever leads; its number tells the order.
async fn open_session(client: &Client) -> v1::OpenSessionResponse {
    let open = || {
        let mut metadata = client.metadata();
        let client = "test".to_owned();
        async move {
            metadata
                .open_session(v1::OpenSessionRequest { client })
                .await
        }
    };
    client.retrying("session", open).await.unwrap().into_inner()
}

async fn lookup(client: &Client) -> Result<v1::LookupResponse, Status> {
    let request = v1::LookupRequest {
        parent: 1,
        name: "d".into(),
    };
    client.calls().lookup(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_the_leader_and_the_next_one() {
    let mut quorum = Quorum::start().await;
    let client = quorum.client();
    let first = open_session(&client).await;
    let leader = quorum.standing(1).await.leader;
    assert!((1..=3).contains(&leader));
    let follower = leader % 3 + 1;
    let refused = lookup(&quorum.only(follower)).await.unwrap_err();
    assert_eq!(code_of(&refused), Code::NotLeader, "{refused}");
    assert_eq!(
        leader_of(&refused),
        Some(address(quorum.dir.path(), leader))
    );
    assert!(lookup(&quorum.only(leader)).await.unwrap().attr.is_some());

    quorum.stop(leader).await;
    let second = open_session(&client).await;
    assert_eq!(second.cluster, first.cluster);
    assert!(second.session > first.session, "the state has come along");
    let next = quorum.standing(follower).await;
    assert!(next.leader != leader && next.term > 1);

    quorum.run(leader).await;
    let committed = quorum.standing(next.leader).await.committed;
    eventually("the restarted master catches up", async || {
        quorum.standing(leader).await.applied >= committed
    })
    .await;
    assert_eq!(quorum.standing(leader).await.members.len(), 3);
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_answered() {
    let mut quorum = Quorum::start().await;
    open_session(&quorum.client()).await;
    let leader = quorum.standing(1).await.leader;
    for id in (1..=3).filter(|id| *id != leader) {
        quorum.stop(id).await;
    }
    // It asks the others before it answers, or has given up the lead already.
    let refused = lookup(&quorum.only(leader)).await.unwrap_err();
    assert!(code_of(&refused).is_transient(), "{refused}");
    eventually("the leader steps down", async || {
        quorum.standing(leader).await.leader == 0
    })
    .await;
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn masters_of_other_clusters_and_strangers_are_refused() {
    let quorum = Quorum::start().await;
    let cluster = open_session(&quorum.client()).await.cluster;
    let channel = forebay_client::channel::connect(&address(quorum.dir.path(), 1));
    eventually("a follower knows its cluster", async || {
        let mut client = RaftClient::new(channel.clone());
        let who = client.hello(v1::HelloRequest {}).await;
        who.unwrap().into_inner().cluster == cluster
    })
    .await;
    let hello = async |from, to, cluster: &str| {
        let peers = v1::RaftPeers {
            from,
            to,
            cluster: cluster.to_owned(),
            address: String::new(),
        };
        let first = v1::RaftMessages {
            peers: Some(peers),
            messages: Vec::new(),
        };
        let stream = tokio_stream::iter([first]);
        RaftClient::new(channel.clone()).messages(stream).await
    };
    hello(2, 1, &cluster).await.unwrap();
    hello(2, 1, "").await.unwrap();
    let refused = [
        (hello(2, 1, "another").await, "another"),
        (hello(2, 3, &cluster).await, "for master 3"),
        (hello(1, 1, &cluster).await, "itself"),
    ];
    for (answer, why) in refused {
        let status = answer.unwrap_err();
        assert_eq!(code_of(&status), Code::InvalidArgument);
        assert!(status.message().contains(why), "{why}: {status}");
    }
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_to_its_master() {
    let mut quorum = Quorum::start().await;
    open_session(&quorum.client()).await;
    quorum.stop(3).await;
    quorum.stop(2).await;
    let mut swapped = quorum.config(3);
    swapped.data_dir = quorum.config(2).data_dir;
    let (open, shutdown) = (opener(&quorum.stores), Shutdown::new());
    let started = Master::start_with(swapped, open, &mut Registry::default(), &shutdown).await;
    let text = format!("{:#}", started.err().expect("it must not start"));
    assert!(text.contains("belongs to master 2"), "{text}");
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_lost_its_disk_joins_again_and_counts() {
    let mut quorum = Quorum::start().await;
    let client = quorum.client();
    let first = open_session(&client).await;
    let leader = quorum.standing(1).await.leader;
    let lost = leader % 3 + 1;
    quorum.stop(lost).await;
    std::fs::remove_dir_all(quorum.config(lost).data_dir).unwrap();
    quorum.run(lost).await;
    let members = async || quorum.standing(leader).await.members;
    eventually("it counts", async || {
        let members = members().await;
        let same = members.iter().find(|member| member.id == lost);
        same.is_some_and(|member| member.voter && member.node != lost)
    })
    .await;
    assert_eq!(members().await.len(), 3);
    // Without one of the others it is part of the majority, with all that was acknowledged.
    let other = 6 - leader - lost;
    quorum.stop(other).await;
    let second = open_session(&client).await;
    assert_eq!(second.cluster, first.cluster);
    assert!(second.session > first.session);
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_master_grows_to_three_and_shrinks_again_while_it_serves() {
    let mut quorum = Quorum::start_alone().await;
    let client = quorum.client();
    let mut before = open_session(&client).await;
    for id in [2, 3] {
        quorum.run_joining(id).await;
        eventually("it counts", async || {
            let members = quorum.standing(1).await.members;
            members.iter().filter(|member| member.voter).count() == id as usize
        })
        .await;
    }
    // On a busy machine it may take longer than is waited for.
    let transfer = || {
        let mut admin = client.admin();
        async move { admin.transfer(v1::TransferRequest { id: 2 }).await }
    };
    client.retrying("transfer", transfer).await.unwrap();
    let mut remove = async |id| {
        let ask = || {
            let mut admin = client.admin();
            async move { admin.remove_master(v1::RemoveMasterRequest { id }).await }
        };
        client.retrying("remove", ask).await.unwrap();
        let after = open_session(&client).await;
        assert!(after.session > before.session);
        before = after;
    };
    remove(1).await;
    remove(3).await;
    assert_eq!(quorum.standing(2).await.members.len(), 1);
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_answers_what_it_knows_and_sends_to_the_leader_for_the_rest() {
    let mut quorum = Quorum::start().await;
    let client = quorum.client();
    open_session(&client).await;
    let leader = quorum.standing(1).await.leader;
    let follower = quorum.voter(leader % 3 + 1);
    let request = v1::LookupRequest {
        parent: 1,
        name: "d".into(),
    };
    // Nobody has listed the under store yet.
    let refused = follower.calls().lookup(request.clone()).await.unwrap_err();
    assert_eq!(code_of(&refused), Code::NotLeader, "{refused}");
    let dir = lookup(&client).await.unwrap().attr.unwrap().ino;
    // What the leader has acknowledged, the follower shows.
    let found = follower.calls().lookup(request.clone()).await.unwrap();
    assert_eq!(found.attr.unwrap().ino, dir);
    let listed = |dir| v1::ReadDirRequest {
        ino: dir,
        ..v1::ReadDirRequest::default()
    };
    let refused = follower.read_dir(listed(dir)).await.unwrap_err();
    assert_eq!(code_of(&refused), Code::NotLeader, "{refused}");
    let mut listing = follower.read_dir(listed(1)).await.unwrap();
    let batch = listing.message().await.unwrap().unwrap();
    assert_eq!(batch.entries.len(), 1);

    // Without a majority it answers nothing, rather than something old.
    for id in (1..=3).filter(|id| *id != leader % 3 + 1) {
        quorum.stop(id).await;
    }
    let refused = follower.calls().lookup(request).await.unwrap_err();
    assert!(code_of(&refused).is_transient(), "{refused}");
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spread_reads_see_every_change_and_go_to_the_leader_when_a_voter_dies() {
    let mut quorum = Quorum::start().await;
    let first = quorum.client();
    let ask = |voter: Voter| async move {
        let request = v1::ResolveRequest {
            path: "/d/a".into(),
        };
        voter.calls().resolve(request).await
    };
    first.ask("resolve", ask).await.unwrap();
    // Whichever is drawn.
    let clients: Vec<_> = (0..12)
        .map(|_| Client::spreading_reads(quorum.addresses()))
        .collect();
    for client in &clients {
        client.ask("resolve", ask).await.unwrap();
    }
    let leader = quorum.standing(1).await.leader;
    quorum.stop(leader % 3 + 1).await;
    for client in &clients {
        client.ask("resolve", ask).await.unwrap();
    }
    quorum.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_keeps_no_master_of_several_from_its_work() {
    let store = MemStore::new();
    store.put("d/a", "x");
    store.fail(Operation::Probe, Code::Unavailable, 3);
    let quorum = Quorum::over(store).await;
    let client = quorum.client();
    let found = client.ask("resolve", |voter: Voter| async move {
        let request = v1::ResolveRequest {
            path: "/d/a".into(),
        };
        voter.calls().resolve(request).await
    });
    assert!(found.await.unwrap().attr.is_some());
    quorum.end().await;
}
