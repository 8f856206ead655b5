//! Driver and FUSE host are in two containers of a pod: what one mounts must get to the other.

use crate::{fake_host::Kind, namespace::privately, world::eventually};
use std::fs;
use tonic::Code;

#[test]
fn mounts_spread_both_ways() {
    privately("containers::mounts_spread_both_ways", async |world| {
        world.separate("unchanged");
        world.begin(Kind::Fuse).await;
        world.use_volume("v", "pods/1").await;
        assert!(world.shows("pods/1", "staging-v"));
        world.host = None;
        world.start_host(Kind::Memory);
        eventually("the volume is back in the pod", || {
            fs::read_to_string(world.path("pods/1/data")).is_ok_and(|text| text == "/ns/data")
        })
        .await;
        world.unpublish("v", "pods/1").await.unwrap();
        world.unstage("v").await.unwrap();
        for name in ["pods/1", "staging-v"] {
            assert_eq!(world.mount(name), None, "{name}");
        }
    });
}

#[test]
fn a_mount_that_does_not_spread_is_told() {
    privately(
        "containers::a_mount_that_does_not_spread_is_told",
        async |world| {
            world.separate("private");
            let mut node = world.begin(Kind::Memory).await;
            let request = world.stage_request("v");
            let refused = node.node_stage_volume(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(
                refused
                    .message()
                    .contains("mountPropagation: Bidirectional"),
                "{refused}"
            );
            assert_eq!(world.mount("staging-v"), None);
            assert_eq!(world.records(), 0);
        },
    );
}
