//! The driver, the FUSE host or the node end at a bad moment, and start again.

use crate::{
    fake_host::Kind,
    namespace::privately,
    world::{World, eventually, mount_at},
};
use rustix::mount::{UnmountFlags, mount_bind, mount_remount, unmount};
use std::fs;
use tonic::Code;

fn unmount_here(world: &World, name: &str) {
    unmount(world.path(name), UnmountFlags::DETACH).unwrap();
}

/// The volume can be asked, and pods see what is mounted now.
async fn healed(world: &World, id: &str, pod: &str) {
    let staging = format!("staging-{id}");
    eventually("the volume is back in the pod", || {
        world.shows(pod, &staging)
            && rustix::fs::statvfs(world.path(pod)).is_ok()
            && world
                .mount(pod)
                .is_some_and(|m| m.flags.contains(&forebay_csi::flag::Flag::Ro))
    })
    .await;
}

#[test]
fn killed_while_it_stages() {
    privately("restart::killed_while_it_stages", async |world| {
        let mut node = world.begin(Kind::Memory).await;
        world.host().close_gate();
        let request = world.stage_request("v");
        let call = tokio::spawn(async move { node.node_stage_volume(request).await });
        world.host().asked("attach:v").await;
        world.kill();
        call.await.unwrap().unwrap_err();
        world.host().open_gate();
        world.start_driver();
        // The kubelet asks again, or not: the volume is staged, and goes when it is told to.
        eventually("the volume is staged", || {
            world.mount("staging-v").is_some()
        })
        .await;
        eventually("nobody works on it", || world.host().volumes().len() == 1).await;
        world.use_volume("v", "pods/1").await;
        world.unpublish("v", "pods/1").await.unwrap();
        world.unstage("v").await.unwrap();
        assert!(world.host().volumes().is_empty() && world.records() == 0);
    });
}

#[test]
fn killed_while_pods_read() {
    privately("restart::killed_while_pods_read", async |world| {
        world.begin(Kind::Memory).await;
        world.use_volume("v", "pods/1").await;
        let before = world.mount("pods/1");
        world.kill();
        world.start_driver();
        world.use_volume("v", "pods/1").await;
        world.use_volume("v", "pods/2").await;
        assert_eq!(world.mount("pods/1"), before);
        assert_eq!(world.host().calls(), ["attach:v"]);
    });
}

#[test]
fn killed_between_bind_and_flags() {
    privately("restart::killed_between_bind_and_flags", async |world| {
        world.begin(Kind::Memory).await;
        world.use_volume("v", "pods/1").await;
        world.use_volume("w", "pods/2").await;
        world.kill();
        for (id, pod) in [("v", "pods/1"), ("w", "pods/2")] {
            unmount_here(world, pod);
            mount_bind(world.path(&format!("staging-{id}")), world.path(pod)).unwrap();
        }
        world.start_driver();
        healed(world, "v", "pods/1").await;
        healed(world, "w", "pods/2").await;
    });
}

#[test]
fn driver_and_fuse_host_die() {
    privately("restart::driver_and_fuse_host_die", async |world| {
        world.begin(Kind::Fuse).await;
        for (id, pod) in [("v", "pods/1"), ("v", "pods/2"), ("w", "pods/3")] {
            world.use_volume(id, pod).await;
        }
        world.kill();
        world.host = None;
        assert!(rustix::fs::statvfs(world.path("pods/1")).is_err());
        world.start_driver();
        world.start_host(Kind::Fuse);
        for (id, pod) in [("v", "pods/1"), ("v", "pods/2"), ("w", "pods/3")] {
            healed(world, id, pod).await;
        }
        // One mount above nothing: the dead ones are gone.
        for name in ["staging-v", "pods/1"] {
            unmount_here(world, name);
            assert_eq!(world.mount(name), None);
        }
    });
}

#[test]
fn the_fuse_host_dies_alone() {
    privately("restart::the_fuse_host_dies_alone", async |world| {
        world.begin(Kind::Fuse).await;
        world.use_volume("v", "pods/1").await;
        world.host = None;
        world.start_host(Kind::Fuse);
        healed(world, "v", "pods/1").await;
    });
}

#[test]
fn the_kubelet_comes_before_the_repair() {
    privately(
        "restart::the_kubelet_comes_before_the_repair",
        async |world| {
            let mut node = world.begin(Kind::Fuse).await;
            world.use_volume("v", "pods/1").await;
            world.host = None;
            world.start_host(Kind::Fuse);
            // The repair may have it just now, or the connection may be to the dead one: then the
            // kubelet asks again.
            let request = world.publish_request("v", "pods/2", &[]);
            while let Err(status) = node.node_publish_volume(request.clone()).await {
                let passing = [Code::Aborted, Code::Unavailable].contains(&status.code());
                assert!(passing, "{status}");
            }
            assert!(world.shows("pods/2", "staging-v"));
            healed(world, "v", "pods/1").await;
        },
    );
}

#[test]
fn after_a_reboot() {
    privately("restart::after_a_reboot", async |world| {
        world.begin(Kind::Memory).await;
        for (id, pod) in [("kept", "pods/1"), ("kept", "pods/2"), ("gone", "pods/3")] {
            world.use_volume(id, pod).await;
        }
        world.kill();
        world.host = None;
        for name in ["pods/1", "pods/2", "pods/3", "staging-kept", "staging-gone"] {
            unmount_here(world, name);
        }
        // The kubelet has cleaned up after pods that were deleted meanwhile.
        for name in ["pods/2", "pods/3", "staging-gone"] {
            fs::remove_dir(world.path(name)).unwrap();
        }
        world.start_host(Kind::Memory);
        world.start_driver();
        healed(world, "kept", "pods/1").await;
        eventually("the record of what is gone is gone", || {
            world.records() == 1
        })
        .await;
        assert!(world.mount("pods/2").is_none() && world.mount("pods/3").is_none());
        world.unpublish("kept", "pods/1").await.unwrap();
        world.unstage("kept").await.unwrap();
        assert_eq!(world.records(), 0);
    });
}

#[test]
fn orphans_end() {
    privately("restart::orphans_end", async |world| {
        world.start_host(Kind::Memory);
        world.host().serve_orphan("orphan", &world.path("o"));
        // One whose record is lost, and which a pod uses.
        world.host().serve_orphan("used", &world.path("u"));
        fs::create_dir(world.path("pod")).unwrap();
        mount_bind(world.path("u"), world.path("pod")).unwrap();
        world.start_driver();
        world.host().asked("detach:orphan").await;
        eventually("the orphan is unmounted", || world.mount("o").is_none()).await;
        world.use_volume("v", "pods/1").await;
        assert!(world.shows("pod", "u"));
        // The pod goes, and so does the volume.
        unmount_here(world, "pod");
        world.host().asked("detach:used").await;
        eventually("nothing is left", || world.mount("u").is_none()).await;
        assert!(world.shows("pods/1", "staging-v"));
    });
}

#[test]
fn a_mount_taken_away_by_hand_comes_back() {
    privately(
        "restart::a_mount_taken_away_by_hand_comes_back",
        async |world| {
            world.begin(Kind::Memory).await;
            world.use_volume("v", "pods/1").await;
            unmount_here(world, "pods/1");
            healed(world, "v", "pods/1").await;
            unmount_here(world, "staging-v");
            healed(world, "v", "pods/1").await;
            // Flags, too.
            let rw = rustix::mount::MountFlags::BIND;
            mount_remount(world.path("pods/1"), rw, "").unwrap();
            assert!(mount_at(&world.path("pods/1")).is_some());
            healed(world, "v", "pods/1").await;
        },
    );
}
