//! What pods of masters and workers have in common.

use crate::plan::{config::MEMORY_LIMIT, name::Names};
use forebay_crds::{PodSettings, Quantity, ResourceList};
use serde_json::{Map, Value, json};

/// Annotation of a pod template with the hash of its configuration: another one replaces the pods.
pub const CONFIG_HASH: &str = "forebay.io/config-hash";
/// Who masters run as; the number that distroless images call nonroot.
pub const NOBODY: u32 = 65_532;

/// The daemon in a pod.
pub struct Daemon<'a> {
    /// `master` or `worker`: command and container.
    pub name: &'static str,
    /// The image.
    pub image: &'a str,
    /// gRPC, and `/metrics`, `/healthz`, `/readyz`.
    pub ports: [u16; 2],
    /// What the user decided.
    pub settings: &'a PodSettings,
    /// Bytes of memory that the pod's volumes take.
    pub memory_volumes: u64,
    /// Environment.
    pub env: Value,
    /// Mounts beside configuration and key.
    pub mounts: Vec<Value>,
    /// Volumes beside configuration and key.
    pub volumes: Vec<Value>,
    /// The pod's security context, but for what all have.
    pub security: Value,
    /// Affinity.
    pub affinity: Value,
    /// ConfigMap with `NAME.toml`.
    pub config_map: String,
    /// Hash of its contents.
    pub config_hash: String,
}

impl Daemon<'_> {
    /// The pod template.
    pub fn template(self, names: &Names, labels: &Map<String, Value>) -> Value {
        let name = self.name;
        let [grpc, http] = self.ports;
        let probe = |path: &str, seconds: u32, failures: u32| {
            json!({
                "httpGet": {"path": path, "port": http},
                "periodSeconds": seconds,
                "failureThreshold": failures,
                "timeoutSeconds": 5,
            })
        };
        let file = format!("{name}.toml");
        // A directory, and not the file alone: that one would stay as it was when the pod began.
        let mut mounts =
            vec![json!({"name": "config", "mountPath": "/etc/forebay", "readOnly": true})];
        mounts.extend(self.mounts);
        let mut volumes = vec![
            json!({"name": "config", "projected": {"defaultMode": 0o444, "sources": [
                {"configMap": {"name": self.config_map, "items": [{"key": file, "path": file}]}},
                // Of the pod's group, where it has one; root may read it without a capability.
                {"secret": {"name": names.seal(), "items": [{"key": "key", "path": "seal/key", "mode": 0o440}]}},
            ]}}),
        ];
        volumes.extend(self.volumes);
        let mut security = json!({"seccompProfile": {"type": "RuntimeDefault"}});
        merge(&mut security, self.security);
        let mut spec = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": security,
            "affinity": self.affinity,
            "containers": [{
                "name": name,
                "image": self.image,
                "command": ["/usr/bin/forebay", name, "--config", format!("/etc/forebay/{name}.toml")],
                "env": self.env,
                "ports": [
                    {"name": "grpc", "containerPort": grpc},
                    {"name": "http", "containerPort": http},
                ],
                // What it said last, so that a condition can tell it.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "resources": resources(self.settings, self.memory_volumes),
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                // A master waits for the others before it founds a group, and a long journal takes its time.
                "startupProbe": probe("/healthz", 1, 600),
                "livenessProbe": probe("/healthz", 10, 6),
                "readinessProbe": probe("/readyz", 2, 2),
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        });
        let settings = self.settings;
        if !settings.node_selector.is_empty() {
            spec["nodeSelector"] = json!(settings.node_selector);
        }
        if !settings.tolerations.is_empty() {
            spec["tolerations"] = json!(settings.tolerations);
        }
        if let Some(class) = &settings.priority_class_name {
            spec["priorityClassName"] = json!(class);
        }
        json!({
            "metadata": {"labels": labels, "annotations": {CONFIG_HASH: self.config_hash}},
            "spec": spec,
        })
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// What the user said, else our choice; memory volumes count beside it.
fn resources(settings: &PodSettings, memory_volumes: u64) -> Value {
    let given = settings.resources.clone().unwrap_or_default();
    let list = |list: Option<ResourceList>, cpu: Option<&str>, memory: u64| {
        let list = list.unwrap_or_default();
        let memory = list.memory.as_ref().map_or(memory, Quantity::bytes);
        let mut value = json!({"memory": bytes(memory + memory_volumes)});
        if let Some(cpu) = list.cpu.as_deref().or(cpu) {
            value["cpu"] = json!(cpu);
        }
        value
    };
    let limit = given.limits.as_ref().and_then(|l| l.memory.as_ref());
    let limit = limit.map_or(MEMORY_LIMIT, Quantity::bytes);
    let requested = given.requests.as_ref().and_then(|r| r.memory.as_ref());
    // Nothing may be requested that cannot be used.
    let limit = requested.map_or(limit, |memory| memory.bytes().max(limit));
    let cpu_limit = given.limits.as_ref().and_then(|l| l.cpu.clone());
    json!({
        "requests": list(given.requests, cpu_limit.is_none().then_some("100m"), limit / 2),
        "limits": list(given.limits, None, limit),
    })
}

/// A number of bytes as Kubernetes writes it, so that what is applied reads back the same.
fn bytes(bytes: u64) -> String {
    let units = [("Gi", 1_u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let unit = units.iter().find(|(_, size)| bytes.is_multiple_of(*size));
    unit.map_or(bytes.to_string(), |(name, size)| {
        format!("{}{name}", bytes / size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_volumes_count_beside_what_the_user_gives() {
        let given = |text: &str| -> PodSettings { serde_json::from_str(text).unwrap() };
        let of = |text: &str, volumes| resources(&given(text), volumes);
        let nothing = of("{}", 0);
        assert_eq!(
            nothing,
            json!({"requests": {"memory": "512Mi", "cpu": "100m"}, "limits": {"memory": "1Gi"}})
        );
        let some = of(
            r#"{"resources":{"limits":{"cpu":"2","memory":"4Gi"}}}"#,
            32 << 30,
        );
        assert_eq!(
            some,
            json!({"requests": {"memory": "34Gi"}, "limits": {"memory": "36Gi", "cpu": "2"}})
        );
        let requested = of(r#"{"resources":{"requests":{"memory":"3Gi"}}}"#, 0);
        assert_eq!(requested["limits"]["memory"], "3Gi");
        assert_eq!(bytes(1_000_000_001), "1000000001");
    }
}
