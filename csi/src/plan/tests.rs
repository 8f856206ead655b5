//! Every plan, over tables of what is seen.

use super::*;
use crate::{
    flag::Flag,
    mount_table::Device,
    volume::tests::{id, volume},
};

const STAGING: &str = "/staging";
const TARGET: &str = "/pods/1";

fn ro() -> Flags {
    Flags::from([Flag::Ro])
}

fn staged() -> Record {
    Record::staged(volume("v"), STAGING.into())
}

fn published() -> Record {
    let targets = [(TARGET.into(), ro())].into();
    Record {
        targets,
        ..staged()
    }
}

/// `path@device[+flag]…`
fn seen(mounts: &str, health: Health, served: Served, missing: &[&str]) -> Seen {
    let mounts = mounts.split_whitespace().map(|text| {
        let mut parts = text.split(['@', '+']);
        Mount {
            point: parts.next().unwrap().into(),
            device: Device(parts.next().unwrap().into()),
            flags: parts.map(|f| Flag::from_name(f).unwrap()).collect(),
        }
    });
    Seen {
        table: mounts.collect(),
        health,
        served,
        missing: missing.iter().map(PathBuf::from).collect(),
    }
}

/// One word an action.
fn told(actions: &[Action]) -> String {
    let words = actions.iter().map(|action| match action {
        Action::Save(record) => format!("save:{}", record.targets.len()),
        Action::Forget(id) => format!("forget:{id}"),
        Action::MakeDir(path) => format!("mkdir:{}", path.display()),
        Action::RemoveDir(path) => format!("rmdir:{}", path.display()),
        Action::Attach(volume, path) => format!("attach:{}:{}", volume.id, path.display()),
        Action::Detach(id) => format!("detach:{id}"),
        Action::TryDetach(id) => format!("try-detach:{id}"),
        Action::Unmount(path) => format!("unmount:{}", path.display()),
        Action::Bind { target, .. } => format!("bind:{}", target.display()),
        Action::AddFlags(path, flags) => {
            let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
            format!("flags:{}:{}", path.display(), flags.join("+"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

use Health::{Dead, Live, Silent};
use Served::{AsRecorded, Not, Otherwise};

const ANEW: &str = "mkdir:/staging attach:v:/staging";

#[test]
fn staging() {
    for (record, mounts, health, served, expected) in [
        (None, "", Live, Not, format!("save:0 {ANEW}")),
        // Left by a driver whose records are lost.
        (
            None,
            "/staging@1",
            Dead,
            Not,
            format!("save:0 unmount:/staging {ANEW}"),
        ),
        (
            None,
            "/staging@1",
            Live,
            Otherwise,
            format!("save:0 detach:v unmount:/staging {ANEW}"),
        ),
        (
            Some(staged()),
            "/staging@1",
            Live,
            AsRecorded,
            String::new(),
        ),
        (Some(staged()), "", Live, Not, ANEW.to_owned()),
        (
            Some(staged()),
            "",
            Live,
            AsRecorded,
            format!("detach:v {ANEW}"),
        ),
        (
            Some(published()),
            "/staging@1",
            Dead,
            Not,
            format!("unmount:/staging {ANEW}"),
        ),
        (
            Some(staged()),
            "/staging@1",
            Dead,
            AsRecorded,
            format!("detach:v unmount:/staging {ANEW}"),
        ),
        (
            Some(staged()),
            "/staging@1",
            Silent,
            AsRecorded,
            String::new(),
        ),
    ] {
        let seen = seen(mounts, health, served, &[]);
        let plan = stage(volume("v"), STAGING.into(), record.as_ref(), &seen).unwrap();
        assert_eq!(told(&plan), expected, "{record:?} {seen:?}");
    }
}

#[test]
fn staging_what_is_staged_otherwise_is_refused() {
    let seen = seen("/staging@1", Live, AsRecorded, &[]);
    let other = Volume {
        sub_path: SubPath::try_from(PathBuf::from("a")).ok(),
        ..volume("v")
    };
    for (volume, path) in [(other, STAGING), (volume("v"), "/elsewhere")] {
        let refused = stage(volume, path.into(), Some(&staged()), &seen);
        assert!(matches!(refused, Err(Refusal::Conflict(_))), "{refused:?}");
    }
}

#[test]
fn unstaging() {
    let done = "try-detach:v unmount:/staging forget:v";
    for (record, mounts, expected) in [
        (None, "", Ok(done.to_owned())),
        (Some(staged()), "/staging@1", Ok(done.to_owned())),
        // The pod's directory was cleaned by somebody else.
        (Some(published()), "/staging@1", Ok(done.to_owned())),
        (
            Some(published()),
            "/staging@1 /pods/1@1",
            Err("volume v is still published at /pods/1".to_owned()),
        ),
    ] {
        let table = seen(mounts, Live, Not, &[]).table;
        let plan = unstage(&id("v"), Path::new(STAGING), record.as_ref(), &table);
        let plan = plan.map(|p| told(&p)).map_err(|r| r.to_string());
        assert_eq!(plan, expected, "{record:?} {mounts}");
    }
    let refused = unstage(
        &id("v"),
        Path::new("/x"),
        Some(&staged()),
        &MountTable::default(),
    );
    assert!(matches!(refused, Err(Refusal::Precondition(_))));
}

#[test]
fn publishing() {
    let bind = "bind:/pods/1 flags:/pods/1:ro";
    for (record, mounts, health, served, expected) in [
        (
            staged(),
            "/staging@1",
            Live,
            AsRecorded,
            format!("save:1 mkdir:/pods/1 {bind}"),
        ),
        // Killed before the bind, between bind and flags, after both.
        (
            published(),
            "/staging@1",
            Live,
            AsRecorded,
            format!("mkdir:/pods/1 {bind}"),
        ),
        (
            published(),
            "/staging@1 /pods/1@1+nodev",
            Live,
            AsRecorded,
            "flags:/pods/1:ro".to_owned(),
        ),
        (
            published(),
            "/staging@1 /pods/1@1+nodev+ro",
            Live,
            AsRecorded,
            String::new(),
        ),
        // The FUSE host died: the target shows the dead mount.
        (
            published(),
            "/staging@1 /pods/1@1+ro",
            Dead,
            Not,
            format!("unmount:/staging {ANEW} unmount:/pods/1 {bind}"),
        ),
        // … and the volume is mounted again already.
        (
            published(),
            "/staging@2 /pods/1@1+ro",
            Live,
            AsRecorded,
            format!("unmount:/pods/1 {bind}"),
        ),
    ] {
        let seen = seen(mounts, health, served, &[]);
        let (staging, target) = (Path::new(STAGING), Path::new(TARGET));
        let plan = publish(&id("v"), staging, target, &ro(), Some(&record), &seen).unwrap();
        assert_eq!(told(&plan), expected, "{record:?} {seen:?}");
    }
}

#[test]
fn publishing_is_refused() {
    let good = seen("/staging@1", Live, AsRecorded, &[]);
    let silent = seen("/staging@1", Silent, AsRecorded, &[]);
    let more = Flags::from([Flag::Ro, Flag::NoExec]);
    let at = |record: Option<&Record>, staging: &str, flags, seen| {
        let (staging, target) = (Path::new(staging), Path::new(TARGET));
        publish(&id("v"), staging, target, &flags, record, seen).unwrap_err()
    };
    let unstaged = at(None, STAGING, ro(), &good);
    assert!(matches!(unstaged, Refusal::Precondition(_)));
    let elsewhere = at(Some(&staged()), "/x", ro(), &good);
    assert!(matches!(elsewhere, Refusal::Precondition(_)));
    let flags = at(Some(&published()), STAGING, more, &good);
    assert!(matches!(flags, Refusal::Conflict(_)));
    let silent = at(Some(&staged()), STAGING, ro(), &silent);
    assert!(matches!(silent, Refusal::Unavailable(_)));
}

#[test]
fn unpublishing() {
    let done = "unmount:/pods/1 rmdir:/pods/1";
    for (record, expected) in [
        (None, done.to_owned()),
        (Some(staged()), done.to_owned()),
        (Some(published()), format!("{done} save:0")),
    ] {
        let plan = unpublish(Path::new(TARGET), record.as_ref());
        assert_eq!(told(&plan), expected, "{record:?}");
    }
}

#[test]
fn repairing() {
    let bind = "bind:/pods/1 flags:/pods/1:ro";
    for (record, mounts, health, served, missing, expected) in [
        (
            published(),
            "/staging@1 /pods/1@1+ro",
            Live,
            AsRecorded,
            &[][..],
            String::new(),
        ),
        (
            published(),
            "/staging@1 /pods/1@1+ro",
            Dead,
            Not,
            &[],
            format!("unmount:/staging {ANEW} unmount:/pods/1 {bind}"),
        ),
        // After a reboot: nothing is mounted, the directories are there, or some of them.
        (published(), "", Live, Not, &[], format!("{ANEW} {bind}")),
        (
            published(),
            "",
            Live,
            Not,
            &[TARGET],
            format!("save:0 {ANEW}"),
        ),
        (
            published(),
            "",
            Live,
            Not,
            &[STAGING, TARGET],
            "forget:v".to_owned(),
        ),
        (
            staged(),
            "",
            Live,
            AsRecorded,
            &[STAGING],
            "detach:v forget:v".to_owned(),
        ),
        // A pod still uses what the kubelet thought to be gone.
        (
            published(),
            "/pods/1@1+ro",
            Live,
            Not,
            &[STAGING],
            format!("{ANEW} unmount:/pods/1 {bind}"),
        ),
        // Killed between bind and flags.
        (
            published(),
            "/staging@1 /pods/1@1",
            Live,
            AsRecorded,
            &[],
            "flags:/pods/1:ro".to_owned(),
        ),
        (
            published(),
            "/staging@1",
            Silent,
            AsRecorded,
            &[],
            String::new(),
        ),
        // A mount that no FUSE host answers for.
        (
            staged(),
            "/staging@1",
            Silent,
            Not,
            &[],
            format!("unmount:/staging {ANEW}"),
        ),
    ] {
        let seen = seen(mounts, health, served, missing);
        assert_eq!(told(&repair(&record, &seen)), expected, "{seen:?}");
    }
}

#[test]
fn orphans() {
    for (mounts, expected) in [
        ("", "detach:v"),
        ("/staging@1 /other@2", "detach:v unmount:/staging"),
        ("/staging@1 /pods/9@1", ""),
    ] {
        let table = seen(mounts, Live, Not, &[]).table;
        let plan = orphan(&id("v"), Path::new(STAGING), &table);
        assert_eq!(told(&plan), expected, "{mounts}");
    }
}
