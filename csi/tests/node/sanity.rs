//! The conformance suite of CSI: `make csi-sanity`.

use crate::{fake_host::Kind, namespace::privately};
use std::process::Command;

/// What the suite asks of a Controller service. There is none: volumes are made by the operator.
const NOT_OURS: &str = "Controller";

#[test]
#[ignore = "needs csi-sanity"]
fn the_suite_passes() {
    privately("sanity::the_suite_passes", async |world| {
        world.begin(Kind::Memory).await;
        let output = Command::new("csi-sanity")
            .arg("--csi.endpoint")
            .arg(world.path("csi.sock"))
            .arg("--csi.mountdir")
            .arg(world.path("sanity/mount"))
            .arg("--csi.stagingdir")
            .arg(world.path("sanity/staging"))
            .args(["--ginkgo.skip", NOT_OURS, "--ginkgo.v", "--ginkgo.no-color"])
            .output()
            .expect("csi-sanity is in PATH: run make csi-sanity");
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", output.status);
    });
}
