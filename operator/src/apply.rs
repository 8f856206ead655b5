//! Server-side apply of what is wanted, and nothing else: an object that is as it was applied last is left alone.

use crate::{
    error::{Error, Result, has_code, is_missing},
    metrics::Metrics,
    plan::{
        claim::Act,
        config::hash,
        drift,
        name::{CLUSTER, DATASET, Key, MANAGED_BY, MANAGER},
    },
    world::World,
};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, StatefulSet},
        core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::reflector::ObjectRef as Ref,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Kinds of which there are as many as Datasets.
const MANY: [&str; 3] = ["PersistentVolume", "PersistentVolumeClaim", "ConfigMap"];
/// Their annotation with the hash of what was applied.
const APPLIED: &str = "forebay.io/applied";

/// Applies objects.
pub(crate) struct Applier {
    client: Client,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    applied: Mutex<BTreeMap<(String, Key), Applied>>,
}

/// What was applied, and what the API server made of it.
#[derive(Clone, PartialEq, Eq)]
struct Applied {
    hash: String,
    stamp: String,
}

impl Applier {
    pub(crate) fn new(client: Client, world: Arc<World>, metrics: Arc<Metrics>) -> Applier {
        Applier {
            client,
            world,
            metrics,
            applied: Mutex::default(),
        }
    }

    /// Applies an object, unless it is there just so. An object of somebody else with its name is left alone.
    pub(crate) async fn apply(&self, object: &Value) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]);
        let metadata = &object["metadata"];
        let key = Key::new(text(&metadata["namespace"]), text(&metadata["name"]));
        let hash = hash(&object.to_string());
        let seen = self.world.glance(&kind, &key);
        let id = (kind.clone(), key.clone());
        let object = &marked(object, &kind, &hash);
        if let Some(seen) = &seen {
            let now = Applied {
                hash: hash.clone(),
                stamp: stamp(seen),
            };
            if self.applied.lock().get(&id) == Some(&now) {
                return Ok(());
            }
            if self.stands(&kind, &key, object) {
                self.applied.lock().insert(id, now);
                return Ok(());
            }
        }
        let api = self.api(&kind, &key);
        let what = || format!("cannot apply {kind} {key}");
        let there = match seen {
            Some(seen) => Some(seen),
            // The watch shows what has our labels; others have names, too.
            None => api
                .get_metadata_opt(&key.name)
                .await
                .map_err(Error::api(what()))?
                .map(|there: PartialObjectMeta<DynamicObject>| there.metadata),
        };
        if there.is_some_and(|there| !is_ours(&there, &metadata["labels"])) {
            return Err(Error::NameInUse(format!("{kind} {key}")));
        }
        let mut params = PatchParams::apply(MANAGER).force();
        params.field_validation = Some(kube::api::ValidationDirective::Strict);
        self.metrics.write("apply");
        let applied = api.patch(&key.name, &params, &Patch::Apply(object)).await;
        let applied = applied.map_err(Error::api(what()))?;
        let applied = Applied {
            hash,
            stamp: stamp(&applied.metadata),
        };
        self.applied.lock().insert(id, applied);
        Ok(())
    }

    /// Whether an object of which there are as many as Datasets is there as it is wanted: somebody else wrote it, or an
    /// operator before this one.
    fn stands(&self, kind: &str, key: &Key, wanted: &Value) -> bool {
        let seen = match kind {
            "PersistentVolume" => {
                let volume = self.world.volumes.get(&Ref::new(&key.name));
                volume.and_then(|volume| serde_json::to_value(&*volume).ok())
            }
            "PersistentVolumeClaim" => {
                let claim = Ref::new(&key.name).within(&key.namespace);
                let claim = self.world.claims.get(&claim);
                claim.and_then(|claim| serde_json::to_value(&*claim).ok())
            }
            "ConfigMap" => {
                let map = Ref::new(&key.name).within(&key.namespace);
                let map = self.world.config_maps.get(&map);
                map.and_then(|map| serde_json::to_value(&*map).ok())
            }
            _ => None,
        };
        seen.is_some_and(|seen| drift::says(&seen, wanted))
    }

    /// An object went with what it belonged to.
    pub(crate) fn forget(&self, kind: &str, key: &Key) {
        self.applied.lock().remove(&(kind.to_owned(), key.clone()));
    }

    /// Deletes an object of that uid.
    pub(crate) async fn delete(&self, kind: &str, key: &Key, uid: &str) -> Result<()> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        self.metrics.write("delete");
        match self.api(kind, key).delete(&key.name, &params).await {
            Err(error) if !is_missing(&error) && !has_code(&error, 409) => {
                Err(Error::api(format!("cannot delete {kind} {key}"))(error))
            }
            _ => {
                self.forget(kind, key);
                Ok(())
            }
        }
    }

    /// Deletes what belongs to a cluster and is not among `kept`.
    pub(crate) async fn prune(
        &self,
        cluster: &str,
        kept: &std::collections::BTreeSet<(String, String)>,
    ) -> Result<()> {
        for (kind, meta) in self.world.belongings(cluster) {
            let name = meta.name.unwrap_or_default();
            let going = meta.deletion_timestamp.is_some();
            if going || kept.contains(&(kind.to_owned(), name.clone())) {
                continue;
            }
            let key = Key::new(meta.namespace.unwrap_or_default(), name);
            let uid = meta.uid.unwrap_or_default();
            self.delete(kind, &key, &uid).await?;
        }
        Ok(())
    }

    /// Does something about a volume.
    pub(crate) async fn act(&self, act: &Act) -> Result<()> {
        match act {
            Act::DeleteClaim(key, uid) => self.delete("PersistentVolumeClaim", key, uid).await,
            Act::DeleteVolume(name, uid) => {
                let key = Key::new("", name);
                self.delete("PersistentVolume", &key, uid).await
            }
            Act::Release(name) => {
                let forget = json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
                self.merge("PersistentVolume", &Key::new("", name), &forget)
                    .await
            }
        }
    }

    /// Changes a few fields that others own.
    pub(crate) async fn merge(&self, kind: &str, key: &Key, change: &Value) -> Result<()> {
        self.metrics.write("patch");
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(kind, key);
        let changed = api.patch(&key.name, &params, &Patch::Merge(change)).await;
        match changed {
            Err(error) if !is_missing(&error) => {
                Err(Error::api(format!("cannot change {kind} {key}"))(error))
            }
            _ => Ok(()),
        }
    }

    fn api(&self, kind: &str, key: &Key) -> Api<DynamicObject> {
        let resource = resource(kind);
        if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        }
    }
}

/// The object; if it will be compared, with a mark of what it says, by which also what is wanted no longer is a change.
fn marked(object: &Value, kind: &str, hash: &str) -> Value {
    let mut object = object.clone();
    if MANY.contains(&kind) {
        object["metadata"]["annotations"][APPLIED] = json!(hash);
    }
    object
}

fn resource(kind: &str) -> ApiResource {
    match kind {
        "StatefulSet" => ApiResource::erase::<StatefulSet>(&()),
        "DaemonSet" => ApiResource::erase::<DaemonSet>(&()),
        "PersistentVolumeClaim" => ApiResource::erase::<PersistentVolumeClaim>(&()),
        "PersistentVolume" => ApiResource::erase::<PersistentVolume>(&()),
        "Service" => ApiResource::erase::<Service>(&()),
        "PodDisruptionBudget" => ApiResource::erase::<PodDisruptionBudget>(&()),
        _ => ApiResource::erase::<ConfigMap>(&()),
    }
}

/// Changes when somebody changes what an object is to be; without generations, also with its status.
fn stamp(meta: &ObjectMeta) -> String {
    let uid = meta.uid.as_deref().unwrap_or_default();
    match (meta.generation, &meta.resource_version) {
        (Some(generation), _) => format!("{uid} {generation}"),
        (None, version) => format!("{uid} {}", version.as_deref().unwrap_or_default()),
    }
}

/// Whether an object has the labels by which ours are known.
fn is_ours(there: &ObjectMeta, labels: &Value) -> bool {
    let there = there.labels.clone().unwrap_or_default();
    let same = |name: &str| there.get(name).map(String::as_str) == labels[name].as_str();
    same(MANAGED_BY) && same(CLUSTER) && same(DATASET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_labels_of_this_owner_is_ours() {
        let meta = |labels: &[(&str, &str)]| ObjectMeta {
            labels: Some(
                labels
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ),
            ..ObjectMeta::default()
        };
        let wanted = json!({MANAGED_BY: MANAGER, CLUSTER: "u"});
        assert!(is_ours(
            &meta(&[(MANAGED_BY, MANAGER), (CLUSTER, "u"), ("x", "y")]),
            &wanted
        ));
        assert!(!is_ours(
            &meta(&[(MANAGED_BY, MANAGER), (CLUSTER, "v")]),
            &wanted
        ));
        assert!(!is_ours(&meta(&[]), &wanted));
        assert!(!is_ours(&ObjectMeta::default(), &wanted));
    }
}
