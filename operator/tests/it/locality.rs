//! What policy and webhook make of pods, by a real API server.

use crate::{
    api_server::ApiServer,
    process::port,
    story::{gone, operator, settings, until},
};
use forebay_operator::{
    Placements, Settings,
    plan::{
        name::Key,
        placement::{Placement, Target},
    },
};
use forebay_service::Shutdown;
use k8s_openapi::api::{
    admissionregistration::{
        v1::MutatingWebhookConfiguration,
        v1beta1::{MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding},
    },
    core::v1::Pod,
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

const NAME: &str = "forebay-locality";
const WEBHOOK: &str = "forebay-webhook";
/// Where the data of claims of namespace `default` is: nodes with weights.
const PLACEMENTS: [(&str, &[(&str, u64)]); 3] = [
    ("d", &[("n1", 100), ("n2", 40)]),
    ("e", &[("n3", 70)]),
    ("empty", &[]),
];
/// What the operator left that ran before policies came.
const OLD: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: forebay-locality, labels: {app.kubernetes.io/managed-by: forebay-operator}}
";

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
pub(crate) fn pod(claims: &[&str], metadata: Value, spec: Value) -> Pod {
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

pub(crate) fn prefers(node: &str, weight: i32) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    json!({"weight": weight, "preference": {"matchFields": [field]}})
}

/// What the API server makes of a pod.
pub(crate) async fn affinity(server: &ApiServer, namespace: &str, pod: &Pod) -> Value {
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods: Api<Pod> = Api::namespaced(server.client("admin"), namespace);
    let made = pods.create(&dry, pod).await.unwrap();
    serde_json::to_value(made.spec.unwrap().affinity).unwrap()
}

pub(crate) fn preferred(terms: &[Value]) -> Value {
    json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}})
}

/// The API server takes a moment to load what tells it.
async fn until_pods_are_told(server: &ApiServer) {
    let expected = [prefers("n1", 100), prefers("n2", 40), prefers("n3", 70)];
    let list = "/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    let pod = pod(&["e", "d"], json!({}), json!({}));
    let began = Instant::now();
    loop {
        let two = affinity(server, "default", &pod).await;
        // Of several claims in any order.
        let terms = two.pointer(list).and_then(Value::as_array);
        let has = |term: &Value| terms.is_some_and(|terms| terms.contains(term));
        if expected.iter().all(has) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{two}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The same by either way.
async fn pods_are_told(server: &ApiServer) {
    server.kubectl(&["create", "namespace", "elsewhere"]);
    until_pods_are_told(server).await;
    let nothing = || json!({});
    let plain = pod(&["d"], nothing(), nothing());
    let (n1, n2) = (prefers("n1", 100), prefers("n2", 40));
    let d = preferred(&[n1.clone(), n2.clone()]);
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
        assert_eq!(affinity(server, "default", &pod).await, expected, "{what}");
    }
    assert_eq!(affinity(server, "elsewhere", &plain).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver"]
async fn pods_prefer_nodes_with_what_they_mount() {
    forebay_service::telemetry::init();
    let server = ApiServer::start().await;
    let admin = server.client("admin");
    server.apply(OLD);
    let shutdown = Shutdown::new();
    operator(server.client("operator"), settings(port()), &shutdown);
    let policies: Api<MutatingAdmissionPolicy> = Api::all(admin.clone());
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(admin.clone());
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(admin);
    until(&policies, NAME, "there", |policy| policy.is_some()).await;
    until(&bindings, NAME, "there", |binding| binding.is_some()).await;
    gone(&webhooks, NAME).await;
    for (claim, nodes) in PLACEMENTS {
        let nodes = nodes
            .iter()
            .map(|(node, weight)| format!("{node}={weight}"));
        let nodes: Vec<String> = nodes.collect();
        server.apply(&placement(claim, &nodes.join(",")));
    }
    pods_are_told(&server).await;

    // It goes with what `kubectl delete -k` takes away.
    server.kubectl(&["delete", "csidriver", "csi.forebay.io"]);
    gone(&policies, NAME).await;
    gone(&bindings, NAME).await;
    shutdown.finish().await;
}

/// The address of this machine: an EndpointSlice takes none of loopback.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent.
    let connected = socket.connect("192.0.2.254:9");
    connected.expect("a machine with an address that is not loopback");
    socket.local_addr().unwrap().ip()
}

/// One that the API server can ask.
pub(crate) fn with_webhook(settings: Settings) -> Settings {
    let ip = own_address();
    Settings {
        webhook: SocketAddr::new(ip, 0),
        pod_ip: Some(ip),
        ..settings
    }
}

/// One that can be asked, and knows where data is.
fn webhook_settings() -> Settings {
    let placements = Placements::default();
    for (claim, nodes) in PLACEMENTS {
        let claim = Key::new("default", claim);
        let nodes = nodes
            .iter()
            .map(|(node, weight)| ((*node).to_owned(), *weight));
        let placement = Placement {
            targets: vec![Target::of_user(claim.clone(), "uid".to_owned())],
            nodes: nodes.collect(),
        };
        placements.put(&claim, &placement);
    }
    with_webhook(Settings {
        http: SocketAddr::new("127.0.0.1".parse().unwrap(), port()),
        placements: Arc::new(placements),
        ..settings(port())
    })
}

fn metrics(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kube-apiserver"]
async fn the_webhook_does_what_the_policy_does() {
    forebay_service::telemetry::init();
    let server = ApiServer::start_without_policies().await;
    let admin = server.client("admin");
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(admin.clone());
    let slices: Api<EndpointSlice> = Api::namespaced(admin.clone(), "forebay-system");
    let shutdown = Shutdown::new();
    let first = webhook_settings();
    let http = first.http;
    operator(server.client("operator"), first, &shutdown);
    until(&webhooks, NAME, "there", |webhook| webhook.is_some()).await;
    pods_are_told(&server).await;
    // Those that cannot be told anything are not even asked about.
    let before = metrics(http);
    let unasked = pod(&[], json!({}), json!({}));
    affinity(&server, "default", &unasked).await;
    let after = metrics(http);
    let figure = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let reviewed = "forebay_operator_pods_reviewed_total";
    let patched = figure(&after, "forebay_operator_pods_patched_total");
    assert_eq!(figure(&before, reviewed), figure(&after, reviewed));
    assert!(patched > 0 && patched < figure(&after, reviewed), "{after}");

    // Nobody listens any more; then somebody who does not answer.
    let slice = slices.get(WEBHOOK).await.unwrap();
    let at = slice.ports.unwrap()[0].port.unwrap();
    shutdown.finish().await;
    let plain = pod(&["d"], json!({}), json!({}));
    let began = Instant::now();
    assert_eq!(affinity(&server, "default", &plain).await, Value::Null);
    let refused = began.elapsed();
    let mute = TcpListener::bind((own_address(), at as u16)).unwrap();
    let began = Instant::now();
    assert_eq!(affinity(&server, "default", &plain).await, Value::Null);
    let silent = began.elapsed();
    tracing::info!(?refused, ?silent, "pods are made all the same");
    assert!(refused < Duration::from_secs(1), "{refused:?}");
    assert!(silent < Duration::from_secs(4), "{silent:?}");
    drop(mute);

    // The next one, at another port and with another certificate.
    let shutdown = Shutdown::new();
    operator(server.client("operator"), webhook_settings(), &shutdown);
    until(&slices, WEBHOOK, "elsewhere", |slice| {
        let ports = slice.and_then(|slice| slice.ports.as_ref());
        ports.is_some_and(|ports| ports[0].port != Some(at))
    })
    .await;
    until_pods_are_told(&server).await;

    // It goes with what `kubectl delete -k` takes away.
    server.kubectl(&["delete", "csidriver", "csi.forebay.io"]);
    server.kubectl(&["delete", "service", WEBHOOK, "-n", "forebay-system"]);
    gone(&webhooks, NAME).await;
    gone(&slices, WEBHOOK).await;
    shutdown.finish().await;
}
