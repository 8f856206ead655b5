//! A claim that a user made of a Dataset: its `dataSourceRef` names the Dataset, annotations say the rest. It gets a
//! volume of its own, which the plan of the Dataset takes away when the claim is gone.

use crate::plan::{
    claim::{self, Act},
    name::{DATASET, DATASET_NAMESPACE, FINALIZER, Key, Names, uid},
    volume::{self, Claimant},
};
use forebay_crds::{CacheCluster, Dataset};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
};
use kube::ResourceExt;
use serde_json::Value;
use std::path::{Component, Path};

/// Annotation with the directory of the Dataset that the volume shows.
pub const SUB_PATH: &str = "forebay.io/sub-path";
/// The only mode that volumes have.
const READ_ONLY: &str = "ReadOnlyMany";

/// What was observed.
pub struct Observed<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The Dataset that it names.
    pub dataset: Option<&'a Dataset>,
    /// The CacheCluster of the Dataset.
    pub cluster: Option<&'a CacheCluster>,
    /// The volume that was made for it.
    pub volume: Option<&'a PersistentVolume>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The volume to apply.
    pub apply: Option<Value>,
    /// What else to do about it.
    pub act: Option<Act>,
    /// What the user must know.
    pub note: Option<Note>,
}

/// Told as an event of the claim, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether waiting does not help.
    pub warning: bool,
    /// In CamelCase.
    pub reason: &'static str,
    /// What is the matter, and what to do.
    pub message: String,
}

impl Plan {
    fn note(warning: bool, reason: &'static str, message: String) -> Plan {
        let note = Note {
            warning,
            reason,
            message,
        };
        Plan {
            note: Some(note),
            ..Plan::default()
        }
    }

    fn waits(reason: &'static str, message: String) -> Plan {
        Plan::note(false, reason, message)
    }

    fn refused(reason: &'static str, message: String) -> Plan {
        Plan::note(true, reason, message)
    }
}

/// The Dataset that a claim is of, if a user made it so.
pub fn dataset_of(claim: &PersistentVolumeClaim) -> Option<Key> {
    let source = claim.spec.as_ref()?.data_source_ref.as_ref()?;
    if claim.labels().contains_key(DATASET)
        || source.api_group.as_deref() != Some("forebay.io")
        || source.kind != "Dataset"
    {
        return None;
    }
    // The field is dropped by API servers without the gate CrossNamespaceVolumeDataSource, alpha since Kubernetes 1.26.
    let named = source.namespace.as_ref();
    let named = named.or_else(|| claim.annotations().get(DATASET_NAMESPACE));
    let own = || claim.namespace().unwrap_or_default();
    Some(Key::new(named.cloned().unwrap_or_else(own), &source.name))
}

/// Decides about a claim of a Dataset `of`.
pub fn plan(observed: &Observed<'_>, of: &Key) -> Plan {
    let claim = observed.claim;
    let (key, uid) = (Key::of(claim), uid(claim));
    let spec = claim.spec.clone().unwrap_or_default();
    let ours = volume::name(&uid);
    let elsewhere = spec.volume_name.as_ref().is_some_and(|name| *name != ours);
    if claim.metadata.deletion_timestamp.is_some() || elsewhere {
        return Plan::default();
    }
    let Some(dataset) = observed.dataset else {
        return Plan::waits("DatasetNotFound", format!("waits for Dataset {of}"));
    };
    // A grant that is taken back ends nothing.
    let access = dataset.spec.access.as_ref();
    let granted = of.namespace == key.namespace || access.is_some_and(|a| a.grants(&key.namespace));
    if !granted && observed.volume.is_none() {
        let message = format!(
            "Dataset {of} does not let namespace {} have claims of it: its owner adds the namespace to spec.access.namespaces",
            key.namespace
        );
        return Plan::refused("NotGranted", message);
    }
    let claimant = match claimant(claim, &spec) {
        Ok(claimant) => claimant,
        Err((reason, message)) => return Plan::refused(reason, message),
    };
    let served = dataset.finalizers().iter().any(|name| name == FINALIZER);
    let leaves = dataset.metadata.deletion_timestamp.is_some();
    let Some(cluster) = observed.cluster.filter(|_| served && !leaves) else {
        let Key { namespace, name } = of;
        let message =
            format!("Dataset {of} is not served: kubectl describe dataset -n {namespace} {name}");
        return Plan::waits("DatasetNotServed", message);
    };
    let id = crate::plan::name::uid(dataset);
    let desired = volume::volume(of, &id, &Names::of(cluster), &claimant);
    match observed
        .volume
        .filter(|volume| !claim::is(volume, &desired))
    {
        Some(volume) if spec.volume_name.is_none() => Plan {
            act: Some(Act::DeleteVolume(
                volume.name_any(),
                super::name::uid(volume),
            )),
            ..Plan::default()
        },
        Some(_) => Plan::refused(
            "VolumeOutdated",
            "what the volume shows cannot be changed: delete the claim and create it again"
                .to_owned(),
        ),
        None => Plan {
            apply: Some(desired),
            ..Plan::default()
        },
    }
}

fn claimant(
    claim: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
) -> Result<Claimant, (&'static str, String)> {
    let modes = spec.access_modes.clone().unwrap_or_default();
    if modes.iter().any(|mode| mode != READ_ONLY) || spec.volume_mode.as_deref() == Some("Block") {
        let message = format!(
            "volumes of Datasets are directories that cannot be written: create the claim with accessModes [{READ_ONLY}] and volumeMode Filesystem"
        );
        return Err(("ModeNotSupported", message));
    }
    let sub_path = claim.annotations().get(SUB_PATH);
    let sub_path = match sub_path.map(|text| text.trim_end_matches('/')) {
        None => None,
        Some(text) => {
            let mut names = Path::new(text).components();
            let good = !text.is_empty() && names.all(|name| matches!(name, Component::Normal(_)));
            if !good {
                let message =
                    format!("annotation {SUB_PATH}: '{text}' is no relative path without '..'");
                return Err(("SubPathInvalid", message));
            }
            Some(text.to_owned())
        }
    };
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage"));
    let own = Claimant::own(&Key::of(claim), &uid(claim));
    Ok(Claimant {
        uid: Some(uid(claim)),
        sub_path,
        class: spec.storage_class_name.clone().unwrap_or_default(),
        size: size.map_or_else(|| own.size.clone(), |size| size.0.clone()),
        ..own
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(change: &Value) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "mine", "namespace": "team", "uid": "P"},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "dataSourceRef": {"apiGroup": "forebay.io", "kind": "Dataset", "name": "d"},
                "resources": {"requests": {"storage": "5Gi"}},
                "storageClassName": "fast",
            },
        });
        merge(&mut claim, change);
        serde_json::from_value(claim).unwrap()
    }

    fn merge(into: &mut Value, change: &Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (name, value) in change {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change.clone(),
        }
    }

    fn dataset(namespace: &str, access: &[&str]) -> Dataset {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": namespace, "uid": "D", "finalizers": [FINALIZER]},
            "spec": {"clusterRef": {"name": "c"}, "mounts": [{"uri": "s3://b"}], "access": {"namespaces": access}},
        }))
        .unwrap()
    }

    fn cluster() -> CacheCluster {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "team", "uid": "C"}, "spec": {"workers": []},
        }))
        .unwrap()
    }

    fn decide(
        claim: &PersistentVolumeClaim,
        dataset: Option<&Dataset>,
        volume: Option<&PersistentVolume>,
    ) -> Plan {
        let observed = Observed {
            claim,
            dataset,
            cluster: Some(&cluster()),
            volume,
        };
        plan(&observed, &dataset_of(claim).unwrap())
    }

    fn reason(plan: &Plan) -> &'static str {
        assert_eq!((&plan.apply, &plan.act), (&None, &None));
        plan.note.as_ref().map_or("", |note| note.reason)
    }

    #[test]
    fn a_claim_gets_a_volume_of_its_own() {
        let claim = claim(&json!({"metadata": {"annotations": {SUB_PATH: "a/b/"}}}));
        let plan = decide(&claim, Some(&dataset("team", &[])), None);
        let volume = plan.apply.unwrap();
        assert_eq!(volume["metadata"]["name"], "forebay-P");
        let spec = &volume["spec"];
        assert_eq!(spec["capacity"]["storage"], "5Gi");
        assert_eq!(spec["storageClassName"], "fast");
        assert_eq!(spec["claimRef"]["uid"], "P");
        let attributes = &spec["csi"]["volumeAttributes"];
        assert_eq!(attributes["path"], "/team/d");
        assert_eq!(attributes["subPath"], "a/b");
        // Once it is there it stays; a changed annotation is told.
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        let again = decide(&claim, Some(&dataset("team", &[])), Some(&volume));
        assert!(again.apply.is_some() && again.note.is_none());
        let other = self::claim(&json!({"spec": {"volumeName": "forebay-P"}}));
        let plan = decide(&other, Some(&dataset("team", &[])), Some(&volume));
        assert_eq!(reason(&plan), "VolumeOutdated");
        let unbound = decide(
            &self::claim(&json!({})),
            Some(&dataset("team", &[])),
            Some(&volume),
        );
        assert!(matches!(unbound.act, Some(Act::DeleteVolume(..))));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let ours = dataset("team", &[]);
        let mut unserved = ours.clone();
        unserved.metadata.finalizers = None;
        let sub_path = |text| json!({"metadata": {"annotations": {SUB_PATH: text}}});
        for (change, dataset, expected) in [
            (json!({}), None, "DatasetNotFound"),
            (json!({}), Some(&unserved), "DatasetNotServed"),
            (
                json!({"spec": {"accessModes": ["ReadWriteMany"]}}),
                Some(&ours),
                "ModeNotSupported",
            ),
            (
                json!({"spec": {"volumeMode": "Block"}}),
                Some(&ours),
                "ModeNotSupported",
            ),
            (sub_path("../x"), Some(&ours), "SubPathInvalid"),
            (sub_path("/x"), Some(&ours), "SubPathInvalid"),
            (sub_path("/"), Some(&ours), "SubPathInvalid"),
            (
                json!({"spec": {"volumeName": "of-somebody"}}),
                Some(&ours),
                "",
            ),
        ] {
            let plan = decide(&claim(&change), dataset, None);
            assert_eq!(reason(&plan), expected, "{change}");
        }
    }

    #[test]
    fn another_namespace_needs_a_grant() {
        let change = json!({"metadata": {"annotations": {DATASET_NAMESPACE: "data"}}});
        let claim = claim(&change);
        assert_eq!(dataset_of(&claim), Some(Key::new("data", "d")));
        let by_field = self::claim(&json!({"spec": {"dataSourceRef": {"namespace": "data"}}}));
        assert_eq!(dataset_of(&by_field), Some(Key::new("data", "d")));
        let plan = decide(&claim, Some(&dataset("data", &["other"])), None);
        assert_eq!(reason(&plan), "NotGranted");
        let plan = decide(&claim, Some(&dataset("data", &["team"])), None);
        let volume: PersistentVolume = serde_json::from_value(plan.apply.unwrap()).unwrap();
        // What is in use stays in use.
        let plan = decide(&claim, Some(&dataset("data", &[])), Some(&volume));
        assert!(plan.apply.is_some());
    }

    #[test]
    fn claims_of_other_things_are_none_of_ours() {
        let source = |change: Value| claim(&json!({"spec": {"dataSourceRef": change}}));
        assert_eq!(dataset_of(&source(json!({"apiGroup": "x.io"}))), None);
        assert_eq!(dataset_of(&source(json!({"kind": "Other"}))), None);
        let made = claim(&json!({"metadata": {"labels": {DATASET: "D"}}}));
        assert_eq!(dataset_of(&made), None);
    }
}
