//! Few simulated workers and clients: what `make fleet` does with thousands.

use serde_json::Value;
use std::process::Command;

/// Far more than anything may take, far less than what the program tells of what did not happen.
const SECONDS: f64 = 45.0;

#[test]
fn all_come_the_leader_dies_and_some_workers_die() {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay-fleet"))
        .args(["--workers", "50", "--clients", "10", "--masters", "3"])
        .args(["--rest", "2", "--json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |what: &str| {
        let figure = report[what].as_f64();
        figure.unwrap_or_else(|| panic!("no '{what}' in {report:#}"))
    };
    for what in [
        "arrival: every worker knows all, s",
        "arrival: all clients have session and watch, s",
        "leader killed: all workers known again, s",
        "5 workers die: the master has noticed, s",
        "5 workers die: every worker knows, s",
    ] {
        assert!(figure(what) < SECONDS, "{what}: {report:#}");
    }
    let all = |what: &str, wanted: f64| {
        assert!((figure(what) - wanted).abs() < 0.5, "{what}: {report:#}");
    };
    all("rest: live workers", 50.0);
    all("leader killed: workers that know all afterwards", 50.0);
    for when in ["arrival", "leader killed", "5 workers die"] {
        all(&format!("{when}: errors of clients"), 0.0);
    }
}
