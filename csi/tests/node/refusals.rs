//! Requests that are refused, and what the user reads.

use crate::{fake_host::Kind, namespace::privately, world::capability};
use forebay_csi::proto::csi::{NodeStageVolumeRequest, volume_capability::access_mode::Mode};
use std::process::Command;
use tonic::Code;

#[test]
fn wrong_requests_are_told_so() {
    privately("refusals::wrong_requests_are_told_so", async |world| {
        let mut node = world.begin(Kind::Memory).await;
        let good = || world.stage_request("v");
        let writer = "would write, and volumes are only read: give the PersistentVolume and the \
                      PersistentVolumeClaim accessModes: [ReadOnlyMany]";
        for (request, expected) in [
            (
                NodeStageVolumeRequest {
                    volume_capability: Some(capability(Mode::MultiNodeMultiWriter, &[])),
                    ..good()
                },
                format!("access mode ReadWriteMany (MULTI_NODE_MULTI_WRITER) {writer}"),
            ),
            (
                NodeStageVolumeRequest {
                    volume_capability: Some(capability(Mode::SingleNodeWriter, &[])),
                    ..good()
                },
                format!("access mode ReadWriteOnce (SINGLE_NODE_WRITER) {writer}"),
            ),
            (
                NodeStageVolumeRequest {
                    volume_context: [].into(),
                    ..good()
                },
                "volume attribute 'cluster' is missing".to_owned(),
            ),
            (
                NodeStageVolumeRequest {
                    staging_target_path: "a/b".to_owned(),
                    ..good()
                },
                "staging target path 'a/b' is no absolute path without '..'".to_owned(),
            ),
        ] {
            let refused = node.node_stage_volume(request).await.unwrap_err();
            let refused = (refused.code(), refused.message());
            assert_eq!(refused, (Code::InvalidArgument, expected.as_str()));
        }
        let request = world.publish_request("v", "pods/1", &["sync"]);
        let refused = node.node_publish_volume(request).await.unwrap_err();
        let expected = "mount option 'sync' is not known: use ro, nosuid, nodev, noexec, noatime";
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, expected)
        );
        let request = world.publish_request("v", "pods/1", &[]);
        let refused = node.node_publish_volume(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(!world.path("pods").exists() && world.host().calls().is_empty());
    });
}

#[test]
fn what_is_there_already_and_differs_is_refused() {
    privately(
        "refusals::what_is_there_already_and_differs_is_refused",
        async |world| {
            let mut node = world.begin(Kind::Memory).await;
            world.use_volume("v", "pods/1").await;
            let mut request = world.stage_request("v");
            request
                .volume_context
                .insert("path".to_owned(), "/other".to_owned());
            let refused = node.node_stage_volume(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::AlreadyExists);
            let request = world.publish_request("v", "pods/1", &["noexec"]);
            let refused = node.node_publish_volume(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::AlreadyExists);
            assert!(world.shows("pods/1", "staging-v"));
        },
    );
}

#[test]
fn a_bad_start_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("csi.toml");
    for (config, expected) in [
        (
            "node_nam = 'x'",
            "key 'node_nam': unknown key: remove it, or use one of node_name",
        ),
        ("node_name = ''", "key 'node_name' is empty"),
        (
            "node_name = 'x'\nendpoint = 'csi.sock'",
            "key 'endpoint': 'csi.sock' is no absolute path",
        ),
        (
            "node_name = 'x'\nendpoint = '/proc/no/csi.sock'\nstate_dir = 'STATE'",
            "cannot listen on /proc/no/csi.sock",
        ),
    ] {
        let state = dir.path().join("state");
        std::fs::write(&file, config.replace("STATE", state.to_str().unwrap())).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_forebay-csi"))
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.starts_with("forebay-csi: ") && said.lines().count() == 1,
            "{said}"
        );
        assert!(said.contains(expected), "{said}");
    }
}
