//! The FUSE host of a node: volumes that show parts of a tree, entered with credentials of their own.

use crate::world::{BUCKET, World, assert_same, eventually};
use forebay_client::{Master, channel};
use forebay_e2e::{
    process::{Forebay, Playground, Running},
    s3::Content,
};
use forebay_proto::v1::{
    AttachRequest, DetachRequest, Volume, VolumesRequest, fuse_host_client::FuseHostClient,
};
use forebay_seal::SealKey;
use forebay_types::{Address, Code, Credentials, MountSpec, SyncPolicy};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    world: World,
    runtime: Runtime,
    playground: Playground,
    key: SealKey,
    master: Master,
    process: Running,
    _keeper: Running,
    host: FuseHostClient<Channel>,
}

/// Starts a daemon with this configuration, and waits until it serves on its socket.
fn daemon(role: &str, dir: &Path, socket: &Path, more: &str) -> Running {
    let config = dir.join(format!("{role}.toml"));
    let text = format!("socket = {:?}\n{more}", socket.display());
    fs::write(&config, text).unwrap();
    let command = Forebay::new(role).unwrap();
    let mut process = command.arg("--config").arg(&config).spawn().unwrap();
    let ready = process.line(PATIENCE).unwrap();
    assert_eq!(ready, format!("ready {}", socket.display()));
    process
}

impl Node {
    fn start() -> Node {
        let world = World::new();
        let dir = world.dir.path();
        let key = dir.join("key");
        fs::write(&key, forebay_seal::generate().unwrap()).unwrap();
        // No credentials in the environment: the mounts bring theirs.
        let command = Forebay::new("playground")
            .unwrap()
            .env("FOREBAY_SEAL_KEY", key.to_str().unwrap())
            .arg(dir.join("pg"))
            .args(["--masters", "1", "--workers", "1", "--mounts", "0"]);
        let playground = Playground::start(command).unwrap();
        let address = playground.role("master").next().unwrap().address.clone();
        let runtime = Runtime::new().unwrap();
        let _inside = runtime.enter();
        let master = Master::new(address.unwrap().parse::<Address>().unwrap());
        let socket = dir.join("run/host.sock");
        let keeper = daemon("keeper", dir, &dir.join("run/keeper.sock"), "");
        let process = start_host(dir);
        let host = FuseHostClient::new(channel::connect(&Address::Unix(socket)));
        Node {
            key: SealKey::read(&key).unwrap(),
            world,
            runtime,
            playground,
            master,
            process,
            _keeper: keeper,
            host,
        }
    }

    /// SIGKILL, or told to go, and a successor.
    fn replace_host(&mut self, kill: bool) {
        if kill {
            self.process.kill();
        } else {
            assert!(self.process.terminate().unwrap().success());
        }
        self.process = start_host(self.world.dir.path());
    }

    /// Mounts a prefix of the bucket in the cluster's tree.
    fn mount(&self, path: &str, prefix: &str, secret: &str) -> Result<(), forebay_client::Error> {
        let named = [
            (
                "AWS_ACCESS_KEY_ID",
                self.world.credentials.access_key.as_str(),
            ),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        let named = named.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = [
            ("endpoint", self.world.server.endpoint.as_str()),
            ("path_style", "true"),
        ];
        let spec = MountSpec {
            path: path.to_owned(),
            uri: format!("s3://{BUCKET}/{prefix}"),
            options: options
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            sync: SyncPolicy::Never,
            credentials: Some(
                self.key
                    .seal(path, &Credentials::new(named.into()))
                    .unwrap(),
            ),
        };
        self.runtime.block_on(self.master.mount(&spec)).map(|_| ())
    }

    fn mount_well(&self, path: &str, prefix: &str) {
        let secret = &self.world.credentials.secret_key;
        self.mount(path, prefix, secret).unwrap();
    }

    fn unmount(&self, path: &str) {
        self.runtime.block_on(self.master.unmount(path)).unwrap();
    }

    fn volume(&self, id: &str, path: &str) -> Volume {
        let at = self.world.dir.path().join("volumes").join(id);
        fs::create_dir_all(&at).unwrap();
        let worker = self.world.dir.path().join("pg/w0.sock");
        Volume {
            id: id.to_owned(),
            masters: self.master.addresses().to_string(),
            path: path.to_owned(),
            worker_socket: worker.to_str().unwrap().to_owned(),
            mount_point: at.to_str().unwrap().to_owned(),
        }
    }

    fn attach(&self, volume: &Volume) -> Result<PathBuf, tonic::Status> {
        let request = AttachRequest {
            volume: Some(volume.clone()),
        };
        self.runtime.block_on(self.host.clone().attach(request))?;
        Ok(PathBuf::from(&volume.mount_point))
    }

    fn detach(&self, id: &str) {
        let request = DetachRequest { id: id.to_owned() };
        self.runtime
            .block_on(self.host.clone().detach(request))
            .unwrap();
    }

    /// The volumes with what is wrong with them.
    fn volumes(&self) -> Vec<(String, String)> {
        let asked = self.host.clone();
        let answer = self
            .runtime
            .block_on(async { asked.clone().volumes(VolumesRequest {}).await });
        let states = answer.unwrap().into_inner().volumes;
        states
            .into_iter()
            .map(|s| (s.volume.unwrap().id, s.fault))
            .collect()
    }
}

fn start_host(dir: &Path) -> Running {
    let more = format!(
        "keeper = {:?}\nhttp = \"127.0.0.1:0\"\nmemory = \"64MiB\"\n",
        dir.join("run/keeper.sock").display()
    );
    daemon("node", dir, &dir.join("run/host.sock"), &more)
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill();
        for volume in fs::read_dir(self.world.dir.path().join("volumes"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // Most are unmounted already.
            let _ = unmount(volume.path(), UnmountFlags::DETACH);
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn volumes_show_their_part_of_the_tree_and_nothing_else() {
    let node = Node::start();
    let content = node.world.put("x/dir/file", 1, 3 << 20);
    node.world.put("y/other", 2, 1000);
    node.mount_well("/team-a/x", "x");
    node.mount_well("/team-b/y", "y");

    let [x, y] = [node.volume("1", "/team-a/x"), node.volume("2", "/team-b/y")];
    let (at_x, at_y) = (node.attach(&x).unwrap(), node.attach(&y).unwrap());
    assert_eq!(
        (names(&at_x), names(&at_y)),
        (vec!["dir".to_owned()], vec!["other".to_owned()])
    );
    assert_same(&at_x.join("dir/file"), &content);
    assert_same(&at_x.join("dir/file"), &content);
    // Asked again it does nothing; with other settings it refuses.
    node.attach(&x).unwrap();
    let other = Volume {
        path: "/team-b/y".to_owned(),
        ..x.clone()
    };
    assert_eq!(
        node.attach(&other).unwrap_err().code(),
        tonic::Code::AlreadyExists
    );
    let none = node.attach(&node.volume("3", "/team-a/none")).unwrap_err();
    assert!(
        none.message().contains("/team-a/none is not mounted"),
        "{none}"
    );
    let well = |id: &str| (id.to_owned(), String::new());
    assert_eq!(node.volumes(), [well("1"), well("2")]);

    // Somebody else's unmounting is noticed; attaching again mends it.
    unmount(&at_y, UnmountFlags::empty()).unwrap();
    eventually("the volume is known to be gone", PATIENCE, || {
        node.volumes()
            .contains(&("2".to_owned(), "it was unmounted".to_owned()))
    });
    node.attach(&y).unwrap();
    assert_eq!(names(&at_y), ["other"]);

    node.detach("1");
    node.detach("1");
    assert!(names(&at_x).is_empty());
    assert_eq!(names(&at_y), ["other"]);
    node.detach("2");
    assert!(node.volumes().is_empty());
}

#[test]
fn as_many_clusters_are_served_as_the_memory_bears() {
    let node = Node::start();
    let content = node.world.put("x/file", 1, 100_000);
    node.mount_well("/ns/x", "x");
    let masters = node.master.addresses().to_string();
    let port = masters.rsplit(':').next().unwrap();
    // Masters with other addresses are another cluster.
    let names = [
        "127.0.0.1",
        "localhost",
        "Localhost",
        "LocalHost",
        "LOCALHOST",
    ];
    let volumes = names.map(|name| Volume {
        masters: format!("{name}:{port}"),
        ..node.volume(name, "/ns/x")
    });
    let [most @ .., last] = &volumes;
    for volume in most {
        let at = node.attach(volume).unwrap();
        assert_same(&at.join("file"), &content);
    }
    // 32 MiB of its 64 are for metadata: four times 8.
    let refused = node.attach(last).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(
        refused.message().contains("volumes of 4 CacheClusters"),
        "{refused}"
    );
    node.detach(&most[1].id);
    let at = node.attach(last).unwrap();
    assert_same(&at.join("file"), &content);
    assert_same(&Path::new(&most[0].mount_point).join("file"), &content);
}

#[test]
fn what_a_volume_shows_may_be_mounted_anew_while_it_is_read() {
    let node = Node::start();
    let old = node.world.put("old/file", 1, 2 << 20);
    let new = node.world.put("new/file", 2, 1 << 20);
    node.mount_well("/ns/set", "old");
    let at = node.attach(&node.volume("1", "/ns/set")).unwrap();
    assert_same(&at.join("file"), &old);
    let mut open = fs::File::open(at.join("file")).unwrap();

    node.unmount("/ns/set");
    eventually("the root is gone", PATIENCE, || fs::read_dir(&at).is_err());
    assert!(node.volumes()[0].1.contains("not mounted"));
    node.mount_well("/ns/set", "new");
    eventually("the new content is shown", PATIENCE, || {
        fs::metadata(at.join("file")).is_ok_and(|file| file.len() == new.size())
    });
    assert_same(&at.join("file"), &new);
    // What was open stays what it was, as far as it can still be read.
    let mut bytes = Vec::new();
    if open.read_to_end(&mut bytes).is_ok() {
        assert_eq!(bytes, old.bytes(0..old.size()).unwrap());
    }
    assert_eq!(node.volumes(), [("1".to_owned(), String::new())]);
}

#[test]
fn a_wrong_secret_is_told_and_the_right_one_mends_it() {
    let node = Node::start();
    let content = node.world.put("x/file", 1, 100_000);
    let refused = node.mount("/ns/x", "x", "wrong").unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied, "{refused}");
    assert!(
        refused.to_string().contains("the secret key does not fit"),
        "{refused}"
    );
    node.mount_well("/ns/x", "x");
    let at = node.attach(&node.volume("1", "/ns/x")).unwrap();
    assert_same(&at.join("file"), &content);
    // What lies on the masters' disk is sealed.
    let master = node.playground.role("master").next().unwrap();
    let dir = master.config.parent().unwrap();
    let secret = node.world.credentials.secret_key.as_bytes();
    for file in walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter(|f| f.file_type().is_file())
    {
        let bytes = fs::read(file.path()).unwrap();
        let clear = bytes.windows(secret.len()).any(|part| part == secret);
        assert!(
            !clear,
            "{} has the secret in the clear",
            file.path().display()
        );
    }
}

/// Does `work` again and again until `end`; returns how often, or the first error.
fn again(
    end: &AtomicBool,
    mut work: impl FnMut(u64) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut times = 0;
    while !end.load(Ordering::Relaxed) {
        work(times)?;
        times += 1;
    }
    Ok(times)
}

#[test]
fn a_fuse_host_is_replaced_under_its_readers() {
    let mut node = Node::start();
    let warm = node.world.put("set/warm", 1, 8 << 20);
    let small: Vec<_> = (0..64)
        .map(|n| node.world.put(&format!("set/dir/f{n:02}"), 10 + n, 20_000))
        .collect();
    let cold: Vec<_> = (0..8)
        .map(|n| node.world.put(&format!("set/cold{n}"), 100 + n, 48 << 20))
        .collect();
    node.mount_well("/ns/set", "set");
    let at = node.attach(&node.volume("1", "/ns/set")).unwrap();
    assert_same(&at.join("warm"), &warm);
    // Whole by now: the kernel reads it without us.
    let through = fs::File::open(at.join("warm")).unwrap();
    let listing = fs::read_dir(&at).unwrap();
    let end = AtomicBool::new(false);
    let (end, at, warm, small, cold) = (&end, &at, &warm, &small, &cold);
    let piece = |content: &Content, offset: u64| content.bytes(offset..offset + 4096).unwrap();
    thread::scope(|scope| {
        let passthrough = scope.spawn(|| {
            again(end, |n| {
                let offset = n * 4096 % (8 << 20);
                let mut bytes = vec![0; 4096];
                through.read_exact_at(&mut bytes, offset)?;
                assert_eq!(bytes, piece(warm, offset));
                Ok(())
            })
        });
        let streaming = scope.spawn(|| {
            again(end, |n| {
                let (file, which) = (&cold[n as usize % 8], n % 8);
                let open = fs::File::open(at.join(format!("cold{which}")))?;
                let mut bytes = vec![0; 1 << 20];
                for offset in (0..file.size()).step_by(1 << 20) {
                    open.read_exact_at(&mut bytes, offset)?;
                    assert_eq!(bytes, file.bytes(offset..offset + (1 << 20)).unwrap());
                }
                Ok(())
            })
        });
        let opening = scope.spawn(|| {
            again(end, |n| {
                let which = n as usize % 64;
                let bytes = fs::read(at.join(format!("dir/f{which:02}")))?;
                assert_eq!(bytes, small[which].bytes(0..20_000).unwrap());
                if which == 0 {
                    assert_eq!(fs::read_dir(at.join("dir"))?.count(), 64);
                }
                Ok(())
            })
        });
        for kill in [true, false, true, false] {
            thread::sleep(Duration::from_millis(300));
            node.replace_host(kill);
        }
        // What is open keeps its mode, whoever opens it again.
        assert_same(&at.join("warm"), warm);
        end.store(true, Ordering::Relaxed);
        for reader in [passthrough, streaming, opening] {
            let times = reader.join().unwrap().unwrap();
            assert!(times > 0);
        }
    });
    assert_eq!(listing.count(), 10);
    drop(through);
    assert_same(&at.join("warm"), warm);
    assert_eq!(node.volumes(), [("1".to_owned(), String::new())]);
    node.detach("1");
    assert!(names(at).is_empty());
}

#[test]
fn who_waits_for_masters_is_answered_by_the_successor_of_the_fuse_host() {
    let mut node = Node::start();
    let content = node.world.put("x/file", 1, 100_000);
    node.mount_well("/ns/x", "x");
    let at = node.attach(&node.volume("1", "/ns/x")).unwrap();
    let master = node.playground.role("master").next().unwrap().pid;
    let master = Pid::from_raw(master.cast_signed()).unwrap();
    kill_process(master, Signal::STOP).unwrap();
    let (tell, told) = mpsc::channel();
    let file = at.join("file");
    let reader = thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        fs::read(file)
    });
    let reads = told.recv().unwrap().as_raw_nonzero();
    let call = format!("/proc/self/task/{reads}/syscall");
    eventually("it waits for the file to be opened", PATIENCE, || {
        let call = fs::read_to_string(&call).unwrap_or_default();
        // openat of x86-64 and arm64.
        ["257 ", "56 "]
            .iter()
            .any(|number| call.starts_with(number))
    });
    node.replace_host(false);
    // Nobody may think that nobody serves the mount, and unmount it, all the while that it is taken over.
    for _ in 0..20 {
        let volumes = node.volumes();
        assert!(volumes.iter().any(|(id, _)| id == "1"), "{volumes:?}");
        thread::sleep(Duration::from_millis(100));
    }
    kill_process(master, Signal::CONT).unwrap();
    let bytes = reader.join().unwrap().unwrap();
    assert_eq!(bytes, content.bytes(0..content.size()).unwrap());
    eventually("all is well", PATIENCE, || {
        node.volumes() == [("1".to_owned(), String::new())]
    });
    node.detach("1");
}

#[test]
fn a_volume_whose_masters_are_gone_can_be_detached_all_the_same() {
    let mut node = Node::start();
    node.world.put("x/file", 1, 1000);
    node.mount_well("/ns/x", "x");
    let at = node.attach(&node.volume("1", "/ns/x")).unwrap();
    assert_eq!(names(&at), ["file"]);
    node.process.kill();
    let master = node.playground.role("master").next().unwrap().pid;
    kill_process(Pid::from_raw(master.cast_signed()).unwrap(), Signal::KILL).unwrap();
    node.process = start_host(node.world.dir.path());
    eventually("it says what it waits for", 2 * PATIENCE, || {
        let volumes = node.volumes();
        volumes
            .iter()
            .any(|(id, fault)| id == "1" && fault.contains("have not answered"))
    });
    node.detach("1");
    assert!(names(&at).is_empty());
    assert!(node.volumes().is_empty());
}
