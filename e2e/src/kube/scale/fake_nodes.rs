//! Nodes without machines: kwok tells of them and of their pods what a kubelet would.

use super::objects::Administrator;
use crate::{interrupt::Entered, kube::ThrowAway};
use serde_json::{Value, json};
use std::process::Child;

/// The label by which pods find them, and the taint that keeps others away.
pub(super) const FAKE: &str = "forebay.io/fake";

/// Seconds; a quarter of that is between two signs of life of a node, a write each. A kubelet gives them every 10 s.
const LEASE: u32 = 320;
/// The annotation by which kwok knows them.
const ANNOTATION: &str = "kwok.x-k8s.io/node";

/// kwok; ended when this is dropped.
pub(super) struct FakeNodes {
    kwok: Child,
    _entered: Entered,
}

impl FakeNodes {
    /// Starts kwok and makes so many nodes.
    pub(super) fn start(
        cluster: &ThrowAway,
        administrator: &Administrator,
        count: u32,
    ) -> anyhow::Result<FakeNodes> {
        let line = format!(
            "$BIN/kwok --v WARN --kubeconfig $KUBECONFIG --config $BIN/kwok-stages.yaml --cidr 10.200.0.1/16 --manage-all-nodes=false \
             --manage-nodes-with-annotation-selector={ANNOTATION}=fake --node-lease-duration-seconds={LEASE}"
        );
        let kwok = cluster.start_beside(&line, "kwok.log")?;
        let nodes = FakeNodes {
            _entered: Entered::process(kwok.id()),
            kwok,
        };
        let objects: Vec<_> = (0..count).map(node).collect();
        administrator.apply(&objects)?;
        Ok(nodes)
    }
}

impl Drop for FakeNodes {
    fn drop(&mut self) {
        let _ = self.kwok.kill();
        let _ = self.kwok.wait();
    }
}

fn node(number: u32) -> (String, Value) {
    let name = format!("fake-{number:04}");
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {FAKE: "true", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name},
            "annotations": {ANNOTATION: "fake"},
        },
        "spec": {"taints": [{"key": FAKE, "effect": "NoSchedule"}]},
    });
    (format!("/api/v1/nodes/{name}"), object)
}
