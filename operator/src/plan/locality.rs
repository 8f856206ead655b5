//! The policy by which pods prefer nodes that hold what they mount. It has the API server add terms to a pod that is made;
//! the nodes are in the ConfigMaps of [`placement`](crate::plan::placement).

use crate::plan::{
    name::{DRIVER, MANAGED_BY, MANAGER},
    placement::PLACEMENT,
};
use serde_json::{Value, json};

/// The group of the API that it belongs to.
pub const GROUP: &str = "admissionregistration.k8s.io";
/// Its versions that we speak, the best first.
pub const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// The policy and its binding as the API names them.
pub const PLURALS: [&str; 2] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];
/// The name of both.
pub const NAME: &str = "forebay-locality";

/// Where the terms go.
const AFFINITY: &str = "/spec/affinity";
const NODE_AFFINITY: &str = "/spec/affinity/nodeAffinity";
const PREFERRED: &str =
    "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";

/// The policy and its binding, in a version of the API. They go with the CSIDriver (of that uid), the one object of
/// the manifests whose name is always the same.
pub fn objects(version: &str, driver_uid: &str) -> [Value; 2] {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": format!("{GROUP}/{version}"),
            "kind": kind,
            "metadata": {
                "name": NAME,
                "labels": {MANAGED_BY: MANAGER},
                "ownerReferences": [{
                    "apiVersion": "storage.k8s.io/v1",
                    "kind": "CSIDriver",
                    "name": DRIVER,
                    "uid": driver_uid,
                }],
            },
            "spec": spec,
        })
    };
    let policy = json!({
        // Pods are made, whatever is the matter here.
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "Never",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]},
        ]},
        "matchConditions": [
            {
                "name": "mounts-the-claim",
                "expression": "object.spec.?volumes.orValue([])\
                    .exists(v, v.?persistentVolumeClaim.?claimName.orValue('') == params.data.claim)",
            },
            {"name": "data-is-cached", "expression": "params.data.nodes != ''"},
            {
                "name": "not-opted-out",
                "expression": "object.metadata.?annotations[?'forebay.io/locality'].orValue('') != 'off'",
            },
            {
                "name": "has-no-node-yet",
                "expression": "object.spec.?nodeName.orValue('') == '' \
                    && !object.metadata.?ownerReferences.orValue([]).exists(o, o.kind == 'DaemonSet')",
            },
        ],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch()}}],
    });
    let binding = json!({
        "policyName": NAME,
        "paramRef": {
            "selector": {"matchLabels": {PLACEMENT: "true"}},
            "parameterNotFoundAction": "Allow",
        },
    });
    [
        object("MutatingAdmissionPolicy", policy),
        object("MutatingAdmissionPolicyBinding", binding),
    ]
}

/// What a pod has already stays: what the terms go into is made only where it is missing.
fn patch() -> String {
    let parent = |path: &str, empty: &str| {
        let field = path.replace('/', ".?").replacen(".?", ".", 1);
        format!(
            "(object{field}.hasValue() ? [] : [JSONPatch{{op: 'add', path: '{path}', value: {empty}}}])"
        )
    };
    // A field can be matched with one value only, so every node has a term.
    let terms = format!(
        "params.data.nodes.split(',').map(n, n.split('=')).map(n, \
            JSONPatch{{op: 'add', path: '{PREFERRED}/-', value: {{\
                'weight': dyn(int(n[1])), \
                'preference': dyn({{'matchFields': [{{\
                    'key': dyn('metadata.name'), 'operator': dyn('In'), 'values': dyn([n[0]])\
                }}]}})\
            }}}})"
    );
    [
        parent(AFFINITY, "{}"),
        parent(NODE_AFFINITY, "{}"),
        parent(PREFERRED, "[]"),
        terms,
    ]
    .join(" + ")
}
