//! The conformance suite of CSI: `make csi-sanity`.

use crate::{fake_host::Kind, namespace::privately, stand_in, world::World};
use std::process::Command;

/// Groups of tests that ask a Controller service, and there is none: volumes are made by the operator.
const CONTROLLER: &str = r"Controller Server\]";

/// Tests of a node that make a volume first, and want to write to it.
const MAKES_VOLUMES: &str = "should remove target path|NodeStageVolume should fail when no volume \
                             capability|does not exist on the specified path";

fn passes(world: &World, socket: &str, skip: &str) {
    let output = Command::new("csi-sanity")
        .arg("--csi.endpoint")
        .arg(world.path(socket))
        .arg("--csi.mountdir")
        .arg(world.path("sanity-mount"))
        .arg("--csi.stagingdir")
        .arg(world.path("sanity-staging"))
        .args(["--ginkgo.skip", skip, "--ginkgo.v", "--ginkgo.no-color"])
        .output()
        .expect("csi-sanity is in PATH: run make csi-sanity");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", output.status);
}

#[test]
#[ignore = "needs csi-sanity"]
fn the_suite_passes() {
    privately("sanity::the_suite_passes", async |world| {
        world.begin(Kind::Memory).await;
        // As it is, and then with what the suite needs to try a volume's whole way.
        passes(world, "csi.sock", &format!("{CONTROLLER}|{MAKES_VOLUMES}"));
        stand_in::serve(&world.path("sanity.sock"), &world.channel("csi.sock").await);
        passes(world, "sanity.sock", CONTROLLER);
        assert_eq!(world.records(), 0);
        assert!(world.host().volumes().is_empty());
    });
}
