//! What the policy makes of pods, by a real API server.

use crate::{
    api_server::ApiServer,
    process::port,
    story::{gone, operator, until},
};
use forebay_service::Shutdown;
use k8s_openapi::api::{
    admissionregistration::v1beta1::{MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding},
    core::v1::Pod,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use std::time::Duration;

const POLICY: &str = "forebay-locality";

/// A placement as the operator writes it.
fn placement(claim: &str, nodes: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: forebay-placement-{claim}, namespace: default, labels: {{forebay.io/placement: \"true\"}}}}
data: {{claim: {claim}, nodes: \"{nodes}\"}}
"
    )
}

/// A pod that mounts claims.
fn pod(claims: &[&str], metadata: Value, spec: Value) -> Pod {
    let volume =
        |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
    let volumes: Vec<Value> = claims.iter().map(volume).collect();
    let mut pod = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": volumes},
    });
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        let more = more.as_object().unwrap().clone();
        pod[part].as_object_mut().unwrap().extend(more);
    }
    serde_json::from_value(pod).unwrap()
}

fn prefers(node: &str, weight: i32) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    json!({"weight": weight, "preference": {"matchFields": [field]}})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver"]
async fn pods_prefer_nodes_with_what_they_mount() {
    forebay_service::telemetry::init();
    let server = ApiServer::start().await;
    let admin = server.client("admin");
    let shutdown = Shutdown::new();
    operator(server.client("operator"), port(), &shutdown);
    let policies: Api<MutatingAdmissionPolicy> = Api::all(admin.clone());
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(admin.clone());
    until(&policies, POLICY, "there", |policy| policy.is_some()).await;
    until(&bindings, POLICY, "there", |binding| binding.is_some()).await;
    server.apply(&placement("d", "n1=100,n2=40"));
    server.apply(&placement("e", "n3=70"));
    server.apply(&placement("empty", ""));
    server.kubectl(&["create", "namespace", "elsewhere"]);

    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let affinity = async |namespace: &str, pod: &Pod| -> Value {
        let pods: Api<Pod> = Api::namespaced(admin.clone(), namespace);
        let made = pods.create(&dry, pod).await.unwrap();
        serde_json::to_value(made.spec.unwrap().affinity).unwrap()
    };
    let preferred = |terms: &[Value]| json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}});
    let (n1, n2) = (prefers("n1", 100), prefers("n2", 40));
    let d = preferred(&[n1.clone(), n2.clone()]);
    let nothing = || json!({});
    let plain = pod(&["d"], nothing(), nothing());
    let two = pod(&["e", "d"], nothing(), nothing());
    let list = "/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    let mut terms = Vec::new();
    // The API server takes a moment to load policy and placements, and takes these in any order.
    for _ in 0..100 {
        let two = affinity("default", &two).await;
        terms = two
            .pointer(list)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if terms.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for term in [&n1, &n2, &prefers("n3", 70)] {
        assert!(terms.contains(term), "{terms:?}");
    }

    let owned = |kind: &str| json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o"}]});
    let annotated = |value: &str| json!({"annotations": {"forebay.io/locality": value}});
    let with = |affinity: Value| pod(&["d"], nothing(), json!({"affinity": affinity}));
    let labelled = json!({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]});
    let own = json!({"weight": 5, "preference": labelled});
    let required = json!({"nodeSelectorTerms": [labelled]});
    let both = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": required,
        "preferredDuringSchedulingIgnoredDuringExecution": [n1, n2],
    }});
    let anti = json!({"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}},
    ]});
    let mut beside = d.clone();
    beside["podAntiAffinity"] = anti.clone();
    let cases = vec![
        ("a claim", plain.clone(), d.clone()),
        ("no claim", pod(&[], nothing(), nothing()), Value::Null),
        (
            "another claim",
            pod(&["x"], nothing(), nothing()),
            Value::Null,
        ),
        (
            "nothing cached",
            pod(&["empty"], nothing(), nothing()),
            Value::Null,
        ),
        (
            "opted out",
            pod(&["d"], annotated("off"), nothing()),
            Value::Null,
        ),
        (
            "not opted out",
            pod(&["d"], annotated("on"), nothing()),
            d.clone(),
        ),
        (
            "a node",
            pod(&["d"], nothing(), json!({"nodeName": "n9"})),
            Value::Null,
        ),
        (
            "of a DaemonSet",
            pod(&["d"], owned("DaemonSet"), nothing()),
            Value::Null,
        ),
        (
            "of a ReplicaSet",
            pod(&["d"], owned("ReplicaSet"), nothing()),
            d.clone(),
        ),
        ("empty affinity", with(json!({})), d.clone()),
        (
            "empty node affinity",
            with(json!({"nodeAffinity": {}})),
            d.clone(),
        ),
        (
            "its own preferences",
            with(preferred(std::slice::from_ref(&own))),
            preferred(&[own, prefers("n1", 100), prefers("n2", 40)]),
        ),
        (
            "its own needs",
            with(
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}),
            ),
            both,
        ),
        (
            "its own pod affinity",
            with(json!({"podAntiAffinity": anti})),
            beside,
        ),
    ];
    for (what, pod, expected) in cases {
        assert_eq!(affinity("default", &pod).await, expected, "{what}");
    }
    assert_eq!(affinity("elsewhere", &plain).await, Value::Null);

    // It goes with what `kubectl delete -k` takes away.
    server.kubectl(&["delete", "csidriver", "csi.forebay.io"]);
    gone(&policies, POLICY).await;
    gone(&bindings, POLICY).await;
    shutdown.finish().await;
}
