//! Names, labels and addresses of what belongs to a CacheCluster: `docs/kubernetes.md` has the table.

use forebay_crds::{CacheCluster, Dataset};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};
use std::fmt;

/// Who owns the fields that the operator writes.
pub const MANAGER: &str = "forebay-operator";
/// Keeps an object until the operator has undone what it stands for.
pub const FINALIZER: &str = "forebay.io/operator";
/// Label of everything that the operator makes; its watches select by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label with the uid of a CacheCluster.
pub const CLUSTER: &str = "forebay.io/cluster";
/// Label with the name of a group of workers.
pub const GROUP: &str = "forebay.io/group";
/// Label with the uid of a Dataset.
pub const DATASET: &str = "forebay.io/dataset";
/// Label with the namespace of a Dataset, on objects that have none.
pub const DATASET_NAMESPACE: &str = "forebay.io/dataset-namespace";
/// Label with the name of a Dataset.
pub const DATASET_NAME: &str = "forebay.io/dataset-name";
/// Label that tells masters from workers.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The CSI driver.
pub const DRIVER: &str = "csi.forebay.io";
/// Most masters of a cluster: clients are told of all that there could be.
pub const MASTERS_MOST: u32 = 5;
/// Where a master serves gRPC, and `/metrics`, `/healthz`, `/readyz`.
pub const MASTER_PORTS: [u16; 2] = [7000, 7001];
/// Where a worker does.
pub const WORKER_PORTS: [u16; 2] = [7100, 7101];

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace; empty if the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Of these.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// That of an object.
    pub fn of<K: Resource>(object: &K) -> Key {
        Key::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The uid that the API server gave an object; empty before that.
pub fn uid<K: Resource>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

/// The CacheCluster that a Dataset refers to.
pub fn cluster_of(dataset: &Dataset) -> Key {
    let cluster = &dataset.spec.cluster_ref;
    let own = || dataset.namespace().unwrap_or_default();
    Key::new(cluster.namespace.clone().unwrap_or_else(own), &cluster.name)
}

/// The directory of a Dataset in its cluster's tree.
pub fn root(dataset: &Key) -> String {
    format!("/{}/{}", dataset.namespace, dataset.name)
}

/// The Dataset in whose directory a path of the tree lies, if it lies in one.
pub fn dataset_of(path: &str) -> Option<Key> {
    let mut names = path.strip_prefix('/')?.splitn(3, '/');
    let (namespace, name) = (names.next()?, names.next()?);
    (!namespace.is_empty() && !name.is_empty()).then(|| Key::new(namespace, name))
}

/// The names of what belongs to a CacheCluster.
#[derive(Clone, Debug)]
pub struct Names {
    /// The CacheCluster.
    pub key: Key,
    /// Its uid.
    pub uid: String,
}

impl Names {
    /// Of what belongs to `cluster`.
    pub fn of(cluster: &CacheCluster) -> Names {
        Names {
            key: Key::of(cluster),
            uid: uid(cluster),
        }
    }

    /// StatefulSet, ConfigMap and PodDisruptionBudget of the masters.
    pub fn master(&self) -> String {
        format!("{}-master", self.key.name)
    }

    /// The pod of a master.
    pub fn master_pod(&self, id: u64) -> String {
        format!("{}-{id}", self.master())
    }

    /// The headless Service of the masters.
    pub fn masters(&self) -> String {
        format!("{}-masters", self.key.name)
    }

    /// DaemonSet and ConfigMap of a group of workers.
    pub fn worker(&self, group: &str) -> String {
        format!("{}-worker-{group}", self.key.name)
    }

    /// DaemonSet that erases what a group of workers leaves.
    pub fn eraser(&self, group: &str) -> String {
        format!("{}-eraser-{group}", self.key.name)
    }

    /// The Secret with the key of credentials.
    pub fn seal(&self) -> String {
        format!("{}-seal", self.key.name)
    }

    /// Where a master serves gRPC.
    pub fn address(&self, id: u64) -> String {
        let [port, _] = MASTER_PORTS;
        format!(
            "{}.{}.{}.svc:{port}",
            self.master_pod(id),
            self.masters(),
            self.key.namespace
        )
    }

    /// Where all masters serve that there could be.
    pub fn addresses(&self) -> Vec<String> {
        (1..=u64::from(MASTERS_MOST))
            .map(|id| self.address(id))
            .collect()
    }

    /// What selects the pods of a component.
    pub fn selector(&self, component: &str) -> Map<String, Value> {
        let labels = [(CLUSTER, self.uid.as_str()), (COMPONENT, component)];
        texts(&labels)
    }

    /// Labels of an object of a component.
    pub fn labels(&self, component: &str) -> Map<String, Value> {
        let mut labels = self.selector(component);
        labels.extend(texts(&[
            ("app.kubernetes.io/name", "forebay"),
            ("app.kubernetes.io/instance", &self.key.name),
            (MANAGED_BY, MANAGER),
        ]));
        labels
    }

    /// Metadata of an object that goes with the cluster.
    pub fn metadata(&self, name: &str, labels: &Map<String, Value>) -> Value {
        json!({
            "name": name,
            "namespace": self.key.namespace,
            "labels": labels,
            "ownerReferences": [owner("CacheCluster", &self.key.name, &self.uid)],
        })
    }
}

/// Labels as they are written.
pub fn texts(labels: &[(&str, &str)]) -> Map<String, Value> {
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), Value::from(*value));
    labels.iter().map(text).collect()
}

/// Makes an object go with one of ours of the same namespace.
pub fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "forebay.io/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_table() {
        let names = Names {
            key: Key::new("ns", "demo"),
            uid: "U".to_owned(),
        };
        assert_eq!(
            names.addresses()[2],
            "demo-master-3.demo-masters.ns.svc:7000"
        );
        assert_eq!(names.addresses().len(), 5);
        assert_eq!(names.worker("gpu"), "demo-worker-gpu");
        assert_eq!(names.seal(), "demo-seal");
    }

    #[test]
    fn a_path_of_the_tree_belongs_to_one_dataset() {
        let key = Key::new("ns", "imagenet");
        assert_eq!(root(&key), "/ns/imagenet");
        for (path, expected) in [
            ("/ns/imagenet", Some(&key)),
            ("/ns/imagenet/models/x", Some(&key)),
            ("/ns", None),
            ("/", None),
        ] {
            assert_eq!(dataset_of(path).as_ref(), expected, "{path}");
        }
    }
}
