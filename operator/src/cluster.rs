//! Carries out the plans of CacheClusters.

use crate::{
    apply::Applier,
    calls, clock,
    error::{Error, Result, has_code},
    event::Events,
    masters::{Observatory, Watched},
    metrics::Metrics,
    plan::{
        cluster::{self, Observed, Plan},
        condition,
        erase::ERASER,
        name::{CLUSTER, COMPONENT, GROUP, Key, MANAGED_BY, MANAGER, Names, owner, uid},
        worker::WORKER,
    },
    secrets::{Secrets, Seen, User},
    status::Own,
    world::World,
};
use forebay_crds::{CacheCluster, ObjectRef};
use forebay_seal::SealKey;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{DaemonSet, StatefulSet},
        core::v1::{PersistentVolumeClaim, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::PostParams, runtime::reflector::ObjectRef as Ref};
use parking_lot::Mutex;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// How long a call about the quorum may take.
const CALL: Duration = Duration::from_secs(8);
/// When to look again while the quorum changes.
const SOON: Duration = Duration::from_secs(1);

/// What it takes to carry them out.
pub(crate) struct Clusters {
    pub(crate) client: Client,
    pub(crate) world: Arc<World>,
    pub(crate) applier: Arc<Applier>,
    pub(crate) own: Own,
    pub(crate) events: Events,
    pub(crate) secrets: Secrets,
    pub(crate) observatory: Arc<Observatory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) image: String,
    /// Why volumes could not grow, by the uid of the cluster.
    pub(crate) not_grown: Mutex<BTreeMap<String, String>>,
}

impl Clusters {
    /// Makes a plan and carries it out.
    pub(crate) async fn reconcile(&self, cluster: Arc<CacheCluster>) -> Result<Option<Duration>> {
        self.sweep();
        let key = Key::of(&*cluster);
        let names = Names::of(&cluster);
        let user = User::Cluster(key.clone());
        let seal_key = cluster::seal_key(&cluster);
        let seal = self.secrets.refer(&user, &[seal_key.clone()].into());
        let seal = seal.get(&seal_key).cloned().unwrap_or(Seen::Loading);
        let masters = self.follow(&cluster, &names, &seal);
        // Before the view is looked at: it may come just then.
        let asked = masters.asked();
        let view = masters.view();
        let seen = Gathered::new(&self.world, &cluster, &names.uid);
        let not_grown = self.not_grown.lock().get(&names.uid).cloned();
        let mut observed = Observed {
            cluster: &cluster,
            users: self.users(&key),
            datasets: &seen.datasets,
            seal: match &seal {
                Seen::Present(contents) => Some(&contents.uid),
                _ => None,
            },
            masters: seen.masters.as_deref(),
            workers: by_group(&seen.workers),
            erasers: by_group(&seen.erasers),
            pods: seen.pods.iter().map(|pod| &**pod).collect(),
            claims: seen.claims.iter().map(|claim| &**claim).collect(),
            not_grown: not_grown.as_deref(),
            not_applied: unsealed(&seal, &seal_key),
            refused: false,
            view: &view,
            image: &self.image,
            now: clock::now(),
        };
        let mut plan = cluster::plan(&observed);
        let mut done = Ok(());
        if plan.finalizer {
            done = self.carry_out(&cluster, &plan, &seal, &masters).await;
            if let Err(error) = &done
                && error.is_refusal()
            {
                observed.not_applied = Some((error.reason(), error.to_string()));
                observed.refused = true;
                plan = cluster::plan(&observed);
            }
        }
        if let Some((reason, note)) = &plan.note {
            self.events.tell(&*cluster, false, reason, note).await;
        }
        if !plan.finalizer {
            self.secrets.refer(&user, &BTreeSet::new());
            self.not_grown.lock().remove(&names.uid);
            self.own.finalizer(&*cluster, false).await?;
            return Ok(None);
        }
        // What an operator that has just begun does not know is no news; the masters' first answer wakes us.
        if asked || cluster.status.is_none() {
            self.tell(&cluster, &mut plan).await?;
        }
        done.map(|()| plan.step.map(|_| SOON).or(plan.again))
    }

    async fn carry_out(
        &self,
        cluster: &CacheCluster,
        plan: &Plan,
        seal: &Seen,
        masters: &Arc<Watched>,
    ) -> Result<()> {
        if cluster.metadata.deletion_timestamp.is_none() {
            self.own.finalizer(cluster, true).await?;
        }
        if matches!(seal, Seen::Absent) {
            self.create_key(cluster).await?;
        }
        if let Some(objects) = &plan.apply {
            for object in objects {
                self.applier.apply(object).await?;
            }
            self.applier
                .prune(&uid(cluster), &cluster::kept(objects))
                .await?;
        }
        self.grow(cluster, plan).await?;
        if let Some(step) = plan.step {
            let stepped = timeout(CALL, calls::step(masters, step)).await;
            tracing::info!(?step, ?stepped, cluster = %Key::of(cluster), "the quorum changes");
        }
        for path in &plan.unmount {
            let unmounted = timeout(CALL, calls::unmount(masters, path)).await;
            tracing::info!(path, ?unmounted, "a mount of a Dataset that is gone");
        }
        Ok(())
    }

    async fn tell(&self, cluster: &CacheCluster, plan: &mut Plan) -> Result<()> {
        let before = cluster.status.as_ref();
        let conditions = before.map(|s| s.conditions.as_slice()).unwrap_or_default();
        let generation = cluster.metadata.generation;
        plan.status.conditions =
            condition::merge(conditions, &plan.findings, generation, clock::now());
        self.own.status(cluster, before, &plan.status).await?;
        for finding in condition::transitions(conditions, &plan.findings) {
            self.events.found(cluster, finding).await;
        }
        Ok(())
    }

    /// Masters are asked as soon as there are some.
    fn follow(&self, cluster: &CacheCluster, names: &Names, seal: &Seen) -> Arc<Watched> {
        let set =
            (self.world.stateful_sets).get(&Ref::new(&names.master()).within(&names.key.namespace));
        let have = set.and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
        let have = u32::try_from(have).unwrap_or(0);
        let key = match seal {
            Seen::Present(contents) => contents.data.get("key"),
            _ => None,
        };
        let key = key.and_then(|bytes| SealKey::new(bytes).ok()).map(Arc::new);
        let replicas = have.max(cluster.spec.masters.replicas);
        let known = !matches!(seal, Seen::Loading);
        self.observatory.follow(names, replicas, key, known)
    }

    fn users(&self, cluster: &Key) -> Vec<ObjectRef> {
        let users = self.world.users(cluster).into_iter().map(|dataset| {
            let key = Key::of(&*dataset);
            ObjectRef {
                namespace: key.namespace,
                name: key.name,
            }
        });
        users.collect()
    }

    fn sweep(&self) {
        self.observatory.sweep(|key, uid| {
            let cluster = Ref::new(&key.name).within(&key.namespace);
            let there = self.world.clusters.get(&cluster);
            there.is_some_and(|there| there.uid().as_deref() == Some(uid))
        });
    }

    /// Made once: credentials that are sealed with it could not be opened with another.
    async fn create_key(&self, cluster: &CacheCluster) -> Result<()> {
        let names = Names::of(cluster);
        let key = forebay_seal::generate()?;
        let labels = [
            (MANAGED_BY, MANAGER),
            (CLUSTER, names.uid.as_str()),
            (COMPONENT, "seal"),
            ("app.kubernetes.io/instance", names.key.name.as_str()),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(names.seal()),
                namespace: Some(names.key.namespace.clone()),
                labels: Some(labels.into()),
                owner_references: Some(vec![owner("CacheCluster", &names.key.name, &names.uid)]),
                ..ObjectMeta::default()
            },
            data: Some([("key".to_owned(), ByteString(key.to_vec()))].into()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &names.key.namespace);
        self.metrics.write("create");
        match api.create(&PostParams::default(), &secret).await {
            Err(error) if !has_code(&error, 409) => {
                let what = format!("cannot create Secret {}", cluster::seal_key(cluster));
                Err(Error::api(what)(error))
            }
            _ => Ok(()),
        }
    }

    async fn grow(&self, cluster: &CacheCluster, plan: &Plan) -> Result<()> {
        let uid = uid(cluster);
        let mut refused = None;
        for (claim, size) in &plan.grow {
            let change = json!({"spec": {"resources": {"requests": {"storage": size}}}});
            let grown = (self.applier)
                .merge("PersistentVolumeClaim", claim, &change)
                .await;
            match grown {
                Err(error) if error.is_refusal() => refused = Some(error.to_string()),
                other => other?,
            }
        }
        let mut not_grown = self.not_grown.lock();
        match refused {
            Some(why) => not_grown.insert(uid, why),
            None => not_grown.remove(&uid),
        };
        Ok(())
    }
}

/// What belongs to a cluster, as it was last heard of.
struct Gathered {
    datasets: BTreeSet<Key>,
    masters: Option<Arc<StatefulSet>>,
    workers: BTreeMap<String, Arc<DaemonSet>>,
    erasers: BTreeMap<String, Arc<DaemonSet>>,
    pods: Vec<Arc<crate::plan::pod_seen::PodSeen>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
}

impl Gathered {
    fn new(world: &World, cluster: &CacheCluster, uid: &str) -> Gathered {
        let names = Names::of(cluster);
        let labelled = |labels: &BTreeMap<String, String>| {
            labels.get(CLUSTER).is_some_and(|label| label == uid)
        };
        let set = Ref::new(&names.master()).within(&names.key.namespace);
        let masters = world.stateful_sets.get(&set);
        let sets = world.daemon_sets.state_filter(|set| labelled(set.labels()));
        let of = |component: &str| {
            let sets = sets.iter().filter(|set| {
                let label = set.labels().get(COMPONENT);
                label.is_some_and(|label| label == component)
            });
            let named = sets.map(|set| {
                let group = set.labels().get(GROUP).cloned();
                (group.unwrap_or_default(), Arc::clone(set))
            });
            named.collect()
        };
        Gathered {
            datasets: world.dataset_keys(),
            masters: masters.filter(|set| labelled(set.labels())),
            workers: of(WORKER),
            erasers: of(ERASER),
            pods: world.pods.state_filter(|pod| labelled(pod.labels())),
            claims: world.claims.state_filter(|claim| labelled(claim.labels())),
        }
    }
}

fn by_group(sets: &BTreeMap<String, Arc<DaemonSet>>) -> BTreeMap<String, &DaemonSet> {
    let sets = sets.iter();
    sets.map(|(name, set)| (name.clone(), &**set)).collect()
}

/// Why there is no key of credentials.
fn unsealed(seal: &Seen, key: &Key) -> Option<(&'static str, String)> {
    match seal {
        Seen::Unreadable(why) => Some(("SecretUnreadable", format!("Secret {key}: {why}"))),
        Seen::Present(contents) => {
            let length = contents.data.get("key").map_or(0, Vec::len);
            let why = format!(
                "Secret {key} must have {} bytes in 'key', not {length}: delete it, and it is made anew",
                forebay_seal::KEY_LEN
            );
            (length != forebay_seal::KEY_LEN).then_some(("SealKeyInvalid", why))
        }
        Seen::Loading | Seen::Absent => None,
    }
}
