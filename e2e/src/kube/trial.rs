//! What all scenarios start from: Forebay installed, a bucket, and the names of the nodes.

use super::{
    Kubectl, ThrowAway,
    bucket::{self, Bucket},
    claims, deletion, edits, examples, faults, locality, masters, node_loss, outage,
    reader::Reader,
    secrets, story, tenants, upgrade, warmup,
};
use crate::s3::Content;
use anyhow::{Context, ensure};
use std::time::Duration;

/// How long anything may take that is not measured.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// A scenario: its name, what must be true, and whether it is. It returns what it measured.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What must be true.
    pub claim: &'static str,
    /// Runs it.
    pub run: fn(&Trial) -> anyhow::Result<String>,
}

/// All of them, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "story",
        claim: "apply, wait, read on every node: right bytes, each fetched once",
        run: story::run,
    },
    Scenario {
        name: "secret",
        claim: "a wrong Secret is told within 10 s, the right one mends it",
        run: secrets::run,
    },
    Scenario {
        name: "tenants",
        claim: "two tenants of one cluster do not see each other's data",
        run: tenants::run,
    },
    Scenario {
        name: "claims",
        claim: "claims that users make show what they may see, and keep the Dataset",
        run: claims::run,
    },
    Scenario {
        name: "examples",
        claim: "the examples of training and Spark run as they are written",
        run: examples::run,
    },
    Scenario {
        name: "edits",
        claim: "a Dataset is edited while pods read: no read error",
        run: edits::run,
    },
    Scenario {
        name: "locality",
        claim: "pods go to the node that holds what they mount, unless they opt out",
        run: locality::run,
    },
    Scenario {
        name: "faults",
        claim: "kills and replacements while pods read: no read error",
        run: faults::run,
    },
    Scenario {
        name: "warmup",
        claim: "20,000 files, operator and master killed on the way: complete and verified",
        run: warmup::run,
    },
    Scenario {
        name: "masters",
        claim: "1, 3, 5, 3 masters while pods read: no read error",
        run: masters::run,
    },
    Scenario {
        name: "upgrade",
        claim: "another image of everything while pods read: no read error",
        run: upgrade::run,
    },
    Scenario {
        name: "node",
        claim: "a node goes and comes back: mounts there heal, others read on",
        run: node_loss::run,
    },
    Scenario {
        name: "outage",
        claim: "two minutes without the API server: pods read on, then all is reconciled",
        run: outage::run,
    },
    Scenario {
        name: "deletion",
        claim: "deleting in any order leaves nothing",
        run: deletion::run,
    },
];

/// Forebay on a cluster.
pub struct Trial {
    pub(super) kubectl: Kubectl,
    /// Let go before the cluster is taken down: what leads to it would complain.
    pub(super) bucket: Bucket,
    /// Where nodes can be reached from outside.
    pub(super) throw_away: Option<ThrowAway>,
    pub(super) nodes: Vec<String>,
}

impl Trial {
    /// Installs Forebay and starts the bucket.
    pub fn start(kubectl: Kubectl, throw_away: Option<ThrowAway>) -> anyhow::Result<Trial> {
        kubectl.run(&["apply", "--server-side", "-k", "manifests/default"])?;
        let names = kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        let nodes: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        ensure!(!nodes.is_empty(), "the cluster has no nodes");
        for what in ["deployment/forebay-operator", "daemonset/forebay-node"] {
            let args = [
                "rollout",
                "status",
                "-n",
                "forebay-system",
                what,
                "--timeout=120s",
            ];
            kubectl.run(&args)?;
        }
        let keepers = [
            "pod",
            "-n",
            "forebay-system",
            "-l",
            "app.kubernetes.io/component=keeper",
        ];
        kubectl.wait(&keepers, "condition=Ready", PATIENCE)?;
        let bucket = Bucket::start(&kubectl)?;
        let secret = secret("minio-credentials", bucket::PASSWORD);
        kubectl.apply(&secret)?;
        Ok(Trial {
            kubectl,
            bucket,
            throw_away,
            nodes,
        })
    }

    /// A bucket of its own with a file `big` and some small ones; the hash of `big`, and how many bytes there are.
    pub(super) fn data(&self, bucket: &str, big: u64, small: u64) -> anyhow::Result<(String, u64)> {
        self.bucket.make(bucket)?;
        let content: Content = self.bucket.fill(&format!("/{bucket}/set/big"), big, big)?;
        for n in 0..small {
            self.bucket
                .fill(&format!("/{bucket}/set/dir/f{n:03}"), n, 50_000)?;
        }
        Ok((bucket::sha256(&content)?, big + small * 50_000))
    }

    /// A CacheCluster with one master.
    pub(super) fn cluster(&self, name: &str) -> anyhow::Result<()> {
        self.cluster_on(name, "{}")
    }

    /// The same with workers on nodes with these labels.
    pub(super) fn cluster_on(&self, name: &str, labels: &str) -> anyhow::Result<()> {
        self.kubectl.apply(&format!(
            r#"
apiVersion: forebay.io/v1alpha1
kind: CacheCluster
metadata: {{name: {name}, namespace: default}}
spec:
  masters: {{replicas: 1}}
  workers:
  - name: default
    nodeSelector: {labels}
    tiers:
    - {{medium: SSD, quota: 2Gi, hostPath: /var/lib/forebay}}
  access: {{namespaces: ["*"]}}
"#
        ))
    }

    /// A Dataset of a bucket.
    pub(super) fn dataset(
        &self,
        namespace: &str,
        name: &str,
        cluster: &str,
        bucket: &str,
        secret: &str,
    ) -> anyhow::Result<()> {
        self.kubectl.apply(&format!(
            r#"
apiVersion: forebay.io/v1alpha1
kind: Dataset
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  clusterRef: {{name: {cluster}, namespace: default}}
  mounts:
  - uri: s3://{bucket}/set
    options: {{endpoint: "http://minio.default:9000", pathStyle: "true"}}
    secretRef: {{name: {secret}}}
"#
        ))
    }

    /// The node that the bucket is on.
    pub(super) fn bucket_node(&self) -> anyhow::Result<String> {
        let args = ["get", "pod/minio", "-o", "jsonpath={.spec.nodeName}"];
        self.kubectl.run(&args)
    }

    /// Waits until a Dataset is ready.
    pub(super) fn ready(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let dataset = format!("dataset/{name}");
        self.kubectl
            .wait(&["-n", namespace, &dataset], "condition=Ready", PATIENCE)
    }

    /// Starts a reader on every node.
    pub(super) fn readers(&self, claim: &str, big: &str) -> anyhow::Result<Vec<Reader>> {
        let each = self.nodes.iter().map(|node| {
            let name = format!("{claim}-on-{node}");
            Reader::start(&self.kubectl, "default", &name, claim, Some(node), big)
        });
        each.collect()
    }

    /// Reads everything in a pod; how many bytes that are.
    pub(super) fn read_all(&self, claim: &str) -> anyhow::Result<u64> {
        let read = "find /data -type f -print0 | xargs -0 cat | wc -c";
        let count = self.script(claim, &self.nodes[0], read)?;
        count.trim().parse().context("wc counts")
    }

    /// Runs a line of shell in a pod of a node, with a claim at `/data`; what it printed.
    pub(super) fn script(&self, claim: &str, node: &str, line: &str) -> anyhow::Result<String> {
        let pod = format!("{claim}-script");
        self.kubectl.apply(&format!(
            r"
apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: default}}
spec:
  restartPolicy: Never
  nodeName: {node}
  containers:
  - name: script
    image: local/busybox:1
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'set -eo pipefail; {line}']
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
        ))?;
        let name = format!("pod/{pod}");
        self.kubectl
            .wait(&[&name], "jsonpath={.status.phase}=Succeeded", PATIENCE)?;
        let said = self.kubectl.run(&["logs", &pod])?;
        self.delete("default", &[&name])?;
        Ok(said)
    }

    /// Bytes that the workers of a cluster have had from the store since they started.
    pub(super) fn fetched(&self, cluster: &str) -> anyhow::Result<u64> {
        let label =
            format!("app.kubernetes.io/instance={cluster},app.kubernetes.io/component=worker");
        let names = "jsonpath={.items[*].metadata.name}";
        let pods = self
            .kubectl
            .run(&["get", "pods", "-l", &label, "-o", names])?;
        let mut sum = 0;
        for pod in pods.split_whitespace() {
            let path = format!("/api/v1/namespaces/default/pods/{pod}:7101/proxy/metrics");
            let metrics = self.kubectl.run(&["get", "--raw", &path])?;
            let value = metrics
                .lines()
                .find_map(|line| line.strip_prefix("forebay_worker_from_ufs_bytes_total "));
            let value = value.and_then(|value| value.parse::<u64>().ok());
            sum += value.with_context(|| format!("no from_ufs_bytes in the metrics of {pod}"))?;
        }
        Ok(sum)
    }

    /// Deletes objects; returns when they are gone.
    pub(super) fn delete(&self, namespace: &str, what: &[&str]) -> anyhow::Result<()> {
        let mut args = vec!["delete", "-n", namespace, "--timeout=90s"];
        args.extend(what);
        self.kubectl.run(&args).map(drop)
    }

    /// The state of everything, for whoever looks for the reason of a failure.
    pub fn describe(&self) -> String {
        let asked: [&[&str]; 5] = [
            &["get", "cc,dset,pvc,pv,pods", "-A", "-o", "wide"],
            &["get", "events", "-A", "--field-selector", "type=Warning"],
            &[
                "logs",
                "-n",
                "forebay-system",
                "deployment/forebay-operator",
                "--tail=40",
            ],
            &[
                "logs",
                "-n",
                "forebay-system",
                "-l",
                "app.kubernetes.io/component=node",
                "--all-containers",
                "--prefix",
                "--tail=30",
            ],
            &[
                "logs",
                "-n",
                "default",
                "-l",
                "app.kubernetes.io/name=forebay",
                "--prefix",
                "--tail=30",
            ],
        ];
        let said = asked.map(|args| {
            let said = self
                .kubectl
                .run(args)
                .unwrap_or_else(|error| error.to_string());
            format!("$ kubectl {}\n{said}\n", args.join(" "))
        });
        said.concat()
    }
}

/// A Secret with MinIO's credentials, the password being this.
pub(super) fn secret(name: &str, password: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: default}}
stringData: {{AWS_ACCESS_KEY_ID: {}, AWS_SECRET_ACCESS_KEY: {password}}}
",
        bucket::USER
    )
}
