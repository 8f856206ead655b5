//! A volume's way from the kubelet's first call to its last.

use crate::{
    fake_host::Kind,
    namespace::privately,
    world::{World, eventually},
};
use forebay_csi::{
    flag::{Flag, Flags},
    proto::{
        csi::{ProbeRequest, identity_client::IdentityClient, volume_usage::Unit},
        registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
    },
};
use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
};
use tonic::{Code, Status};

#[test]
fn a_volume_comes_and_goes() {
    privately("lifecycle::a_volume_comes_and_goes", async |world| {
        let mut node = world.begin(Kind::Memory).await;
        let stage = world.stage_request("v");
        let publish = world.publish_request("v", "pods/1/mount", &["noexec", "noatime"]);
        // Everything twice: the kubelet asks again when it has not heard the answer.
        for _ in 0..2 {
            node.node_stage_volume(stage.clone()).await.unwrap();
        }
        let served = world.host().volumes();
        assert_eq!(served[0].masters, "m-1:7000,m-2:7000");
        assert_eq!(served[0].path, "/ns/data");
        assert_eq!(served[0].mount_point, world.text("staging-v"));
        assert_eq!(served[0].worker_socket, world.text("run/uid-1/worker.sock"));
        for _ in 0..2 {
            node.node_publish_volume(publish.clone()).await.unwrap();
        }
        let mount = world.mount("pods/1/mount").unwrap();
        // Those that were asked for, and those that the FUSE host gave.
        let expected = [Flag::Ro, Flag::NoExec, Flag::NoAtime, Flag::NoDev];
        assert_eq!(mount.flags, Flags::from(expected));
        let data = world.path("pods/1/mount/data");
        assert_eq!(fs::read_to_string(&data).unwrap(), "/ns/data");
        let refused = fs::write(&data, "x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);

        let refused = world.unstage("v").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        for _ in 0..2 {
            world.unpublish("v", "pods/1/mount").await.unwrap();
        }
        assert!(!world.path("pods/1/mount").exists());
        for _ in 0..2 {
            world.unstage("v").await.unwrap();
        }
        assert_eq!(world.mount("staging-v"), None);
        assert!(world.host().volumes().is_empty());
        assert_eq!(world.records(), 0);
    });
}

#[test]
fn many_pods_share_a_volume() {
    privately("lifecycle::many_pods_share_a_volume", async |world| {
        world.begin(Kind::Memory).await;
        for pod in ["pods/1", "pods/2"] {
            world.use_volume("v", pod).await;
        }
        world.unpublish("v", "pods/1").await.unwrap();
        assert!(world.mount("pods/1").is_none() && world.shows("pods/2", "staging-v"));
        assert_eq!(world.host().calls(), ["attach:v"]);
    });
}

#[test]
fn a_sub_path_shows_that_directory() {
    privately(
        "lifecycle::a_sub_path_shows_that_directory",
        async |world| {
            let mut node = world.begin(Kind::Memory).await;
            let mut at = async |id: &str, sub_path: &str| {
                let mut stage = world.stage_request(id);
                stage
                    .volume_context
                    .insert("subPath".to_owned(), sub_path.to_owned());
                node.node_stage_volume(stage).await.unwrap();
                let publish = world.publish_request(id, &format!("pods/{id}"), &[]);
                node.node_publish_volume(publish).await.map(drop)
            };
            at("v", "sub/inner").await.unwrap();
            let deep = world.path("pods/v/deep");
            assert_eq!(fs::read_to_string(deep).unwrap(), "deep");
            for (id, sub_path, expected) in [
                ("gone", "sub/gone", "the volume's subPath does not exist"),
                ("file", "data", "the volume's subPath is not a directory"),
                (
                    "out",
                    "away",
                    "the volume's subPath leads through a symbolic link",
                ),
                (
                    "in",
                    "sub/link",
                    "the volume's subPath leads through a symbolic link",
                ),
            ] {
                let refused = at(id, sub_path).await.unwrap_err();
                assert_eq!(
                    (refused.code(), refused.message()),
                    (Code::NotFound, expected)
                );
                assert!(!world.path(&format!("pods/{id}")).exists());
                world.unstage(id).await.unwrap();
            }
        },
    );
}

#[test]
fn a_volume_has_one_operation_at_a_time() {
    privately(
        "lifecycle::a_volume_has_one_operation_at_a_time",
        async |world| {
            let mut node = world.begin(Kind::Memory).await;
            world.host().close_gate();
            let request = world.stage_request("v");
            let mut first = node.clone();
            let first = tokio::spawn(async move { first.node_stage_volume(request).await });
            world.host().asked("attach:v").await;
            let request = world.stage_request("v");
            let second = node.node_stage_volume(request).await.unwrap_err();
            assert_eq!(second.code(), Code::Aborted, "{second}");
            assert_eq!(world.unstage("v").await.unwrap_err().code(), Code::Aborted);
            // Another volume is not held up: it gets as far as the FUSE host.
            let request = world.stage_request("w");
            let other = tokio::spawn(async move { node.node_stage_volume(request).await });
            world.host().asked("attach:w").await;
            world.host().open_gate();
            first.await.unwrap().unwrap();
            other.await.unwrap().unwrap();
        },
    );
}

#[test]
fn an_operation_ends_although_nobody_waits() {
    privately(
        "lifecycle::an_operation_ends_although_nobody_waits",
        async |world| {
            let mut node = world.begin(Kind::Memory).await;
            world.host().close_gate();
            let request = world.stage_request("v");
            let call = tokio::spawn(async move { node.node_stage_volume(request).await });
            world.host().asked("attach:v").await;
            call.abort();
            world.host().open_gate();
            eventually("the volume is mounted", || {
                world.mount("staging-v").is_some()
            })
            .await;
        },
    );
}

#[test]
fn what_cannot_be_attached_leaves_nothing() {
    privately(
        "lifecycle::what_cannot_be_attached_leaves_nothing",
        async |world| {
            let mut node = world.begin(Kind::Memory).await;
            world.host().refuse(Status::not_found("no path /ns/data"));
            let request = world.stage_request("v");
            let refused = node.node_stage_volume(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::NotFound);
            let expected = "the FUSE host of this node: no path /ns/data";
            assert_eq!(refused.message(), expected);
            assert_eq!(world.records(), 0);
            assert_eq!(world.host().calls(), ["attach:v", "detach:v"]);
        },
    );
}

#[test]
fn figures_and_condition() {
    privately("lifecycle::figures_and_condition", async |world| {
        world.begin(Kind::Fuse).await;
        world.use_volume("v", "pods/1").await;
        for path in ["pods/1", "staging-v"] {
            let stats = world.stats("v", path).await.unwrap();
            let usage = |unit: Unit| {
                let found = stats.usage.iter().find(|usage| usage.unit() == unit);
                found.map(|u| (u.total, u.used, u.available)).unwrap()
            };
            assert_eq!(usage(Unit::Bytes), (4_096_000, 2_048_000, 1_024_000));
            assert_eq!(usage(Unit::Inodes), (50, 30, 20));
            let condition = stats.volume_condition.unwrap();
            assert!(!condition.abnormal, "{}", condition.message);
        }
        world.host().set_fault("v", "no master answers");
        let condition = world.stats("v", "pods/1").await.unwrap().volume_condition;
        let condition = condition.unwrap();
        assert!(condition.abnormal && condition.message == "no master answers");
        for (id, path) in [("v", "pods/2"), ("w", "pods/1")] {
            let unknown = world.stats(id, path).await.unwrap_err();
            assert_eq!(unknown.code(), Code::NotFound);
        }
        // The FUSE host dies: the mounts are dead, and asking them holds nobody up.
        world.host = None;
        let dead = world.stats("v", "pods/1").await.unwrap();
        let condition = dead.volume_condition.unwrap();
        assert!(condition.abnormal, "{}", condition.message);
        assert!(
            condition.message.starts_with("dead mount at "),
            "{}",
            condition.message
        );
    });
}

#[test]
fn a_silent_volume_holds_up_nobody_else() {
    privately(
        "lifecycle::a_silent_volume_holds_up_nobody_else",
        async |world| {
            let mut node = world.begin(Kind::Fuse).await;
            world.use_volume("v", "pods/1").await;
            world.host().fall_silent("v");
            let stats = world.stats("v", "pods/1").await.unwrap();
            let condition = stats.volume_condition.unwrap();
            assert!(condition.abnormal && condition.message.ends_with("does not answer"));
            let request = world.publish_request("v", "pods/2", &[]);
            let refused = node.node_publish_volume(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            world.use_volume("w", "pods/3").await;
            assert!(world.shows("pods/3", "staging-w"));
            // Its pods can be taken away.
            world.unpublish("v", "pods/1").await.unwrap();
            world.unstage("v").await.unwrap();
            assert_eq!(world.mount("staging-v"), None);
        },
    );
}

#[test]
fn without_a_fuse_host_pods_can_end() {
    privately(
        "lifecycle::without_a_fuse_host_pods_can_end",
        async |world| {
            let mut node = world.begin(Kind::Fuse).await;
            world.use_volume("v", "pods/1").await;
            world.host = None;
            let request = world.stage_request("w");
            let refused = node.node_stage_volume(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            let expected = "the FUSE host of this node cannot be asked: unix:";
            assert!(refused.message().starts_with(expected), "{refused}");
            world.unpublish("v", "pods/1").await.unwrap();
            world.unstage("v").await.unwrap();
            assert_eq!(world.mount("staging-v"), None);
            assert_eq!(world.records(), 0);
        },
    );
}

#[test]
fn the_kubelet_finds_the_driver() {
    privately("lifecycle::the_kubelet_finds_the_driver", async |world| {
        world.begin(Kind::Memory).await;
        let socket = "reg/csi.forebay.io@registration.sock";
        let mut registration = RegistrationClient::new(world.channel(socket).await);
        let info = registration.get_info(InfoRequest {}).await.unwrap();
        let info = info.into_inner();
        assert_eq!(
            (info.r#type.as_str(), info.name.as_str()),
            ("CSIPlugin", "csi.forebay.io")
        );
        assert_eq!(info.endpoint, "/kubelet/csi.sock");
        assert_eq!(info.supported_versions, ["1.0.0"]);
        let status = RegistrationStatus {
            plugin_registered: true,
            ..RegistrationStatus::default()
        };
        registration
            .notify_registration_status(status)
            .await
            .unwrap();
        for socket in [socket, "csi.sock"] {
            let mode = fs::metadata(world.path(socket))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{socket}");
        }
        assert_eq!(world.stop(), Some(0));
        assert!(!world.path(socket).exists() && !world.path("csi.sock").exists());
    });
}

fn get(world: &World, path: &str) -> String {
    let mut stream = TcpStream::connect(world.http()).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_tells_how_it_is() {
    privately("lifecycle::it_tells_how_it_is", async |world| {
        world.start_driver();
        assert!(get(world, "/healthz").contains(" 200 "));
        eventually("it says what is missing", || {
            let answer = get(world, "/readyz");
            answer.contains(" 503 ")
                && answer.contains("the FUSE host of this node cannot be asked")
        })
        .await;
        let mut identity = IdentityClient::new(world.channel("csi.sock").await);
        let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
        assert_eq!(probe.ready, Some(false));

        world.start_host(Kind::Memory);
        eventually("it is ready", || get(world, "/readyz").contains(" 200 ")).await;
        let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
        assert_eq!(probe.ready, Some(true));
        world.use_volume("v", "pods/1").await;
        let counted = r#"forebay_csi_operations_total{operation="publish",code="Ok"} 1"#;
        assert!(get(world, "/metrics").contains(counted));
        eventually("the gauges tell", || {
            let metrics = get(world, "/metrics");
            ["staged 1", "published 1", "fuse_host_up 1"]
                .iter()
                .all(|line| metrics.contains(&format!("\nforebay_csi_{line}\n")))
        })
        .await;
    });
}
