//! Pods that read a volume.

use super::Kubectl;
use anyhow::ensure;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Reads everything again and again, but for what comes and goes meanwhile; says FAILED when something does not work,
/// and `round N` after each time.
const LOOP: &str = r#"n=0; while :; do
  find /data -type f ! -path "/data/passing/*" -print0 | xargs -0 cat > /dev/null || echo FAILED cat
  sha256sum /data/big | grep -q "$BIG" || echo FAILED sum
  n=$((n+1)); echo round $n; sleep 0.1; done"#;

/// A pod that mounts a claim.
pub(super) struct Reader {
    kubectl: Kubectl,
    namespace: String,
    name: String,
}

impl Reader {
    /// Starts pod `name`, on `node` if one is named. `big` is the hash of the file `big`.
    pub(super) fn start(
        kubectl: &Kubectl,
        namespace: &str,
        name: &str,
        claim: &str,
        node: Option<&str>,
        big: &str,
    ) -> anyhow::Result<Reader> {
        let on = node
            .map(|node| format!("nodeName: {node}"))
            .unwrap_or_default();
        let script = LOOP.replace('\n', "\n      ");
        kubectl.apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: reader}}}}
spec:
  terminationGracePeriodSeconds: 1
  {on}
  containers:
  - name: reader
    image: local/busybox:1
    imagePullPolicy: IfNotPresent
    env: [{{name: BIG, value: "{big}"}}]
    command:
    - sh
    - -c
    - |
      {script}
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
"#
        ))?;
        let reader = Reader {
            kubectl: kubectl.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Ok(reader)
    }

    /// Waits until it has read everything once more, and fails if anything ever failed.
    pub(super) fn reads_on(&self, limit: Duration) -> anyhow::Result<u64> {
        let args = ["logs", "-n", &self.namespace, &self.name];
        let before = rounds(&self.kubectl.run(&args).unwrap_or_default());
        let what = format!("pod {} reads on", self.name);
        let log = self
            .kubectl
            .until(&what, limit, &args, |log| rounds(log) > before + 1)?;
        let failed: Vec<&str> = log
            .lines()
            .filter(|line| !line.starts_with("round"))
            .collect();
        ensure!(
            failed.is_empty(),
            "pod {}: {}",
            self.name,
            failed.join("; ")
        );
        Ok(rounds(&log))
    }

    /// What it sees below `/data`.
    pub(super) fn sees(&self) -> anyhow::Result<String> {
        let args = [
            "exec",
            "-n",
            &self.namespace,
            &self.name,
            "--",
            "find",
            "/data",
            "-type",
            "f",
        ];
        self.kubectl.run(&args)
    }

    /// Waits until it sees the right files.
    pub(super) fn sees_within(
        &self,
        limit: Duration,
        right: impl Fn(&[&str]) -> bool,
    ) -> anyhow::Result<()> {
        let what = format!("pod {} sees the right files", self.name);
        let end = Instant::now() + limit;
        loop {
            let seen = self.sees()?;
            if right(&seen.lines().collect::<Vec<_>>()) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not within {limit:?}: {what}: {seen}");
            sleep(Duration::from_millis(500));
        }
    }

    /// Deletes it; returns when it is gone.
    pub(super) fn delete(self) -> anyhow::Result<()> {
        let args = [
            "delete",
            "pod",
            "-n",
            &self.namespace,
            &self.name,
            "--timeout=40s",
        ];
        self.kubectl.run(&args).map(drop)
    }
}

fn rounds(log: &str) -> u64 {
    let last = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("round "));
    last.and_then(|number| number.parse().ok()).unwrap_or(0)
}
