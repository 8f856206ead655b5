//! Processes that end with the test.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A process; killed at the end.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it, with its output in a file of `dir`.
    pub(crate) fn start(dir: &Path, name: &str, command: &mut Command) -> Process {
        let log = File::create(dir.join(format!("{name}.log"))).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Process { child }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now.
pub(crate) fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The binaries of Kubernetes.
pub(crate) fn kubernetes(name: &str) -> PathBuf {
    let home = std::env::var("HOME").unwrap();
    let dir = std::env::var("KUBERNETES_BIN");
    PathBuf::from(dir.unwrap_or(format!("{home}/.cache/forebay/kubernetes"))).join(name)
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
