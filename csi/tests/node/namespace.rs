//! A mount namespace of its own for every test.

use crate::world::World;
use std::process::Command;

/// Set in the process that a test runs in.
const INSIDE: &str = "CSI_TEST_INSIDE";

/// Runs `test`, which is the body of the test called `name`, in a process that has a mount
/// namespace to itself: whatever it leaves mounted goes with it. Needs no root where the kernel
/// allows user namespaces; fails where it does not.
pub(crate) fn privately(name: &str, test: impl AsyncFnOnce(&mut World)) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            test(&mut world).await;
        });
        return;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) can be run");
    let (out, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{name}, in a mount namespace of its own, ended with {}\n{out}\n{log}",
        output.status
    );
    print!("{out}");
}
