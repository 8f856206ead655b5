//! The run: nodes, Datasets, rest, another operator.

use super::{
    arrivals::Arrivals,
    audit::{Audit, Requests},
    fake_nodes::{FAKE, FakeNodes},
    objects::Administrator,
    usage::Usage,
};
use crate::{
    http,
    kube::{
        Kubectl, ThrowAway, Trial,
        bucket::{PASSWORD, USER},
    },
    report::Report,
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    path::{Path, absolute},
    thread::sleep,
    time::{Duration, Instant},
};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nodes without machines.
    pub nodes: u32,
    /// Datasets, each of a few small objects.
    pub datasets: u32,
    /// For how long rest is measured.
    pub rest: Duration,
}

/// In so many namespaces the Datasets are.
const NAMESPACES: u32 = 20;
/// Objects of each, and bytes of an object.
const OBJECTS: [u64; 2] = [3, 1000];
/// The longest that anything may take.
const LIMIT: Duration = Duration::from_mins(20);
/// Nothing is under way if nothing was written for so long: figures of mounts are told every 20 s.
const QUIET: Duration = Duration::from_secs(40);
/// What the processes of the real node are called there.
const OPERATOR: &str = "/usr/bin/forebay-operator";
const MASTER: &str = "/usr/bin/forebay master";

/// Puts everything up below `dir`, measures, and takes it down; `say` is told how far it is.
pub fn run(dir: &Path, plan: Plan, say: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let dir = absolute(dir)?;
    let log = dir.join("log/audit.jsonl");
    // The API server goes on writing where an earlier one ended.
    let _ = std::fs::remove_file(&log);
    let audit = format!(
        "--audit-policy-file {} --audit-log-path {} --audit-log-maxsize 4000",
        absolute("e2e/cluster/audit.yaml")?.display(),
        log.display()
    );
    let settings = [
        ("APISERVER_ARGS", audit.as_str()),
        ("SCHEDULER_ARGS", "--kube-api-qps 300 --kube-api-burst 600"),
        // Fake nodes give signs of life less often than real ones.
        ("MONITOR", "5s"),
        ("GRACE", "240s"),
    ];
    let cluster = ThrowAway::start(&dir, 1, &settings)?;
    say("a cluster of one node");
    let kubectl = cluster.kubectl();
    let administrator = Administrator::of(&cluster)?;
    let trial = Trial::start(kubectl.clone(), Some(cluster))?;
    say("Forebay installed");
    let scale = Scale {
        plan,
        kubectl,
        cluster: trial.throw_away.as_ref().context("a throw-away cluster")?,
        trial: &trial,
        administrator,
        say,
    };
    let mut report = Report::default();
    let mut audit = Audit::new(log);
    let measured = scale.measure(&mut audit, &mut report);
    if measured.is_err() {
        let last = [
            "logs",
            "-n",
            "forebay-system",
            "deployment/forebay-operator",
            "--tail=40",
        ];
        eprintln!("{}", scale.kubectl.run(&last).unwrap_or_default());
    }
    measured.map(|()| report)
}

struct Scale<'a> {
    plan: Plan,
    kubectl: Kubectl,
    cluster: &'a ThrowAway,
    trial: &'a Trial,
    administrator: Administrator,
    say: &'a dyn Fn(&str),
}

impl Scale<'_> {
    fn measure(&self, audit: &mut Audit, report: &mut Report) -> anyhow::Result<()> {
        let [each, size] = OBJECTS;
        let bucket = &self.trial.bucket;
        bucket.make("scale")?;
        let objects = u64::from(self.plan.datasets) * each;
        bucket.fill_many("/scale/set", objects, each, size)?;
        (self.say)(&format!("{objects} objects"));
        let _nodes = self.nodes(audit, report)?;
        self.datasets(audit, report)?;
        self.rest(audit, report)?;
        self.restart(audit, report)
    }

    /// Fake nodes with pods of all DaemonSets, those of workers among them.
    fn nodes(&self, audit: &mut Audit, report: &mut Report) -> anyhow::Result<FakeNodes> {
        let before = self.operator()?;
        let cluster = json!({
            "apiVersion": "forebay.io/v1alpha1",
            "kind": "CacheCluster",
            "metadata": {"name": "scale", "namespace": "default"},
            "spec": {
                "masters": {"replicas": 1},
                "workers": [
                    {"name": "real", "tiers": [tier()]},
                    {
                        "name": "fake",
                        "nodeSelector": {FAKE: "true"},
                        "tolerations": [{"key": FAKE, "operator": "Exists"}],
                        "tiers": [tier()],
                    },
                ],
                "access": {"namespaces": ["*"]},
            },
        });
        self.kubectl.apply(&cluster.to_string())?;
        let count = self.plan.nodes;
        let nodes = FakeNodes::start(self.cluster, &self.administrator, count)?;
        (self.say)(&format!("{count} fake nodes"));
        // Workers, FUSE hosts and keepers on each; of the real one likewise.
        let wanted = u64::from(count + 1) * 3;
        let numbers = "jsonpath={.items[*].status.numberReady}";
        let args = ["get", "daemonsets", "-A", "-o", numbers];
        let what = format!("{wanted} pods of DaemonSets");
        self.kubectl.until(&what, LIMIT, &args, |said| {
            said.split_whitespace()
                .filter_map(|n| n.parse::<u64>().ok())
                .sum::<u64>()
                == wanted
        })?;
        (self.say)(&what);
        let (requests, _) = audit.until_quiet(QUIET, LIMIT)?;
        (self.say)(&requests.told());
        let after = self.operator()?;
        let writes = requests.writes() as f64;
        report.row("nodes come: writes of the operator", writes, "");
        report.row(
            "nodes come: CPU of the operator",
            after.cpu - before.cpu,
            "s",
        );
        report.row(
            "nodes come: its memory afterwards",
            mib(after.resident),
            "MiB",
        );
        Ok(nodes)
    }

    /// All Datasets come at once.
    fn datasets(&self, audit: &mut Audit, report: &mut Report) -> anyhow::Result<()> {
        let own = (0..NAMESPACES).map(|n| {
            let name = namespace(n);
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            (format!("/api/v1/namespaces/{name}"), object)
        });
        self.administrator.apply(&own.collect::<Vec<_>>())?;
        self.administrator
            .apply(&(0..NAMESPACES).map(secret).collect::<Vec<_>>())?;
        let before = self.operator()?;
        let mut arrivals = Arrivals::watch(&self.kubectl)?;
        let datasets: Vec<_> = (0..self.plan.datasets).map(dataset).collect();
        let begun = Instant::now();
        self.administrator.apply(&datasets)?;
        report.row(
            "Datasets come: all applied after",
            begun.elapsed().as_secs_f64(),
            "s",
        );
        (self.say)(&format!("{} Datasets applied", datasets.len()));
        arrivals.all_ready(datasets.len(), LIMIT)?;
        (self.say)("all of them Ready");
        let (times, last) = arrivals.times();
        if let Some(last) = last {
            report.row(
                "Datasets come: all Ready after",
                (last - begun).as_secs_f64(),
                "s",
            );
        }
        for percent in [50, 99, 100] {
            let time = times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
            let what = format!("Datasets come: from seen to Ready, {percent} %");
            report.row(what, time.copied().unwrap_or_default().as_secs_f64(), "s");
        }
        drop(arrivals);
        let (requests, _) = audit.until_quiet(QUIET, LIMIT)?;
        (self.say)(&requests.told());
        let after = self.operator()?;
        let per_dataset = requests.all() as f64 / datasets.len() as f64;
        report.row(
            "Datasets come: CPU of the operator",
            after.cpu - before.cpu,
            "s",
        );
        report.row(
            "Datasets come: requests of the operator for each",
            per_dataset,
            "",
        );
        report.row(
            "Datasets come: its memory, the most",
            mib(after.peak),
            "MiB",
        );
        Ok(())
    }

    /// Nobody wants anything.
    fn rest(&self, audit: &mut Audit, report: &mut Report) -> anyhow::Result<()> {
        audit.next()?;
        let before = (
            self.operator()?,
            self.master()?,
            self.plans()?,
            self.trial.bucket.requests()?,
        );
        let begun = Instant::now();
        (self.say)("rest");
        // A time is what is measured.
        sleep(self.plan.rest);
        let requests = audit.next()?;
        let seconds = begun.elapsed().as_secs_f64();
        let after = (
            self.operator()?,
            self.master()?,
            self.plans()?,
            self.trial.bucket.requests()?,
        );
        (self.say)(&requests.told());
        let mut row = |what: &str, figure, unit| report.row(format!("rest: {what}"), figure, unit);
        let each = |requests: u64| requests as f64 / seconds;
        row(
            "CPU of the operator",
            (after.0.cpu - before.0.cpu) / seconds,
            "cores",
        );
        row("its memory", mib(after.0.resident), "MiB");
        row("its requests to the API server", each(requests.all()), "/s");
        row(
            "of these to renew its Lease",
            each(requests.count(|_, what| what == "leases")),
            "/s",
        );
        row(
            "of these watches",
            each(requests.count(|verb, _| verb == "watch")),
            "/s",
        );
        row("of these writes", each(requests.writes()), "/s");
        row("its plans", (after.2 - before.2) / seconds, "/s");
        row(
            "CPU of the master",
            (after.1.cpu - before.1.cpu) / seconds,
            "cores",
        );
        row("memory of the master", mib(after.1.resident), "MiB");
        row(
            "requests to the store",
            (after.3 - before.3) / seconds,
            "/s",
        );
        Ok(())
    }

    /// Another operator takes over.
    fn restart(&self, audit: &mut Audit, report: &mut Report) -> anyhow::Result<()> {
        let old = self.pod()?;
        audit.next()?;
        let begun = Instant::now();
        let args = [
            "delete",
            "pod",
            "-n",
            "forebay-system",
            "--wait=false",
            &old,
        ];
        self.kubectl.run(&args)?;
        let names = "jsonpath={.items[*].metadata.name}";
        let mut args = vec!["get", "pods", "-n", "forebay-system", "-o", names];
        args.extend(["-l", COMPONENT]);
        let is_new = |said: &str| said.split_whitespace().any(|name| name != old);
        let said = self.kubectl.until("another pod", LIMIT, &args, is_new)?;
        let new = said.split_whitespace().find(|name| *name != old);
        let new = new.context("another pod")?;
        let args = ["logs", "-n", "forebay-system", new];
        let listed = |said: &str| said.contains("everything is listed");
        self.kubectl
            .until("everything is listed", LIMIT, &args, listed)?;
        report.row(
            "restart: everything listed after",
            begun.elapsed().as_secs_f64(),
            "s",
        );
        let (requests, last): (Requests, _) = audit.until_quiet(QUIET, LIMIT)?;
        (self.say)(&requests.told());
        report.row("restart: quiet after", (last - begun).as_secs_f64(), "s");
        let usage = self.operator()?;
        report.row("restart: CPU until then", usage.cpu, "s");
        report.row("restart: memory, the most", mib(usage.peak), "MiB");
        report.row("restart: writes", requests.writes() as f64, "");
        report.row("restart: requests", requests.all() as f64, "");
        Ok(())
    }

    fn operator(&self) -> anyhow::Result<Usage> {
        Usage::of(self.cluster, &self.trial.nodes[0], OPERATOR)
    }

    fn master(&self) -> anyhow::Result<Usage> {
        Usage::of(self.cluster, &self.trial.nodes[0], MASTER)
    }

    fn pod(&self) -> anyhow::Result<String> {
        let name = "jsonpath={.items[0].metadata.name}";
        let args = [
            "get",
            "pods",
            "-n",
            "forebay-system",
            "-l",
            COMPONENT,
            "-o",
            name,
        ];
        self.kubectl.run(&args)
    }

    /// Plans that the operator has made since it started.
    fn plans(&self) -> anyhow::Result<f64> {
        let pod = self.pod()?;
        let path = format!("/api/v1/namespaces/forebay-system/pods/{pod}:7301/proxy/metrics");
        let metrics = self.kubectl.run(&["get", "--raw", &path])?;
        Ok(http::metric(&metrics, "forebay_operator_plans_total"))
    }
}

const COMPONENT: &str = "app.kubernetes.io/component=operator";

fn tier() -> Value {
    json!({"medium": "SSD", "quota": "2Gi", "hostPath": "/var/lib/forebay"})
}

fn namespace(number: u32) -> String {
    format!("team-{:02}", number % NAMESPACES)
}

fn secret(number: u32) -> (String, Value) {
    let namespace = namespace(number);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "store", "namespace": namespace},
        "stringData": {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD},
    });
    (
        format!("/api/v1/namespaces/{namespace}/secrets/store"),
        object,
    )
}

fn dataset(number: u32) -> (String, Value) {
    let (namespace, name) = (namespace(number), format!("set-{number:04}"));
    let object = json!({
        "apiVersion": "forebay.io/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterRef": {"name": "scale", "namespace": "default"},
            "mounts": [{
                "uri": format!("s3://scale/set/d{number:04}"),
                "options": {"endpoint": "http://minio.default:9000", "pathStyle": "true"},
                "secretRef": {"name": "store"},
            }],
        },
    });
    (
        format!("/apis/forebay.io/v1alpha1/namespaces/{namespace}/datasets/{name}"),
        object,
    )
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
