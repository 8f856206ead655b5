//! The whole of it.

use crate::{
    apply::Applier,
    calls::Calls,
    clock,
    cluster::Clusters,
    controller::{self, Queue},
    dataset::Datasets,
    election::Election,
    event::Events,
    informer::Informer,
    locality::Locality,
    masters::{Dial, Observatory},
    metrics::Metrics,
    placements::Placements,
    secrets::Secrets,
    status::Own,
    user_claim::UserClaims,
    warmup::Warmups,
    world::{Queues, World},
};
use forebay_service::{Shutdown, config::ConfigError, http};
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// CacheClusters whose plans are carried out at the same time.
const CLUSTERS_AT_ONCE: u16 = 8;
/// Datasets.
const DATASETS_AT_ONCE: u16 = 32;
/// WarmupPolicies.
const POLICIES_AT_ONCE: u16 = 32;
/// Claims that users made.
const CLAIMS_AT_ONCE: u16 = 32;

/// How it runs.
#[derive(Clone)]
pub struct Settings {
    /// Image of masters and workers, where a CacheCluster names none.
    pub image: String,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Tells this process from other operators.
    pub identity: String,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http: SocketAddr,
    /// Where the API server is answered that asks about pods, if it has to ask.
    pub webhook: SocketAddr,
    /// The address of this pod, by which it does; absent: it does not.
    pub pod_ip: Option<IpAddr>,
    /// Where data is, as far as it is known.
    pub placements: Arc<Placements>,
    /// How masters are reached.
    pub dial: Dial,
}

/// An operator that takes part in the election.
pub struct Operator {
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    shutdown: Shutdown,
    address: SocketAddr,
}

impl Operator {
    /// Serves its figures; does nothing else yet.
    pub async fn start(
        client: Client,
        settings: Settings,
        shutdown: &Shutdown,
    ) -> Result<Operator, ConfigError> {
        let metrics = Arc::new(Metrics::default());
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let ready = Arc::new(AtomicBool::new(false));
        let readiness: http::Readiness = {
            let (ready, stopping) = (Arc::clone(&ready), shutdown.clone());
            Arc::new(move || {
                if stopping.has_begun() {
                    return Some("stopping".to_owned());
                }
                let waits = !ready.load(Ordering::Acquire);
                waits.then(|| "waiting for the API server".to_owned())
            })
        };
        let address = http::serve(settings.http, Arc::new(registry), readiness, shutdown).await?;
        Ok(Operator {
            client,
            settings,
            metrics,
            ready,
            shutdown: shutdown.clone(),
            address,
        })
    }

    /// Where its figures are served (the port is the real one).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Acts as long as it holds the Lease. False: it was lost, and the process must end.
    pub async fn run(self) -> bool {
        let Settings {
            namespace,
            identity,
            ..
        } = &self.settings;
        let mut election = Election::new(self.client.clone(), namespace, identity);
        // One that stands by is as ready as it can be.
        self.ready.store(true, Ordering::Release);
        tokio::select! {
            () = election.win() => {}
            () = self.shutdown.begun() => return true,
        }
        tracing::info!(identity, "holds the lease and acts");
        self.metrics.leads(true);
        self.ready.store(false, Ordering::Release);
        let acting = Shutdown::new();
        let kept = {
            let act = self.act(&acting);
            tokio::pin!(act);
            tokio::select! {
                () = &mut act => true,
                () = election.keep() => {
                    tracing::error!("the lease is lost: this process ends, so that it does not act beside the next holder");
                    false
                }
                () = self.shutdown.begun() => {
                    // What is under way is finished, and nothing is begun.
                    acting.begin();
                    tokio::select! {
                        () = &mut act => {}
                        () = election.keep() => {}
                    }
                    true
                }
            }
        };
        self.metrics.leads(false);
        acting.finish().await;
        if kept {
            election.release().await;
        }
        kept
    }

    async fn act(&self, shutdown: &Shutdown) {
        let (clusters, clusters_due) = Queue::new();
        let (datasets, datasets_due) = Queue::new();
        let (policies, policies_due) = Queue::new();
        let (claims, claims_due) = Queue::new();
        let queues = Queues {
            clusters,
            datasets,
            policies,
            claims,
        };
        // Watches end last: plans that are being carried out look at them.
        let informer = Informer {
            shutdown,
            metrics: &self.metrics,
        };
        let world = Arc::new(World::watch(&self.client, &queues, &informer));
        let listed = tokio::select! {
            listed = world.is_ready() => listed,
            () = shutdown.begun() => false,
        };
        if !listed {
            return;
        }
        self.ready.store(true, Ordering::Release);
        tracing::info!("everything is listed");
        let client = self.client.clone();
        let locality = Locality {
            client: client.clone(),
            metrics: Arc::clone(&self.metrics),
            placements: Arc::clone(&self.settings.placements),
            namespace: self.settings.namespace.clone(),
            webhook: self.settings.webhook,
            pod_ip: self.settings.pod_ip,
            shutdown: shutdown.clone(),
        };
        shutdown.spawn(locality.install());
        let applier = Arc::new(Applier::new(
            client.clone(),
            Arc::clone(&world),
            Arc::clone(&self.metrics),
        ));
        let own = Own {
            client: client.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let events = Events::new(client.clone(), self.settings.identity.clone());
        let secrets = Secrets::new(client.clone(), queues.clone(), shutdown.clone());
        let dial = Arc::clone(&self.settings.dial);
        let observatory = Observatory::new(dial, queues.clone(), &world, shutdown.clone());
        let observatory = Arc::new(observatory);
        let calls = Calls::new(queues, Arc::clone(&self.metrics), shutdown.clone());
        let cluster = Arc::new(Clusters {
            client,
            world: Arc::clone(&world),
            applier: Arc::clone(&applier),
            own: own.clone(),
            events: events.clone(),
            secrets: secrets.clone(),
            observatory: Arc::clone(&observatory),
            metrics: Arc::clone(&self.metrics),
            image: self.settings.image.clone(),
            not_grown: Mutex::default(),
        });
        let warmup = Arc::new(Warmups {
            world: Arc::clone(&world),
            own: own.clone(),
            events: events.clone(),
            observatory: Arc::clone(&observatory),
            metrics: Arc::clone(&self.metrics),
            remembered: Mutex::default(),
            begun: clock::now(),
        });
        let claim = Arc::new(UserClaims {
            world: Arc::clone(&world),
            applier: Arc::clone(&applier),
            events: events.clone(),
            placements: Arc::clone(&self.settings.placements),
            told: Mutex::default(),
        });
        let dataset = Arc::new(Datasets {
            world: Arc::clone(&world),
            applier,
            own,
            events,
            secrets,
            observatory,
            calls: Arc::new(calls),
            placements: Arc::clone(&self.settings.placements),
            begun: clock::now(),
        });
        let clusters = controller::run(
            "CacheCluster",
            CLUSTERS_AT_ONCE,
            world.clusters.clone(),
            clusters_due,
            Arc::clone(&self.metrics),
            shutdown.clone(),
            move |object| {
                let cluster = Arc::clone(&cluster);
                async move { cluster.reconcile(object).await }
            },
        );
        let datasets = controller::run(
            "Dataset",
            DATASETS_AT_ONCE,
            world.datasets.clone(),
            datasets_due,
            Arc::clone(&self.metrics),
            shutdown.clone(),
            move |object| {
                let dataset = Arc::clone(&dataset);
                async move { dataset.reconcile(object).await }
            },
        );
        let policies = controller::run(
            "WarmupPolicy",
            POLICIES_AT_ONCE,
            world.policies.clone(),
            policies_due,
            Arc::clone(&self.metrics),
            shutdown.clone(),
            move |object| {
                let warmup = Arc::clone(&warmup);
                async move { warmup.reconcile(object).await }
            },
        );
        let claims = controller::run(
            "PersistentVolumeClaim",
            CLAIMS_AT_ONCE,
            world.claims.clone(),
            claims_due,
            Arc::clone(&self.metrics),
            shutdown.clone(),
            move |object| {
                let claim = Arc::clone(&claim);
                async move { claim.reconcile(object).await }
            },
        );
        futures::join!(clusters, datasets, policies, claims);
    }
}
