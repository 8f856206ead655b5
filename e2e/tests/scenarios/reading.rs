//! Reading is like reading the files themselves.

use crate::world::{World, assert_same, read_range};
use forebay_e2e::s3::Content;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{FileExt, MetadataExt},
    thread,
};

/// A tree of random shape; keys to contents.
fn grow(world: &World, rng: &mut StdRng, files: usize) -> BTreeMap<String, Content> {
    let mut tree = BTreeMap::new();
    let words = [
        "a",
        "bb",
        "train",
        "Zoë",
        "x y",
        "100%",
        "part=1",
        "c++",
        "ü",
        ".hidden",
        "long-name-0123456789",
    ];
    while tree.len() < files {
        let depth = rng.random_range(0..4);
        let mut key: Vec<String> = (0..depth)
            .map(|_| (*words.choose(rng).unwrap()).to_owned())
            .collect();
        key.push(format!(
            "f{}.{}",
            rng.random_range(0..10_000),
            words.choose(rng).unwrap()
        ));
        let size = match rng.random_range(0..10) {
            0 => 0,
            1..=6 => rng.random_range(1..200_000),
            7 | 8 => rng.random_range(200_000..2_500_000),
            _ => 1 << rng.random_range(12..22),
        };
        let key = key.join("/");
        let content = world.put(&key, rng.random(), size);
        tree.insert(key, content);
    }
    tree
}

/// The names that a directory of the model has, and whether each is a directory.
fn names(tree: &BTreeMap<String, Content>, dir: &str) -> BTreeMap<String, bool> {
    let prefix = if dir.is_empty() {
        String::new()
    } else {
        format!("{dir}/")
    };
    tree.keys()
        .filter_map(|key| key.strip_prefix(&prefix))
        .map(|rest| match rest.split_once('/') {
            Some((name, _)) => (name.to_owned(), true),
            None => (rest.to_owned(), false),
        })
        .collect()
}

#[test]
fn random_operations_agree_with_the_model() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new();
    let tree = grow(&world, &mut rng, 200);
    let keys: Vec<&String> = tree.keys().collect();
    let mut dirs: BTreeSet<String> = BTreeSet::from([String::new()]);
    for key in &keys {
        let mut dir = key.as_str();
        while let Some((parent, _)) = dir.rsplit_once('/') {
            dirs.insert(parent.to_owned());
            dir = parent;
        }
    }
    let dirs: Vec<String> = dirs.into_iter().collect();
    // Less than the tree holds, so that eviction goes on beside the reads.
    let local = world.local("24MiB", &[]);
    for _ in 0..1500 {
        let key = *keys.choose(&mut rng).unwrap();
        let content = &tree[key];
        let path = world.at(key);
        match rng.random_range(0..8) {
            0 => {
                let dir = dirs.choose(&mut rng).unwrap();
                let listed: BTreeMap<String, bool> = fs::read_dir(world.at(dir))
                    .unwrap()
                    .map(|e| e.unwrap())
                    .map(|e| {
                        (
                            e.file_name().into_string().unwrap(),
                            e.file_type().unwrap().is_dir(),
                        )
                    })
                    .collect();
                assert_eq!(listed, names(&tree, dir), "listing of '{dir}'");
            }
            1 => {
                let meta = fs::metadata(&path).unwrap();
                assert!(meta.is_file());
                assert_eq!(meta.len(), content.size(), "{key}");
                assert_eq!(meta.ino(), fs::metadata(&path).unwrap().ino());
            }
            2 => {
                let error = fs::metadata(world.at(&format!("{key}-none"))).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                let below = fs::metadata(world.at(&format!("{key}/none"))).unwrap_err();
                assert_eq!(below.kind(), ErrorKind::NotADirectory);
            }
            3 => {
                let mut bytes = Vec::new();
                File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                assert!(bytes == content.bytes(0..content.size()).unwrap(), "{key}");
            }
            _ => {
                let file = File::open(&path).unwrap();
                for _ in 0..rng.random_range(1..4) {
                    let offset = rng.random_range(0..content.size() + 2);
                    let mut buffer = vec![0; rng.random_range(1..300_000)];
                    let got = read_full(&file, &mut buffer, offset);
                    let end = (offset + buffer.len() as u64).min(content.size());
                    let want = content.bytes(offset.min(end)..end).unwrap();
                    assert!(buffer[..got] == want[..], "{key} at {offset}");
                }
            }
        }
    }
    assert!(local.stop().unwrap().success());
}

/// As many bytes as there are, up to the buffer's length.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let mut got = 0;
    while got < buffer.len() {
        match file
            .read_at(&mut buffer[got..], offset + got as u64)
            .unwrap()
        {
            0 => break,
            n => got += n,
        }
    }
    got
}

#[test]
fn random_reads_of_partly_cached_files_return_the_right_bytes() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let world = World::new();
    let contents: Vec<Content> = (0..3)
        .map(|n| world.put(&format!("big{n}"), seed ^ n, 30 << 20))
        .collect();
    // A third of the data fits: pages come and go under the readers.
    let _local = world.local("32MiB", &[]);
    thread::scope(|scope| {
        for reader in 0..4u64 {
            let (world, contents) = (&world, &contents);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed ^ (reader << 32));
                for _ in 0..250 {
                    let n = rng.random_range(0..contents.len());
                    let len = *[1, 100, 4096, 65_536, 300_000].choose(&mut rng).unwrap();
                    let offset = rng.random_range(0..(30 << 20) - len as u64);
                    let got = read_range(&world.at(&format!("big{n}")), offset, len).unwrap();
                    let want = contents[n].bytes(offset..offset + len as u64).unwrap();
                    assert!(got == want, "big{n} at {offset}, {len} bytes");
                }
            });
        }
    });
}

#[test]
fn a_random_small_read_fetches_one_page() {
    let world = World::new();
    let content = world.put("big", 5, 64 << 20);
    let _local = world.local("256MiB", &[]);
    let path = world.at("big");
    fs::metadata(&path).unwrap();
    let before = world.server.stats();
    for n in [40u64, 7, 55, 23] {
        let offset = n << 20;
        // Direct: the kernel's own read-ahead is not what is measured.
        let got = direct_4k(&path, offset);
        assert!(got == content.bytes(offset..offset + 4096).unwrap());
    }
    let fetched = (world.server.stats() - before).bytes;
    assert!(
        fetched <= 4 << 20,
        "4 reads of 4 KiB fetched {fetched} bytes"
    );
}

fn direct_4k(path: &std::path::Path, offset: u64) -> Vec<u8> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(path)
        .unwrap();
    // Aligned by taking a slice of a larger buffer.
    let mut buffer = vec![0; 8192];
    let start = buffer.as_ptr().align_offset(4096);
    file.read_exact_at(&mut buffer[start..start + 4096], offset)
        .unwrap();
    buffer[start..start + 4096].to_vec()
}

#[test]
fn the_cache_is_found_again_after_a_restart() {
    let world = World::new();
    let small: Vec<Content> = (0..50)
        .map(|n| world.put(&format!("dir/s{n:02}"), n, 110_000))
        .collect();
    let big = world.put("big", 99, 20 << 20);
    let local = world.local("256MiB", &[]);
    let check = || {
        for (n, content) in small.iter().enumerate() {
            assert_same(&world.at(&format!("dir/s{n:02}")), content);
        }
        assert_same(&world.at("big"), &big);
    };
    check();
    let status = local.stop().unwrap();
    assert!(status.success(), "SIGTERM ends with 0, not {status}");
    assert_eq!(
        fs::read_dir(world.mount_point()).unwrap().count(),
        0,
        "unmounted"
    );
    let before = world.server.stats();
    let local = world.local("256MiB", &[]);
    check();
    assert_eq!(
        (world.server.stats() - before).get,
        0,
        "nothing is fetched again"
    );
    assert!(local.stop().unwrap().success());
}

#[test]
fn writing_is_refused() {
    let world = World::new();
    world.put("dir/file", 1, 1000);
    let _local = world.local("64MiB", &[]);
    let read_only = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    };
    read_only(fs::write(world.at("new"), b"x"));
    read_only(
        OpenOptions::new()
            .write(true)
            .open(world.at("dir/file"))
            .map(drop),
    );
    read_only(fs::create_dir(world.at("newdir")));
    read_only(fs::remove_file(world.at("dir/file")));
    read_only(fs::remove_dir(world.at("dir")));
    read_only(fs::rename(world.at("dir/file"), world.at("dir/other")));
    read_only(std::os::unix::fs::symlink("x", world.at("link")));
}

#[test]
fn several_stores_make_one_tree() {
    let world = World::new();
    world.put("readme", 1, 10);
    world.put("models/own", 2, 20);
    let other = world.dir.path().join("other");
    fs::create_dir_all(other.join("deep")).unwrap();
    fs::write(other.join("deep/file"), b"from a directory").unwrap();
    let models = format!("models/llama={}", other.display());
    let _local = world.local_of("64MiB", &[], &["s3://data", &models]);
    assert_eq!(
        fs::read(world.at("models/llama/deep/file")).unwrap(),
        b"from a directory"
    );
    assert_eq!(fs::metadata(world.at("models/own")).unwrap().len(), 20);
    let listed: BTreeSet<_> = fs::read_dir(world.at("models"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(listed, BTreeSet::from(["llama".into(), "own".into()]));
    let mounts = world.fs(&["mounts", "--json"], "");
    assert_eq!(mounts.lines().count(), 2, "{mounts}");
    assert!(!mounts.contains(&world.credentials.secret_key));
}

#[test]
fn a_mapped_file_shows_the_bytes_that_read_returns() {
    let world = World::new();
    let content = world.put("file", 9, 9 << 20);
    let _local = world.local("128MiB", &[]);
    // First not cached, then whole: both modes of the inode.
    for _ in 0..2 {
        let file = File::open(world.at("file")).unwrap();
        let mapped = mapped(&file, 9 << 20);
        assert!(mapped == content.bytes(0..9 << 20).unwrap());
        drop(file);
        assert_same(&world.at("file"), &content);
    }
}

/// A copy of the first `len` bytes of a file, made through a mapping.
#[expect(unsafe_code, reason = "a mapping is what is tested")]
fn mapped(file: &File, len: usize) -> Vec<u8> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    // SAFETY: the kernel chooses the address; the mapping is read within its length and undone
    // before anything else happens to it, and nobody changes the file's bytes.
    unsafe {
        let at = mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::SHARED,
            file,
            0,
        )
        .unwrap();
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), len).to_vec();
        munmap(at, len).unwrap();
        bytes
    }
}

#[test]
fn df_and_locks_answer() {
    let world = World::new();
    world.put("file", 1, 1000);
    let _local = world.local("64MiB", &[]);
    let disk = rustix::fs::statvfs(world.mount_point()).unwrap();
    assert_eq!(disk.f_bavail, 0, "nothing can be written");
    let (one, two) = (
        File::open(world.at("file")).unwrap(),
        File::open(world.at("file")).unwrap(),
    );
    one.lock().unwrap();
    assert!(two.try_lock().is_err(), "the lock holds on this node");
    one.unlock().unwrap();
    two.try_lock().unwrap();
}

#[test]
fn the_reference_of_options_is_up_to_date() {
    let mut text = String::from(
        "# Options of under stores\n\n`--option [PATH:]KEY=VALUE`, or `options` of a mount in a \
         configuration file. Generated from the\ndeclaration in `dataplane/ufs/src/config.rs`; \
         `UPDATE_DOCS=1 make test` writes it again.\n\n\
         | key | under stores | default | meaning |\n|---|---|---|---|\n\
         | sync | all | 60s | when metadata is compared with the store again: never, always, or an \
         interval such as 500ms, 30s, 5m, 1h |\n",
    );
    for option in forebay_ufs::config::OPTIONS {
        let schemes: Vec<&str> = option.schemes.iter().map(|s| s.as_str()).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            option.key,
            schemes.join(", "),
            option.default,
            option.meaning
        )
        .unwrap();
    }
    let file = "../docs/options.md";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file, &text).unwrap();
    }
    assert!(
        fs::read_to_string(file).unwrap_or_default() == text,
        "docs/options.md is not up to date"
    );
}
