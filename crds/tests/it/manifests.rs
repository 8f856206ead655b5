//! The manifests build, what they build is known to the API, and the Helm chart says the same.

use crate::{api_server::admit, documents};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::{DaemonSet, Deployment},
        batch::v1::Job,
        core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
        scheduling::v1::PriorityClass,
        storage::v1::CSIDriver,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

const DEFAULT: &str = "../manifests/default";
const CHART: &str = "../manifests/chart";
/// What is applied by itself.
const BUILT: [&str; 7] = [
    DEFAULT,
    "../manifests/overlays/demo",
    "../manifests/overlays/demo/data",
    "../manifests/overlays/ha",
    "../examples/training",
    "../examples/spark",
    "../examples/gitops",
];
/// What is added, with the parts that it needs.
const COMPONENTS: [&str; 3] = ["monitoring", "network-policy", "operator-pdb"];

type Objects = BTreeMap<String, Value>;

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by kind and name, without what says nothing.
fn objects(text: &str, origin: &str) -> Objects {
    let mut objects = Objects::new();
    for mut object in documents::read(text, origin) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        if kind.starts_with("ValidatingAdmission") {
            // Kustomize takes them for objects of a namespace; the API server drops it.
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("namespace");
        }
        drop_empty_lists(&mut object);
        let [namespace, name] = ["namespace", "name"].map(|key| &object["metadata"][key]);
        let key = format!("{kind} {namespace} {name}");
        assert!(objects.insert(key.clone(), object).is_none(), "two {key}");
    }
    objects
}

/// Without empty lists.
fn drop_empty_lists(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| field.as_array().is_none_or(|list| !list.is_empty()));
            fields.values_mut().for_each(drop_empty_lists);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty_lists),
        _ => {}
    }
}

/// Where two values differ first, and how.
fn difference(left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(fields), Value::Object(others)) => {
            let keys: BTreeSet<_> = fields.keys().chain(others.keys()).collect();
            keys.into_iter().find_map(|key| {
                difference(&left[key], &right[key]).map(|below| format!(".{key}{below}"))
            })
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            let pairs = items.iter().zip(others).enumerate();
            let mut different = pairs.filter_map(|(n, (item, other))| {
                difference(item, other).map(|below| format!("[{n}]{below}"))
            });
            different.next()
        }
        // 0.0 is 0.
        (Value::Number(number), Value::Number(other)) if number.as_f64() == other.as_f64() => None,
        _ => (left != right).then(|| format!(": {left} instead of {right}")),
    }
}

fn assert_same(name: &str, left: &Value, right: &Value) {
    if let Some(difference) = difference(left, right) {
        panic!("{name}{difference}");
    }
}

fn kustomize(folder: &str) -> Objects {
    let text = run(Command::new("kubectl").args(["kustomize", folder]));
    objects(&text, folder)
}

/// What a component of that name brings.
fn component(name: &str) -> Objects {
    kustomize(&format!("{CHART}/source/{name}"))
}

fn helm(values: &[&str]) -> Objects {
    let mut command = Command::new("helm");
    command.args(["template", "any", CHART, "--include-crds"]);
    // The oldest Kubernetes that the chart is for.
    command.args(["--kube-version", "1.29.0", "--namespace", "forebay-system"]);
    for value in values {
        command.args(["--set", value]);
    }
    objects(&run(&mut command), CHART)
}

fn assert_all_same(chart: &Objects, manifests: &Objects) {
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(chart), names(manifests));
    for (name, object) in manifests {
        assert_same(name, &chart[name], object);
    }
}

#[test]
#[ignore = "needs kubectl and helm: make manifests"]
fn the_chart_says_what_the_manifests_say() {
    let mut manifests = kustomize(DEFAULT);
    manifests.retain(|name, _| !name.starts_with("Namespace "));
    assert_all_same(&helm(&[]), &manifests);

    for name in COMPONENTS {
        manifests.extend(component(name));
    }
    let operator = r#"Deployment "forebay-system" "forebay-operator""#;
    manifests.get_mut(operator).unwrap()["spec"]["replicas"] = 2.into();
    let values = [
        "operator.replicas=2",
        "monitoring.enabled=true",
        "networkPolicy.enabled=true",
    ];
    assert_all_same(&helm(&values), &manifests);
}

#[test]
#[ignore = "needs kubectl and helm: make manifests"]
fn values_of_the_chart_go_everywhere() {
    let objects = helm(&[
        "image=registry.example/forebay:9",
        "node.nodeSelector.pool=gpu",
        "node.fuse.memory=2GiB",
        "networkPolicy.clusterNamespaces={a,b}",
    ]);
    let text = serde_json::to_string(&objects).unwrap();
    assert!(!text.contains("forebay:dev"));
    // Operator, keeper, both containers of the node, and the image that masters and workers get.
    assert_eq!(text.matches(r#""registry.example/forebay:9""#).count(), 5);
    assert_eq!(text.matches(r#""pool":"gpu""#).count(), 2);
    assert!(text.contains(r#"memory = \"2GiB\""#));
    let policies = objects
        .keys()
        .filter(|name| name.starts_with("NetworkPolicy "));
    assert_eq!(policies.count(), 4);
    for namespace in ["a", "b"] {
        let mut built = component("clusters");
        for object in built.values_mut() {
            object["metadata"]["namespace"] = namespace.into();
            let name = object["metadata"]["name"].clone();
            let key = format!(r#"NetworkPolicy "{namespace}" {name}"#);
            assert_same(&key, &objects[&key], object);
        }
    }
}

#[test]
#[ignore = "needs kubectl: make manifests"]
fn the_chart_is_written_again_when_the_manifests_change() {
    let out = std::env::temp_dir().join(format!("forebay-chart-{}", std::process::id()));
    run(Command::new("../scripts/chart").arg(&out));
    for folder in ["templates", "crds"] {
        let there = Path::new(CHART).join(folder);
        let mut written = 0;
        for entry in fs::read_dir(out.join(folder)).unwrap() {
            let name = entry.unwrap().file_name();
            let text = |folder: &Path| fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(
                text(&out.join(folder)) == text(&there),
                "{folder}/{} is old: run scripts/chart",
                name.display()
            );
            written += 1;
        }
        let yaml = fs::read_dir(there).unwrap().filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|e| e == "yaml")
        });
        assert_eq!(yaml.count(), written, "{folder} has a file of nobody");
    }
    fs::remove_dir_all(out).unwrap();
}

#[test]
fn the_version_of_the_chart_is_ours() {
    let text = fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&text).unwrap();
    for version in ["version", "appVersion"] {
        assert_eq!(chart[version], env!("CARGO_PKG_VERSION"), "{version}");
    }
}

#[test]
#[ignore = "needs kubectl: make manifests"]
fn what_is_built_is_known_to_the_api() {
    let built = BUILT.iter().map(|folder| kustomize(folder));
    let added = COMPONENTS
        .iter()
        .chain(&["clusters"])
        .map(|name| component(name));
    for objects in built.chain(added) {
        assert!(!objects.is_empty());
        for (name, object) in objects {
            if let Some(read) = through_its_type(&object) {
                assert_same(&name, &read, &object);
            } else {
                admit(&object, None).unwrap_or_else(|wrong| panic!("{name}: {wrong:?}"));
            }
        }
    }
}

/// Through the type of Kubernetes and back; none of objects of ours.
fn through_its_type(object: &Value) -> Option<Value> {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        let typed: T = serde_json::from_value(object.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", object["metadata"]));
        let mut again = serde_json::to_value(typed).unwrap();
        drop_empty_lists(&mut again);
        again
    }
    let through = match object["kind"].as_str().unwrap() {
        "CacheCluster" | "Dataset" | "WarmupPolicy" => return None,
        // No type of Kubernetes: the Prometheus operator's.
        "PodMonitor" => Value::clone,
        "ClusterRole" => through::<ClusterRole>,
        "ClusterRoleBinding" => through::<ClusterRoleBinding>,
        "ConfigMap" => through::<ConfigMap>,
        "CSIDriver" => through::<CSIDriver>,
        "CustomResourceDefinition" => through::<CustomResourceDefinition>,
        "DaemonSet" => through::<DaemonSet>,
        "Deployment" => through::<Deployment>,
        "Job" => through::<Job>,
        "Namespace" => through::<Namespace>,
        "NetworkPolicy" => through::<NetworkPolicy>,
        "PodDisruptionBudget" => through::<PodDisruptionBudget>,
        "PriorityClass" => through::<PriorityClass>,
        "Role" => through::<Role>,
        "RoleBinding" => through::<RoleBinding>,
        "Secret" => through::<Secret>,
        "Service" => through::<Service>,
        "ServiceAccount" => through::<ServiceAccount>,
        "ValidatingAdmissionPolicy" => through::<ValidatingAdmissionPolicy>,
        "ValidatingAdmissionPolicyBinding" => through::<ValidatingAdmissionPolicyBinding>,
        other => panic!("{other}: add its type"),
    };
    Some(through(object))
}
