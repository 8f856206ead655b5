//! Carries out the plans of Datasets.

use crate::{
    apply::Applier,
    calls::Calls,
    clock,
    error::Result,
    event::Events,
    masters::{Observatory, Watched},
    placements::Placements,
    plan::{
        condition,
        dataset::{self, Masters, Observed, Plan},
        name::{Key, cluster_of, uid},
        placement,
        pod_seen::PodSeen,
        view::View,
        volume,
    },
    secrets::{Secrets, User},
    status::Own,
    world::World,
};
use forebay_crds::{CacheCluster, Dataset, DatasetStatus};
use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef as Ref};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What it takes to carry them out.
pub(crate) struct Datasets {
    pub(crate) world: Arc<World>,
    pub(crate) applier: Arc<Applier>,
    pub(crate) own: Own,
    pub(crate) events: Events,
    pub(crate) secrets: Secrets,
    pub(crate) observatory: Arc<Observatory>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) placements: Arc<Placements>,
    /// When this operator began to act.
    pub(crate) begun: Timestamp,
}

impl Datasets {
    /// Makes a plan and carries it out.
    pub(crate) async fn reconcile(&self, dataset: Arc<Dataset>) -> Result<Option<Duration>> {
        let (key, uid) = (Key::of(&*dataset), uid(&*dataset));
        let cluster = cluster_of(&dataset);
        let cluster =
            (self.world.clusters).get(&Ref::new(&cluster.name).within(&cluster.namespace));
        let watched = cluster.as_ref().and_then(|cluster| self.masters(cluster));
        // Before the view is looked at: it may come just then.
        let asked = watched.as_ref().is_some_and(|watched| watched.asked());
        let view = watched.as_ref().map(|watched| watched.view());
        let faults = watched.as_ref().map(|watched| watched.faults());
        let faults = faults.unwrap_or_default();
        let nodes = match (&cluster, &view) {
            (Some(cluster), Some(view)) => self.nodes(&dataset, cluster, view),
            _ => BTreeMap::new(),
        };
        let secrets = self.secrets(&dataset, &key);
        let deleting = dataset.metadata.deletion_timestamp.is_some();
        let loading = |secret: &dataset::Secret| matches!(secret, dataset::Secret::Loading);
        let unknown = cluster.is_some() && !asked || !deleting && secrets.values().any(loading);
        if unknown && dataset.status.is_some() {
            // What an operator that has just begun does not know is no news; whoever tells it wakes us.
            return Ok(None);
        }
        let attempts = self.calls.of(&uid);
        let volume = self.world.volumes.get(&Ref::new(&volume::name(&uid)));
        let claim = (self.world.claims).get(&Ref::new(&key.name).within(&key.namespace));
        let label = |labels: &BTreeMap<String, String>| {
            labels.get(crate::plan::name::DATASET) == Some(&uid)
        };
        let claim = claim.filter(|claim| label(claim.labels()));
        let others = self.world.others(&uid);
        let plan = dataset::plan(&Observed {
            dataset: &dataset,
            cluster: cluster.as_deref(),
            masters: match &view {
                Some(view) if view.quorum.is_some() => Masters::Leading {
                    table: &view.table,
                    workers: view.alive().len(),
                    faults: &faults,
                    usage: &view.usage,
                    nodes: &nodes,
                },
                Some(view) => Masters::Silent {
                    since: view.silent_since.unwrap_or(view.seen),
                },
                None => Masters::Silent { since: self.begun },
            },
            secrets: &secrets,
            attempts: &attempts,
            volume: volume.as_deref(),
            claim: claim.as_deref(),
            others: &others,
            now: clock::now(),
        });
        self.carry_out(&dataset, &key, &uid, watched.as_ref(), plan)
            .await
    }

    async fn carry_out(
        &self,
        dataset: &Dataset,
        key: &Key,
        uid: &str,
        masters: Option<&Arc<Watched>>,
        mut plan: Plan,
    ) -> Result<Option<Duration>> {
        if let Some((reason, note)) = &plan.note {
            self.events.tell(dataset, false, reason, note).await;
        }
        let deleting = dataset.metadata.deletion_timestamp.is_some();
        if deleting && !plan.finalizer {
            let user = User::Dataset(key.clone());
            self.secrets.refer(&user, &BTreeSet::new());
            self.calls.forget(uid);
            self.applier.forget("ConfigMap", &placement::key(key));
            self.placements.forget(key);
            self.own.finalizer(dataset, false).await?;
            return Ok(None);
        }
        let mut done = Ok(());
        if plan.finalizer && !deleting {
            self.own.finalizer(dataset, true).await?;
        }
        for object in &plan.apply {
            done = self.applier.apply(object).await;
            if done.is_err() {
                break;
            }
        }
        if let Some(placement) = &plan.placement {
            self.placements.put(key, placement);
            for object in placement::objects(dataset, placement) {
                match self.applier.apply(&object).await {
                    // Pods read all the same.
                    Err(error) if error.is_refusal() => {
                        tracing::warn!(dataset = %key, %error, "pods are not told where the data is");
                    }
                    placed => done = done.and(placed),
                }
            }
        }
        for act in &plan.volume {
            let acted = self.applier.act(act).await;
            done = done.and(acted);
        }
        if let Some(masters) = masters {
            for call in plan.calls.drain(..) {
                self.calls.start(key, uid, masters, call);
            }
        }
        if let Err(error) = &done
            && error.is_refusal()
            && let Some(ready) = plan.findings.first_mut()
        {
            *ready = condition::Finding::no(condition::READY, error.reason(), error.to_string());
        }
        self.tell(dataset, &plan).await?;
        done.map(|()| plan.again)
    }

    async fn tell(&self, dataset: &Dataset, plan: &Plan) -> Result<()> {
        let before = dataset.status.as_ref();
        let conditions = before.map(|s| s.conditions.as_slice()).unwrap_or_default();
        let generation = dataset.metadata.generation;
        let status = DatasetStatus {
            observed_generation: generation,
            conditions: condition::merge(conditions, &plan.findings, generation, clock::now()),
            ..plan.figures.clone()
        };
        self.own.status(dataset, before, &status).await?;
        for finding in condition::transitions(conditions, &plan.findings) {
            self.events.found(dataset, finding).await;
        }
        Ok(())
    }

    /// The nodes of workers that hold something of a Dataset.
    fn nodes(
        &self,
        dataset: &Dataset,
        cluster: &CacheCluster,
        view: &View,
    ) -> BTreeMap<u64, String> {
        let Some(held) = placement::held(dataset, &view.usage) else {
            return BTreeMap::new();
        };
        let holders = view.workers.iter();
        let holders = holders.filter(|worker| held.workers.contains_key(&worker.id));
        let holders: BTreeMap<&str, u64> = holders.map(|w| (w.address.as_str(), w.id)).collect();
        let cluster = uid(cluster);
        let pods = self.world.pods.state_filter(|pod| {
            let address = pod
                .worker_address()
                .filter(|_| pod.cluster() == Some(&cluster));
            address.is_some_and(|address| holders.contains_key(address.as_str()))
        });
        let node = |pod: &Arc<PodSeen>| {
            let worker = holders.get(pod.worker_address()?.as_str())?;
            Some((*worker, pod.spec.node_name.clone()?))
        };
        pods.iter().filter_map(node).collect()
    }

    fn masters(&self, cluster: &CacheCluster) -> Option<Arc<Watched>> {
        self.observatory.get(&uid(cluster))
    }

    /// The Secrets that the mounts refer to, by name.
    fn secrets(&self, dataset: &Dataset, key: &Key) -> BTreeMap<String, dataset::Secret> {
        let mounts = dataset.spec.mounts.iter();
        let names = mounts.filter_map(|mount| mount.secret_ref.as_ref());
        let names = names.map(|secret| Key::new(&key.namespace, &secret.name));
        let seen = self
            .secrets
            .refer(&User::Dataset(key.clone()), &names.collect());
        let seen = seen.into_iter();
        seen.map(|(key, seen)| (key.name, seen.credentials()))
            .collect()
    }
}
