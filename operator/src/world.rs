//! What the API server says, as far as the operator needs it.

use crate::{
    controller::Queue,
    informer::{Informer, without_managed_fields},
    plan::{
        dataset::Other,
        name::{
            CLUSTER, COMPONENT, DATASET, DATASET_NAME, DATASET_NAMESPACE, Key, MANAGED_BY, MANAGER,
            cluster_of, uid,
        },
        pod_seen::PodSeen,
        user_claim, volume,
    },
};
use forebay_crds::{CacheCluster, Dataset, WarmupPolicy};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, StatefulSet},
        core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        reflector::{ObjectRef as Ref, Store},
        watcher,
    },
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Objects as they were last heard of.
pub(crate) struct World {
    pub(crate) clusters: Store<CacheCluster>,
    pub(crate) datasets: Store<Dataset>,
    pub(crate) policies: Store<WarmupPolicy>,
    pub(crate) stateful_sets: Store<StatefulSet>,
    pub(crate) daemon_sets: Store<DaemonSet>,
    pub(crate) claims: Store<PersistentVolumeClaim>,
    pub(crate) volumes: Store<PersistentVolume>,
    pub(crate) pods: Store<PodSeen>,
    pub(crate) config_maps: Store<ConfigMap>,
    services: Store<PartialObjectMeta<Service>>,
    budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
}

/// Which controller looks at what.
#[derive(Clone, Debug)]
pub(crate) struct Queues {
    pub(crate) clusters: Queue<CacheCluster>,
    pub(crate) datasets: Queue<Dataset>,
    pub(crate) policies: Queue<WarmupPolicy>,
    /// Those that users made.
    pub(crate) claims: Queue<PersistentVolumeClaim>,
}

/// What makes an object another one for those that refer to it: its status does not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version(Option<String>, Option<i64>, bool);

/// Remembers versions.
#[derive(Default)]
struct Versions(Mutex<BTreeMap<Key, Version>>);

impl Versions {
    /// Whether it is another one than before.
    fn turned(&self, key: &Key, meta: &ObjectMeta) -> bool {
        let deleting = meta.deletion_timestamp.is_some();
        let version = Version(meta.uid.clone(), meta.generation, deleting);
        let before = self.0.lock().insert(key.clone(), version.clone());
        before.as_ref() != Some(&version)
    }

    fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

impl World {
    /// Begins to watch; tells `queues` what to look at.
    pub(crate) fn watch(client: &Client, queues: &Queues, informer: &Informer<'_>) -> World {
        let ours = || watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        let all = watcher::Config::default;
        let policies = {
            let queue = queues.policies.clone();
            let changed = move |policy: &WarmupPolicy| queue.push(&Key::of(policy));
            informer.objects(client.clone(), all(), without_managed_fields, changed)
        };
        let of_cluster = |queues: &Queues| {
            let queue = queues.clusters.clone();
            move |meta: &ObjectMeta| {
                if let Some(key) = cluster_key(meta) {
                    queue.push(&key);
                }
            }
        };
        let of_dataset = |queues: &Queues| {
            let (datasets, clusters) = (queues.datasets.clone(), of_cluster(queues));
            move |meta: &ObjectMeta| match dataset_key(meta) {
                Some(key) => datasets.push(&key),
                None => clusters(meta),
            }
        };
        let claims = {
            let (queues, tell) = (queues.clone(), of_dataset(queues));
            let changed = move |claim: &PersistentVolumeClaim| match user_claim::dataset_of(claim) {
                Some(dataset) => {
                    queues.claims.push(&Key::of(claim));
                    queues.datasets.push(&dataset);
                }
                None => tell(claim.meta()),
            };
            // Those of users bear no label of ours.
            informer.selected(
                client.clone(),
                all(),
                concerns,
                without_managed_fields,
                changed,
            )
        };
        let datasets = {
            let (queues, versions) = (queues.clone(), Versions::default());
            let (policies, claims) = (policies.clone(), claims.clone());
            let changed = move |dataset: &Dataset| {
                let key = Key::of(dataset);
                queues.datasets.push(&key);
                queues.claims_of(&claims, &key);
                for policy in policies.state_filter(|policy| dataset_key_of(policy) == key) {
                    queues.policies.push(&Key::of(&*policy));
                }
                if versions.turned(&key, &dataset.metadata) {
                    queues.clusters.push(&cluster_of(dataset));
                }
                // The next event, of whatever kind, is about another one or its end.
                if dataset.metadata.deletion_timestamp.is_some() {
                    versions.forget(&key);
                }
            };
            informer.objects(client.clone(), all(), without_managed_fields, changed)
        };
        let clusters = {
            let (queues, versions, datasets) =
                (queues.clone(), Versions::default(), datasets.clone());
            let changed = move |cluster: &CacheCluster| {
                let key = Key::of(cluster);
                queues.clusters.push(&key);
                if versions.turned(&key, &cluster.metadata) {
                    queues.users(&datasets, &key);
                }
                if cluster.metadata.deletion_timestamp.is_some() {
                    versions.forget(&key);
                }
            };
            informer.objects(client.clone(), all(), without_managed_fields, changed)
        };
        World {
            stateful_sets: {
                let tell = of_cluster(queues);
                let changed = move |set: &StatefulSet| tell(set.meta());
                informer.objects(client.clone(), ours(), without_managed_fields, changed)
            },
            daemon_sets: {
                let tell = of_cluster(queues);
                let changed = move |set: &DaemonSet| tell(set.meta());
                informer.objects(client.clone(), ours(), without_managed_fields, changed)
            },
            volumes: {
                let (queue, tell) = (queues.claims.clone(), of_dataset(queues));
                let changed = move |volume: &PersistentVolume| {
                    tell(volume.meta());
                    if let Some(claim) = holder(volume) {
                        queue.push(&claim);
                    }
                };
                informer.objects(client.clone(), ours(), without_managed_fields, changed)
            },
            pods: {
                let tell = of_cluster(queues);
                let changed = move |pod: &PodSeen| tell(pod.meta());
                informer.objects(client.clone(), ours(), PodSeen::shrink, changed)
            },
            config_maps: {
                let tell = of_dataset(queues);
                let changed = move |map: &ConfigMap| tell(map.meta());
                informer.objects(client.clone(), ours(), without_managed_fields, changed)
            },
            services: {
                let tell = of_cluster(queues);
                let changed = move |object: &PartialObjectMeta<Service>| tell(object.meta());
                informer.metadata(client.clone(), ours(), changed)
            },
            budgets: {
                let tell = of_cluster(queues);
                let changed =
                    move |object: &PartialObjectMeta<PodDisruptionBudget>| tell(object.meta());
                informer.metadata(client.clone(), ours(), changed)
            },
            claims,
            clusters,
            datasets,
            policies,
        }
    }

    /// Resolves when everything was listed once; false if the watches ended before.
    pub(crate) async fn is_ready(&self) -> bool {
        let ready = futures::join!(
            self.clusters.wait_until_ready(),
            self.datasets.wait_until_ready(),
            self.policies.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
            self.claims.wait_until_ready(),
            self.volumes.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.config_maps.wait_until_ready(),
            self.services.wait_until_ready(),
            self.budgets.wait_until_ready(),
        );
        ready.0.is_ok() && ready.1.is_ok() && ready.2.is_ok() && ready.7.is_ok() && ready.10.is_ok()
    }

    /// The metadata of one of our objects.
    pub(crate) fn glance(&self, kind: &str, key: &Key) -> Option<ObjectMeta> {
        match kind {
            "StatefulSet" => meta(&self.stateful_sets, key),
            "DaemonSet" => meta(&self.daemon_sets, key),
            "PersistentVolumeClaim" => meta(&self.claims, key),
            "PersistentVolume" => meta(&self.volumes, key),
            "ConfigMap" => meta(&self.config_maps, key),
            "Service" => meta(&self.services, key),
            "PodDisruptionBudget" => meta(&self.budgets, key),
            _ => None,
        }
    }

    /// What belongs to a cluster and was applied by name: kind and metadata.
    pub(crate) fn belongings(&self, cluster: &str) -> Vec<(&'static str, ObjectMeta)> {
        let mut all = Vec::new();
        let mut add = |kind, metas: Vec<ObjectMeta>| {
            all.extend(metas.into_iter().map(|meta| (kind, meta)));
        };
        add("DaemonSet", labelled(&self.daemon_sets, cluster));
        add("StatefulSet", labelled(&self.stateful_sets, cluster));
        add("ConfigMap", labelled(&self.config_maps, cluster));
        add("Service", labelled(&self.services, cluster));
        add("PodDisruptionBudget", labelled(&self.budgets, cluster));
        all
    }

    /// Datasets that refer to a cluster.
    pub(crate) fn users(&self, cluster: &Key) -> Vec<Arc<Dataset>> {
        self.datasets.state_filter(|d| cluster_of(d) == *cluster)
    }

    /// The volumes of claims that users made of the Dataset with that uid.
    pub(crate) fn others(&self, dataset: &str) -> Vec<Other> {
        let own = volume::name(dataset);
        let of = |volume: &PersistentVolume| {
            volume
                .labels()
                .get(DATASET)
                .is_some_and(|uid| uid == dataset)
                && volume.name_any() != own
        };
        let others = self.volumes.state_filter(of).into_iter();
        let others = others.map(|volume| {
            let claim = holder(&volume).filter(|key| {
                let claim = self.claims.get(&Ref::new(&key.name).within(&key.namespace));
                claim.is_some_and(|claim| volume::name(&uid(&*claim)) == volume.name_any())
            });
            Other { volume, claim }
        });
        others.collect()
    }

    /// WarmupPolicies of Datasets that refer to a cluster.
    pub(crate) fn warmers(&self, cluster: &Key) -> Vec<Arc<WarmupPolicy>> {
        self.policies.state_filter(|policy| {
            let dataset = dataset_key_of(policy);
            let dataset = Ref::new(&dataset.name).within(&dataset.namespace);
            let dataset = self.datasets.get(&dataset);
            dataset.is_some_and(|dataset| cluster_of(&dataset) == *cluster)
        })
    }

    /// WarmupPolicies with these uids.
    pub(crate) fn policies_with(&self, uids: &BTreeSet<String>) -> Vec<Arc<WarmupPolicy>> {
        if uids.is_empty() {
            return Vec::new();
        }
        self.policies.state_filter(|policy| {
            let uid = policy.metadata.uid.as_ref();
            uid.is_some_and(|uid| uids.contains(uid))
        })
    }

    /// All Datasets.
    pub(crate) fn dataset_keys(&self) -> BTreeSet<Key> {
        let datasets = self.datasets.state();
        datasets.iter().map(|dataset| Key::of(&**dataset)).collect()
    }
}

impl Queues {
    /// Asks for a look at every claim that a user made of a Dataset.
    fn claims_of(&self, claims: &Store<PersistentVolumeClaim>, dataset: &Key) {
        for claim in claims.state_filter(|c| user_claim::dataset_of(c).as_ref() == Some(dataset)) {
            self.claims.push(&Key::of(&*claim));
        }
    }

    /// Asks for a look at every Dataset that refers to a cluster.
    pub(crate) fn users(&self, datasets: &Store<Dataset>, cluster: &Key) {
        for dataset in datasets.state_filter(|d| cluster_of(d) == *cluster) {
            self.datasets.push(&Key::of(&*dataset));
        }
    }
}

/// The Dataset that a policy refers to.
fn dataset_key_of(policy: &WarmupPolicy) -> Key {
    Key::new(
        policy.namespace().unwrap_or_default(),
        &policy.spec.dataset_ref.name,
    )
}

/// The claim that a volume is for.
fn holder(volume: &PersistentVolume) -> Option<Key> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
}

/// Claims that are ours, and those that users made of Datasets.
fn concerns(claim: &PersistentVolumeClaim) -> bool {
    let manager = claim.labels().get(MANAGED_BY);
    manager.is_some_and(|manager| manager == MANAGER) || user_claim::dataset_of(claim).is_some()
}

fn meta<K>(store: &Store<K>, key: &Key) -> Option<ObjectMeta>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut object = Ref::<K>::new(&key.name);
    if !key.namespace.is_empty() {
        object = object.within(&key.namespace);
    }
    store.get(&object).map(|object| object.meta().clone())
}

fn labelled<K>(store: &Store<K>, cluster: &str) -> Vec<ObjectMeta>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let of = |object: &K| {
        object
            .labels()
            .get(CLUSTER)
            .is_some_and(|uid| uid == cluster)
    };
    let found = store.state_filter(of);
    found.iter().map(|object| object.meta().clone()).collect()
}

fn cluster_key(meta: &ObjectMeta) -> Option<Key> {
    let labels = meta.labels.as_ref()?;
    labels.get(COMPONENT)?;
    let name = labels.get("app.kubernetes.io/instance")?;
    Some(Key::new(meta.namespace.clone()?, name))
}

fn dataset_key(meta: &ObjectMeta) -> Option<Key> {
    let labels = meta.labels.as_ref()?;
    labels.get(DATASET)?;
    let namespace = labels.get(DATASET_NAMESPACE).or(meta.namespace.as_ref())?;
    Some(Key::new(namespace, labels.get(DATASET_NAME)?))
}
