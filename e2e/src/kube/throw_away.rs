//! The throw-away cluster: real control plane, kubelets and container runtimes in name spaces of this machine
//! (`e2e/cluster`). Needs root.

use crate::{interrupt::Entered, kube::Kubectl, process::forebay};
use anyhow::{Context, bail, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The cluster; taken down when this is dropped.
#[derive(Debug)]
pub struct ThrowAway {
    nodes: u8,
    dir: PathBuf,
    _entered: Entered,
}

/// The image of the built binaries.
pub(super) const IMAGE: &str = "forebay:dev";

/// From the root of the repository.
const SCRIPTS: &str = "e2e/cluster";

/// One of the scripts, or a line of shell beside them.
fn command(dir: &Path, nodes: u8, what: &str) -> Command {
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", what])
        .current_dir(SCRIPTS)
        .env("DIR", dir)
        .env("N", nodes.to_string());
    command
}

/// Runs it.
fn run(dir: &Path, nodes: u8, what: &str) -> anyhow::Result<String> {
    output(command(dir, nodes, what), what)
}

fn output(mut command: Command, what: &str) -> anyhow::Result<String> {
    let output = command.output().context("cannot start bash")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}{}", text, why.trim());
    }
    Ok(text)
}

impl ThrowAway {
    /// Where it lies if nobody says otherwise: `~/.cache/forebay/cluster`.
    pub fn default_dir() -> anyhow::Result<PathBuf> {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = cache.or_else(home).context("HOME is not set: give --dir")?;
        Ok(cache.join("forebay/cluster"))
    }

    /// Makes the images of the built binaries and starts a cluster of so many nodes below `dir`, with these settings of
    /// `up.sh`.
    pub fn start(dir: &Path, nodes: u8, settings: &[(&str, &str)]) -> anyhow::Result<ThrowAway> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the throw-away cluster needs root; or give --existing, to use the cluster of KUBECONFIG"
        );
        run(dir, nodes, "./down.sh").context("the cluster of an earlier run is in the way")?;
        fs::create_dir_all(dir.join("img"))?;
        let binary = forebay()?;
        let others = ["forebay-operator", "forebay-csi"].map(|name| binary.with_file_name(name));
        let paths = [&binary, &others[0], &others[1]].map(|path| path.display().to_string());
        run(
            dir,
            nodes,
            &format!(
                "WORKUSER=65532:65532 ./program-image.sh library/{IMAGE} $DIR/img/forebay.tar {} /usr/bin {} {}",
                paths[0], paths[1], paths[2]
            ),
        )?;
        run(
            dir,
            nodes,
            ". ./env.sh; ./program-image.sh local/minio:1 $DIR/img/minio.tar $BIN/minio",
        )?;
        let down = command(dir, nodes, "./down.sh");
        let cluster = ThrowAway {
            nodes,
            dir: dir.to_owned(),
            _entered: Entered::command(down),
        };
        let mut up = command(dir, nodes, "./up.sh");
        up.envs(settings.iter().copied());
        output(up, "./up.sh")?;
        run(dir, nodes, "./storage.sh")?;
        Ok(cluster)
    }

    /// Its administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(Some(self.dir.join("admin.kubeconfig")))
    }

    /// Runs a line of shell on a node.
    pub fn on_node(&self, node: &str, line: &str) -> anyhow::Result<String> {
        run(
            &self.dir,
            self.nodes,
            &format!(". ./env.sh; on_node {node} sh -c '{line}'"),
        )
    }

    /// Starts a line of shell beside the scripts, which writes to a log.
    pub(super) fn start_beside(&self, line: &str, log: &str) -> anyhow::Result<Child> {
        let log = fs::File::create(self.logs().join(log))?;
        let line = format!(". ./env.sh; exec {line}");
        let mut command = command(&self.dir, self.nodes, &line);
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
        command.stderr(log).spawn().context("cannot start bash")
    }

    /// A setting of the scripts.
    pub(super) fn setting(&self, name: &str) -> anyhow::Result<String> {
        run(
            &self.dir,
            self.nodes,
            &format!(". ./env.sh; printf %s \"${name}\""),
        )
    }

    /// SIGKILL to the processes of a node whose command line begins like this; how many there were.
    pub fn kill(&self, node: &str, command: &str) -> anyhow::Result<usize> {
        let line = format!("pkill -9 -c -f \"^{command}\" || true");
        let count = self.on_node(node, &line)?;
        count.trim().parse().context("pkill counts")
    }

    /// Takes the power from a node.
    pub(super) fn power_off(&self, node: &str) -> anyhow::Result<()> {
        self.node_script("node-kill.sh", node)
    }

    /// Starts a node again.
    pub(super) fn power_on(&self, node: &str) -> anyhow::Result<()> {
        self.node_script("node-start.sh", node)
    }

    fn node_script(&self, script: &str, node: &str) -> anyhow::Result<()> {
        let line = format!(". ./env.sh; n={node}; ./{script} ${{n#$PFX}}");
        run(&self.dir, self.nodes, &line).map(drop)
    }

    /// The API server answers nobody from now on.
    pub(super) fn stop_api_server(&self) -> anyhow::Result<()> {
        self.signal_api_server("STOP")
    }

    /// The API server goes on.
    pub(super) fn start_api_server(&self) -> anyhow::Result<()> {
        self.signal_api_server("CONT")
    }

    fn signal_api_server(&self, signal: &str) -> anyhow::Result<()> {
        let line = format!("kill -{signal} $(cat $DIR/run/apiserver.pid)");
        run(&self.dir, self.nodes, &line).map(drop)
    }

    /// Gives an image another name, on all nodes.
    pub(super) fn tag(&self, image: &str, name: &str) -> anyhow::Result<()> {
        for node in 1..=self.nodes {
            let full = |name| format!("docker.io/library/{name}");
            let (image, name) = (full(image), full(name));
            let line = format!(
                ". ./env.sh; on_node ${{PFX}}{node} ctr -n k8s.io images tag --force {image} {name}"
            );
            run(&self.dir, self.nodes, &line)?;
        }
        Ok(())
    }

    /// Makes an image of this machine's python3, on all nodes.
    pub(super) fn python(&self, name: &str) -> anyhow::Result<()> {
        let image = tempfile::Builder::new().suffix(".tar").tempfile()?;
        let tar = image.path().display();
        let made = format!("./python-image.sh library/{name} {tar}");
        run(&self.dir, self.nodes, &made)?;
        for node in 1..=self.nodes {
            let line = format!(
                ". ./env.sh; on_node ${{PFX}}{node} ctr -n k8s.io images import --all-platforms {tar}"
            );
            run(&self.dir, self.nodes, &line)?;
        }
        Ok(())
    }

    /// Where the logs of its parts are.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        if let Err(error) = run(&self.dir, self.nodes, "./down.sh") {
            eprintln!("cannot take the cluster down: {error:#}");
        }
    }
}
