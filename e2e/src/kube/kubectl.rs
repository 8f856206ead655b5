//! `kubectl`, as a person uses it.

use anyhow::{Context, bail};
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The longest that one call may take.
const LIMIT: &str = "60s";

/// A cluster, as its configuration file names it.
#[derive(Clone, Debug)]
pub struct Kubectl {
    config: Option<PathBuf>,
}

impl Kubectl {
    /// With this configuration; without one, that of the environment.
    pub fn new(config: Option<PathBuf>) -> Kubectl {
        Kubectl { config }
    }

    /// A command with these arguments, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(args);
        if let Some(config) = &self.config {
            command.env("KUBECONFIG", config);
        }
        command
    }

    /// Runs it; what it printed.
    pub fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        self.say(args, "")
    }

    /// The same with `input` on its standard input.
    pub fn say(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let mut all = vec!["--request-timeout", LIMIT];
        all.extend(args);
        let mut command = self.command(&all);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl has no input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", args.join(" "), why.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies objects.
    pub fn apply(&self, objects: &str) -> anyhow::Result<()> {
        self.say(&["apply", "-f", "-"], objects).map(drop)
    }

    /// Waits until a condition of an object, or of several, holds.
    pub fn wait(&self, what: &[&str], condition: &str, limit: Duration) -> anyhow::Result<()> {
        let (condition, limit) = (
            format!("--for={condition}"),
            format!("--timeout={}s", limit.as_secs()),
        );
        let mut args = vec!["wait", &condition, &limit];
        args.extend(what);
        self.run(&args).map(drop)
    }

    /// Asks until `done` says yes to what was printed; `what` for the message.
    pub fn until(
        &self,
        what: &str,
        limit: Duration,
        args: &[&str],
        done: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let end = Instant::now() + limit;
        loop {
            let said = self.run(args);
            match said {
                Ok(said) if done(&said) => return Ok(said),
                said if Instant::now() >= end => {
                    let said = said.unwrap_or_else(|error| error.to_string());
                    bail!("not within {limit:?}: {what}; at last: {}", said.trim())
                }
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}
