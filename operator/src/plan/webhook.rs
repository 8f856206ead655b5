//! The webhook by which pods prefer nodes that hold what they mount, where the API server has no policies: what it answers,
//! and the objects by which the API server finds it. A pod becomes what the policy of [`locality`](crate::plan::locality)
//! would make of it.

use crate::plan::{
    locality::{AFFINITY, ANNOTATION, GROUP, NODE_AFFINITY, OFF, PREFERRED, conditions, metadata},
    name::{MANAGED_BY, MANAGER},
};
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

/// The Service by which the API server reaches it, and its EndpointSlice.
pub const SERVICE: &str = "forebay-webhook";
/// How long the API server waits for an answer.
pub const ANSWER: Duration = Duration::from_secs(2);

/// What the API server asks.
#[derive(Deserialize)]
pub struct Review {
    /// About one pod.
    pub request: Request,
}

/// About one pod.
#[derive(Deserialize)]
pub struct Request {
    /// Tells the question from others.
    pub uid: String,
    /// Where the pod will be.
    pub namespace: String,
    /// The pod.
    pub object: Value,
}

/// The claims that a pod mounts; none if it is left alone.
pub fn claims(pod: &Value) -> BTreeSet<&str> {
    let list = |path| pod.pointer(path).and_then(Value::as_array);
    let opted_out = pod["metadata"]["annotations"][ANNOTATION] == OFF;
    let node = pod["spec"]["nodeName"].as_str();
    let has_node = node.is_some_and(|node| !node.is_empty());
    let mut owners = list("/metadata/ownerReferences").into_iter().flatten();
    if opted_out || has_node || owners.any(|owner| owner["kind"] == "DaemonSet") {
        return BTreeSet::new();
    }
    let volumes = list("/spec/volumes").into_iter().flatten();
    volumes
        .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
        .collect()
}

/// The change to a pod that is to prefer nodes. What it has already stays: what the terms go into is made only where it is
/// missing.
pub fn patch(pod: &Value, nodes: &[(String, u64)]) -> Vec<Value> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let parents = [
        (AFFINITY, json!({})),
        (NODE_AFFINITY, json!({})),
        (PREFERRED, json!([])),
    ];
    let missing = |path: &str| pod.pointer(path).is_none_or(Value::is_null);
    let parents = parents.into_iter().filter(|(path, _)| missing(path));
    let parents = parents.map(|(path, empty)| add(path, empty));
    // A field can be matched with one value only, so every node has a term.
    let terms = nodes.iter().map(|(node, weight)| {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
        let term = json!({"weight": weight, "preference": {"matchFields": [field]}});
        add(&format!("{PREFERRED}/-"), term)
    });
    parents.chain(terms).collect()
}

/// The answer: the pod may be made, with this change.
pub fn answer(uid: &str, patch: &[Value]) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    if !patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(ByteString(json!(patch).to_string().into_bytes()));
    }
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    })
}

/// The name by which the API server knows it.
pub fn server_name(namespace: &str) -> String {
    format!("{SERVICE}.{namespace}.svc")
}

/// What has the API server ask, only about pods for which there may be an answer. `ca` is in PEM.
pub fn configuration(namespace: &str, ca: &str, driver_uid: &str) -> Value {
    let [not_opted_out, no_node_yet] = conditions();
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata(driver_uid),
        "webhooks": [{
            "name": "locality.forebay.io",
            // Pods are made, whatever is the matter here.
            "failurePolicy": "Ignore",
            "timeoutSeconds": ANSWER.as_secs(),
            "reinvocationPolicy": "Never",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {
                "service": {"namespace": namespace, "name": SERVICE, "port": 443},
                "caBundle": ByteString(ca.as_bytes().to_vec()),
            },
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                "operations": ["CREATE"], "scope": "Namespaced",
            }],
            // What keeps the cluster alive does not wait for us.
            "namespaceSelector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]},
            ]},
            "matchConditions": [
                {
                    "name": "mounts-a-claim",
                    "expression": "object.spec.?volumes.orValue([])\
                        .exists(v, v.?persistentVolumeClaim.hasValue())",
                },
                not_opted_out,
                no_node_yet,
            ],
        }],
    })
}

/// Where the Service (of that uid) leads: to the operator that acts.
pub fn endpoints(namespace: &str, service_uid: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": SERVICE,
            "namespace": namespace,
            "labels": {
                MANAGED_BY: MANAGER,
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": service_uid},
            ],
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"port": address.port(), "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(metadata: &Value, spec: &Value) -> Value {
        json!({"metadata": metadata, "spec": spec})
    }

    fn told(metadata: &Value, more: &Value) -> Vec<String> {
        let mut spec = json!({"volumes": [
            {"name": "e", "persistentVolumeClaim": {"claimName": "e"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "d"}},
            {"name": "again", "persistentVolumeClaim": {"claimName": "d"}},
        ]});
        let more = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(more);
        let pod = pod(metadata, &spec);
        claims(&pod).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn pods_are_left_alone_that_have_a_node_or_want_none() {
        let none = json!({});
        let owned = |kind: &str| json!({"ownerReferences": [{"kind": kind}]});
        let annotated = |value: &str| json!({"annotations": {"forebay.io/locality": value}});
        assert_eq!(told(&none, &none), ["d", "e"], "each once");
        assert_eq!(told(&owned("ReplicaSet"), &none).len(), 2);
        assert_eq!(told(&annotated("on"), &none).len(), 2);
        assert_eq!(told(&none, &json!({"nodeName": ""})).len(), 2);
        assert!(told(&owned("DaemonSet"), &none).is_empty());
        assert!(told(&annotated("off"), &none).is_empty());
        assert!(told(&none, &json!({"nodeName": "n1"})).is_empty());
        for odd in [json!(null), json!([]), json!({"spec": {"volumes": {}}})] {
            assert!(claims(&odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn what_a_pod_has_stays() {
        let paths = |affinity: &Value| {
            let pod = pod(&json!({}), &json!({"affinity": affinity}));
            let nodes = [("n1".to_owned(), 100), ("n2".to_owned(), 40)];
            let patch = patch(&pod, &nodes);
            let paths = patch.iter().map(|change| change["path"].as_str().unwrap());
            let last = format!("{PREFERRED}/-");
            let made: Vec<String> = paths
                .filter(|path| *path != last)
                .map(str::to_owned)
                .collect();
            assert_eq!(patch.len(), made.len() + 2);
            assert_eq!(patch.last().unwrap()["value"]["weight"], 40);
            made
        };
        let all = [AFFINITY, NODE_AFFINITY, PREFERRED];
        assert_eq!(paths(&json!(null)), all);
        assert_eq!(paths(&json!({"podAffinity": {}})), all[1..]);
        assert_eq!(paths(&json!({"nodeAffinity": {}})), all[2..]);
        let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": []});
        assert!(paths(&json!({"nodeAffinity": preferred})).is_empty());
        assert!(patch(&json!({}), &[]).is_empty(), "nothing to say");
    }

    #[test]
    fn an_answer_without_a_change_has_no_patch() {
        let plain = answer("u", &[]);
        assert_eq!(plain["response"], json!({"uid": "u", "allowed": true}));
        let changed = answer("u", &[json!({})]);
        assert_eq!(changed["response"]["patchType"], "JSONPatch");
        assert_eq!(changed["response"]["patch"], "W3t9XQ==");
    }

    #[test]
    fn a_failure_lets_pods_through() {
        let configuration = configuration("ns", "PEM", "D");
        let webhook = &configuration["webhooks"][0];
        assert_eq!(webhook["failurePolicy"], "Ignore");
        assert_eq!(webhook["timeoutSeconds"], 2);
        assert_eq!(webhook["clientConfig"]["caBundle"], "UEVN");
    }

    #[test]
    fn the_service_leads_to_one_address() {
        let slice = |address: &str| endpoints("ns", "S", address.parse().unwrap());
        let v6 = slice("[fd00::7]:7302");
        assert_eq!(slice("10.0.0.7:7302")["addressType"], "IPv4");
        assert_eq!(v6["addressType"], "IPv6");
        assert_eq!(v6["endpoints"][0]["addresses"], json!(["fd00::7"]));
        assert_eq!(v6["ports"][0]["port"], 7302);
    }
}
