//! A run: rounds of faults under clients, and a look at everything after each.

use super::{
    client::Client,
    cluster::Cluster,
    fault::{Fault, drawn},
    ledger::Ledger,
    report::{Report, Round},
    scene::Scene,
    tree::{self, ACCESS, Listing, Tree},
    verdict,
};
use anyhow::{Context, ensure};
use forebay_client::{Error, Master, Session};
use forebay_types::{Address, Ino, Name};
use parking_lot::MutexGuard;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Clients at a time.
const CLIENTS: usize = 8;
/// After so many rounds, all masters are compared with each other.
const COMPARED_EVERY: u32 = 10;
/// How long clients may be kept waiting: they give up before.
const PAUSE: Duration = Duration::from_secs(15);
/// How often the lead is handed to one master before it must have stayed there for a listing.
const HAND_OVERS: u32 = 5;

/// How long, and what.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds, one fault each.
    pub rounds: u32,
    /// Decides the faults and what clients try.
    pub seed: u64,
    /// Only this fault.
    pub only: Option<Fault>,
}

/// Three masters below `dir`, clients, and the rounds of `plan`. `say` hears of every round. An error
/// means that the run could not go on; what is wrong with the masters is in the report.
///
/// Masters that are started again end with the calling thread.
pub fn run(dir: &Path, plan: Plan, say: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let Plan { rounds, seed, only } = plan;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let faults = match only {
        Some(fault) => vec![fault; rounds as usize],
        None => drawn(rounds, &mut rng),
    };
    let mut stage = Stage::set(dir, &runtime, seed, rng)?;
    let begun = Instant::now();
    let mut done = Vec::new();
    let mut given_up = Vec::new();
    for (number, fault) in (1..).zip(faults) {
        let round = match stage.round(number, fault) {
            Ok(round) => round,
            // Clients that have found something wrong stop, and then nothing goes on.
            Err(error) if !stage.scene.complaints().is_empty() => {
                stage.scene.complain(&format!("{error:#}"));
                break;
            }
            Err(error) => {
                let round = format!("seed {seed}, round {number}: {}", fault.name());
                return Err(error.context(round));
            }
        };
        say(&format!("round {number} of {rounds}: {round}"));
        done.push(round);
        let compared = stage.check(number.is_multiple_of(COMPARED_EVERY) || number == rounds);
        compared.with_context(|| format!("seed {seed}, check after round {number}"))?;
        // The clients have rested: nothing of this round is under way any more.
        let lost = stage.scene.given_up();
        if fault.leaves_majority() {
            for what in &lost {
                stage.scene.complain(what);
            }
        }
        given_up.extend(lost);
        if !stage.scene.complaints().is_empty() {
            break;
        }
    }
    Ok(Report {
        seed,
        clients: CLIENTS,
        took: begun.elapsed(),
        rounds: done,
        counts: stage.scene.counts(),
        given_up,
        complaints: stage.scene.complaints(),
    })
}

/// The masters and what is around them.
struct Stage<'a> {
    cluster: Cluster,
    masters: Master,
    tree: Tree,
    scene: Arc<Scene>,
    rng: SmallRng,
    runtime: &'a Runtime,
}

impl<'a> Stage<'a> {
    fn set(
        dir: &Path,
        runtime: &'a Runtime,
        seed: u64,
        rng: SmallRng,
    ) -> anyhow::Result<Stage<'a>> {
        let cluster = Cluster::start(dir, runtime.handle().clone())?;
        let addresses = cluster.addresses()?;
        let scene = Arc::new(Scene::new(CLIENTS));
        let (masters, tree) = runtime.block_on(async {
            let masters = Master::new(&addresses);
            let tree = Tree::make(&masters, CLIENTS).await?;
            for (number, own) in tree.own.iter().enumerate() {
                let dirs = (*own, tree.shared);
                let client = Client::new(&addresses, number, dirs, seed, scene.clone()).await?;
                tokio::spawn(client.run());
            }
            Ok::<_, Error>((masters, tree))
        })?;
        Ok(Stage {
            cluster,
            masters,
            tree,
            scene,
            rng,
            runtime,
        })
    }

    /// A fault, and all masters together again.
    fn round(&mut self, number: u32, fault: Fault) -> anyhow::Result<Round> {
        self.scene.begin(number);
        // Faults come at any time, and not always so long after the last one.
        thread::sleep(Duration::from_millis(self.rng.random_range(0..300)));
        let leader = self.cluster.settled()?;
        let ids = self.cluster.ids();
        let followers: Vec<u64> = ids.iter().copied().filter(|id| *id != leader).collect();
        let mut any = |of: &[u64]| of.choose(&mut self.rng).copied().unwrap_or(leader);
        let victim = match fault {
            Fault::KillLeader | Fault::StopLeader | Fault::KillAll => leader,
            Fault::KillFollower | Fault::StopFollower => any(&followers),
            Fault::LoseDisk => any(&ids),
        };
        let begun = Instant::now();
        let first = match fault {
            Fault::StopLeader | Fault::StopFollower => {
                let length = Duration::from_millis(self.rng.random_range(2_000..3_000));
                self.cluster.stop(victim)?;
                self.scene.progress.fault();
                self.while_stopped(number, victim, begun + length)?;
                self.first()?
            }
            Fault::KillAll => {
                self.cluster.kill(&ids)?;
                self.scene.progress.fault();
                self.cluster.start_again(&ids)?;
                self.first()?
            }
            Fault::KillLeader | Fault::KillFollower | Fault::LoseDisk => {
                self.cluster.kill(&[victim])?;
                self.scene.progress.fault();
                let first = self.first()?;
                if fault == Fault::LoseDisk {
                    self.cluster.lose_disk(victim)?;
                }
                self.cluster.start_again(&[victim])?;
                first
            }
        };
        self.cluster.settled()?;
        Ok(Round {
            number,
            fault,
            victim,
            led: victim == leader,
            failover: first - begun,
            longest: self.scene.progress.longest(),
        })
    }

    /// When the first change after the fault was acknowledged.
    fn first(&self) -> anyhow::Result<Instant> {
        let first = self.scene.progress.first(PAUSE);
        first.with_context(|| format!("no change in {PAUSE:?}"))
    }

    /// Has the others make a file, and asks the stopped one for it in the moment in which it goes on.
    fn while_stopped(&self, number: u32, stopped: u64, until: Instant) -> anyhow::Result<()> {
        let name = Name::new(format!("round-{number}"))?;
        let leader = self.cluster.leader_without(stopped)?;
        let leader = self.cluster.address(leader).clone();
        let witness = self.tree.witness;
        let made = self.runtime.block_on(make(leader, witness, &name))?;
        let old = self.cluster.address(stopped).clone();
        let asked = self.runtime.spawn(ask(old, witness, name));
        // As long as it was decided to be stopped.
        thread::sleep(until.saturating_duration_since(Instant::now()));
        self.cluster.go_on(stopped)?;
        let found = self.runtime.block_on(asked)??;
        if found != Some(made) {
            let text = format!(
                "master {stopped}, asked when it went on, says {found:?} of what the others had made as {made}"
            );
            self.scene.complain(&text);
        }
        Ok(())
    }

    /// Has the clients rest, and compares what is there with their ledgers; `all`: at each master as
    /// leader.
    fn check(&self, all: bool) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let _resting = self.scene.gate.write().await;
            let own = self.tree.own.iter();
            let dirs: Vec<Ino> = own.copied().chain([self.tree.shared]).collect();
            let mut listings = Vec::new();
            for dir in &dirs {
                listings.push(tree::list_at_leader(&self.masters, *dir).await?);
            }
            self.judge(&listings);
            if all {
                for id in self.cluster.ids() {
                    let here = self.list_at(id, &dirs).await?;
                    if here != listings {
                        let text = format!(
                            "master {id} as leader lists other things than the leader before: {here:?} and {listings:?}"
                        );
                        self.scene.complain(&text);
                    }
                }
            }
            Ok(())
        })
    }

    /// What one master lists while it leads.
    async fn list_at(&self, id: u64, dirs: &[Ino]) -> anyhow::Result<Vec<Listing>> {
        let mut last = None;
        for _ in 0..HAND_OVERS {
            let master = self.cluster.lead(id, &self.masters).await?;
            let mut listings = Vec::new();
            for dir in dirs {
                match tree::list(master, *dir).await {
                    Ok(listing) => listings.push(listing),
                    Err(error) => {
                        last = Some(error);
                        break;
                    }
                }
            }
            if listings.len() == dirs.len() {
                return Ok(listings);
            }
        }
        ensure!(
            last.is_none(),
            "master {id} does not keep the lead: {last:?}"
        );
        Ok(Vec::new())
    }

    fn judge(&self, listings: &[Listing]) {
        let guards: Vec<MutexGuard<'_, Ledger>> = self
            .scene
            .ledgers
            .iter()
            .map(|ledger| ledger.lock())
            .collect();
        let ledgers: Vec<&Ledger> = guards.iter().map(|guard| &**guard).collect();
        let mut wrong = Vec::new();
        for (number, (ledger, listing)) in ledgers.iter().zip(listings).enumerate() {
            let own = verdict::own(ledger, listing);
            wrong.extend(
                own.into_iter()
                    .map(|text| format!("client {number}: {text}")),
            );
        }
        if let Some(listing) = listings.last() {
            wrong.extend(verdict::shared(&ledgers, listing));
        }
        wrong.extend(verdict::made_twice(&ledgers));
        for text in wrong {
            self.scene.complain(&text);
        }
    }
}

async fn make(leader: Address, dir: Ino, name: &Name) -> Result<Ino, Error> {
    let master = Master::new(leader);
    let session = Session::open(&master, "chaos witness").await?;
    Ok(session.create(dir, name, ACCESS).await?.ino)
}

async fn ask(address: Address, dir: Ino, name: Name) -> Result<Option<Ino>, Error> {
    let master = Master::new(&address);
    let found = tree::lookup(&master, dir, &name).await?;
    Ok(found.map(|attr| attr.ino))
}
