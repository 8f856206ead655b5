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
pub(crate) const AFFINITY: &str = "/spec/affinity";
pub(crate) const NODE_AFFINITY: &str = "/spec/affinity/nodeAffinity";
pub(crate) const PREFERRED: &str =
    "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";

/// The annotation by which a pod is left alone, and what it says then.
pub(crate) const ANNOTATION: &str = "forebay.io/locality";
pub(crate) const OFF: &str = "off";

/// Of each object: its name, and that it goes with the CSIDriver (of that uid), the one object of the manifests whose name is
/// always the same.
pub(crate) fn metadata(driver_uid: &str) -> Value {
    json!({
        "name": NAME,
        "labels": {MANAGED_BY: MANAGER},
        "ownerReferences": [{
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "name": DRIVER,
            "uid": driver_uid,
        }],
    })
}

/// The pods that are not left alone, whatever they mount, as conditions in CEL.
pub(crate) fn conditions() -> [Value; 2] {
    [
        json!({
            "name": "not-opted-out",
            "expression": format!(
                "object.metadata.?annotations[?'{ANNOTATION}'].orValue('') != '{OFF}'"
            ),
        }),
        json!({
            "name": "has-no-node-yet",
            "expression": "object.spec.?nodeName.orValue('') == '' \
                && !object.metadata.?ownerReferences.orValue([]).exists(o, o.kind == 'DaemonSet')",
        }),
    ]
}

/// The policy and its binding, in a version of the API.
pub fn objects(version: &str, driver_uid: &str) -> [Value; 2] {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": format!("{GROUP}/{version}"),
            "kind": kind,
            "metadata": metadata(driver_uid),
            "spec": spec,
        })
    };
    let [not_opted_out, no_node_yet] = conditions();
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
            not_opted_out,
            no_node_yet,
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
