//! A real master and a real worker, with the files that the operator made for them.

use crate::process::{Process, port};
use std::{path::Path, process::Command};

/// The built `forebay`.
fn forebay() -> Command {
    let home = std::env::var("HOME").unwrap();
    let built = format!("{home}/.cache/forebay/target/release/forebay");
    Command::new(std::env::var("FOREBAY_BIN").unwrap_or(built))
}

/// Starts the only master of a cluster; the port is given.
pub(crate) fn master(dir: &Path, toml: &str, key: &[u8], at: u16) -> Process {
    start(dir, toml, key, at, 1, 1)
}

/// Starts a master of several; the port of the first is given, the others have the next ones.
pub(crate) fn start(dir: &Path, toml: &str, key: &[u8], at: u16, id: u16, of: u16) -> Process {
    let peers: Vec<String> = (1..=of)
        .map(|id| format!("{{id={id},address=\"127.0.0.1:{}\"}}", at + id - 1))
        .collect();
    let at = at + id - 1;
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("master.toml"), toml).unwrap();
    std::fs::write(dir.join("key"), key).unwrap();
    Process::start(
        dir,
        "master",
        forebay()
            .args(["master", "--config"])
            .arg(dir.join("master.toml"))
            .env("FOREBAY_ID", id.to_string())
            .env("FOREBAY_DATA_DIR", dir.join("data"))
            .env("FOREBAY_LISTEN", format!("127.0.0.1:{at}"))
            .env("FOREBAY_HTTP", format!("127.0.0.1:{}", port()))
            .env("FOREBAY_SEAL_KEY", dir.join("key"))
            .env("FOREBAY_PEERS", format!("[{}]", peers.join(","))),
    )
}

/// Starts a worker at an address.
pub(crate) fn worker(dir: &Path, toml: &str, key: &[u8], master: u16, at: &str) -> Process {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("worker.toml"), toml).unwrap();
    std::fs::write(dir.join("key"), key).unwrap();
    let tier = dir.join("tier");
    Process::start(
        dir,
        "worker",
        forebay()
            .args(["worker", "--config"])
            .arg(dir.join("worker.toml"))
            .env("FOREBAY_ADVERTISE", at)
            .env("FOREBAY_DATA_DIR", dir.join("data"))
            .env("FOREBAY_LISTEN", at)
            .env("FOREBAY_HTTP", format!("127.0.0.1:{}", port()))
            .env("FOREBAY_SOCKET", dir.join("worker.sock"))
            .env("FOREBAY_SEAL_KEY", dir.join("key"))
            .env("FOREBAY_MASTER", format!("127.0.0.1:{master}"))
            .env(
                "FOREBAY_TIERS",
                format!(
                    "[{{medium=\"SSD\",dir=\"{}\",size=67108864}}]",
                    tier.display()
                ),
            ),
    )
}
