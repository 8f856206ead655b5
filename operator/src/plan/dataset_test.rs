use super::*;
use crate::plan::{
    condition,
    mount::{Held, Row},
};
use forebay_client::Error as CallError;
use forebay_crds::CacheClusterStatus;
use forebay_proto::v1::Holder;
use forebay_types::Code;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn dataset(mounts: &Value) -> Dataset {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "D", "finalizers": [FINALIZER]},
        "spec": {"clusterRef": {"name": "c"}, "mounts": mounts},
    }))
    .unwrap()
}

fn one() -> Dataset {
    dataset(&json!([{"uri": "s3://b", "secretRef": {"name": "s"}}]))
}

fn cluster(namespace: &str, access: &[&str]) -> CacheCluster {
    serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": namespace, "uid": "C"},
        "spec": {"workers": [], "access": {"namespaces": access}},
    }))
    .unwrap()
}

fn not_ready_for(reason: &'static str) -> CacheCluster {
    let mut cluster = cluster("ns", &[]);
    let findings = [Finding::no(READY, reason, "")];
    cluster.status = Some(CacheClusterStatus {
        conditions: condition::merge(&[], &findings, None, at(0)),
        ..CacheClusterStatus::default()
    });
    cluster
}

fn fault(path: &str) -> BTreeMap<String, Fault> {
    let fault = Fault {
        reason: "StoreUnreachable",
        message: "no answer".to_owned(),
    };
    [(path.to_owned(), fault)].into()
}

fn claim(phase: &str) -> PersistentVolumeClaim {
    let metadata = json!({"name": "d", "namespace": "ns", "uid": "P"});
    serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
}

fn volume(holder: &str) -> PersistentVolume {
    let names = Names::of(&cluster("ns", &[]));
    let mut volume = volume::volume(
        &Key::new("ns", "d"),
        "D",
        &names,
        &Claimant::own(&Key::new("ns", "d"), "D"),
    );
    volume["spec"]["claimRef"]["uid"] = json!(holder);
    serde_json::from_value(volume).unwrap()
}

fn credentials(key: &str) -> Credentials {
    Credentials::new([("K".to_owned(), key.to_owned())].into())
}

fn row(uri: &str, key: &str) -> Row {
    Row {
        uri: uri.to_owned(),
        options: BTreeMap::new(),
        sync: "60s".parse().unwrap(),
        held: Held::Open(credentials(key)),
    }
}

/// What was observed, in good order.
struct Case {
    dataset: Dataset,
    cluster: Option<CacheCluster>,
    table: Option<Table>,
    silent_since: i64,
    workers: usize,
    faults: BTreeMap<String, Fault>,
    usage: BTreeMap<String, MountUsage>,
    secrets: BTreeMap<String, Secret>,
    attempts: BTreeMap<String, Attempt>,
    volume: Option<PersistentVolume>,
    claim: Option<PersistentVolumeClaim>,
    others: Vec<Other>,
    now: i64,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            dataset: one(),
            cluster: Some(cluster("ns", &[])),
            table: Some([("/ns/d".to_owned(), row("s3://b", "k"))].into()),
            silent_since: 0,
            workers: 1,
            faults: BTreeMap::new(),
            usage: BTreeMap::new(),
            secrets: [("s".to_owned(), Secret::Present(credentials("k")))].into(),
            attempts: BTreeMap::new(),
            volume: Some(volume("P")),
            claim: Some(claim("Bound")),
            others: Vec::new(),
            now: 1000,
        }
    }
}

impl Case {
    fn plan(&self) -> Plan {
        let nodes = [(1, "n1".to_owned())].into();
        plan(&Observed {
            dataset: &self.dataset,
            cluster: self.cluster.as_ref(),
            masters: match &self.table {
                Some(table) => Masters::Leading {
                    table,
                    workers: self.workers,
                    faults: &self.faults,
                    usage: &self.usage,
                    nodes: &nodes,
                },
                None => Masters::Silent {
                    since: at(self.silent_since),
                },
            },
            secrets: &self.secrets,
            attempts: &self.attempts,
            volume: self.volume.as_ref(),
            claim: self.claim.as_ref(),
            others: &self.others,
            now: at(self.now),
        })
    }

    fn failed(mut self, wanted: Option<Wanted>, code: Code, failures: u32) -> Case {
        let error = CallError::new(code, "the store's words");
        let outcome = Outcome::Failed {
            at: at(self.now),
            failures,
            error,
        };
        let attempt = Attempt { wanted, outcome };
        self.attempts.insert("/ns/d".to_owned(), attempt);
        self
    }

    fn deleted(mut self) -> Case {
        let mut value = serde_json::to_value(&self.dataset).unwrap();
        value["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:10:00Z");
        self.dataset = serde_json::from_value(value).unwrap();
        self
    }

    fn without_volume(self) -> Case {
        Case {
            volume: None,
            claim: None,
            ..self
        }
    }
}

/// Ready, Progressing and Degraded with their reasons; `!` before those that do not hold.
fn said(plan: &Plan) -> String {
    let of = |finding: &Finding| {
        let not = if finding.holds { "" } else { "!" };
        format!("{not}{}", finding.reason)
    };
    assert!(condition::merge(&[], &plan.findings, None, at(0)).len() == 3);
    plan.findings.iter().map(of).collect::<Vec<_>>().join(" ")
}

#[test]
fn conditions_say_what_is_the_matter() {
    let wanted = |key: &str| {
        Some(Wanted::new(
            "/ns/d",
            &one().spec.mounts[0],
            Some(credentials(key)),
        ))
    };
    let table = |uri: &str| Some([("/ns/d".to_owned(), row(uri, "k"))].into());
    let secret = |secret: Secret| [("s".to_owned(), secret)].into();
    let elsewhere = |access: &[&str]| Case {
        cluster: Some(cluster("other", access)),
        claim: None,
        volume: None,
        table: Some(Table::new()),
        ..Case::default()
    };
    let cases = vec![
        (Case::default(), "Readable !Settled !Healthy"),
        (
            Case {
                cluster: None,
                ..Case::default()
            },
            "!ClusterNotFound !Waiting !NotReady",
        ),
        (elsewhere(&["team"]), "!NotGranted !Waiting !NotReady"),
        (elsewhere(&["ns"]), "!Mounting Mounting !NotReady"),
        (elsewhere(&["*"]), "!Mounting Mounting !NotReady"),
        // What is in use goes on without the grant.
        (
            Case {
                table: table("s3://b"),
                ..elsewhere(&[])
            },
            "!VolumePending Binding !NotReady",
        ),
        (
            Case {
                table: None,
                ..Case::default()
            },
            "!MastersStarting !Waiting !NotReady",
        ),
        (
            Case {
                table: None,
                cluster: Some(not_ready_for("NoLeader")),
                ..Case::default()
            },
            "!MastersUnavailable !Waiting !NotReady",
        ),
        (
            Case {
                workers: 0,
                ..Case::default()
            },
            "!NoWorkers !Settled !NotReady",
        ),
        (
            Case {
                workers: 0,
                cluster: Some(not_ready_for("WorkersStarting")),
                ..Case::default()
            },
            "!WorkersStarting !Settled !NotReady",
        ),
        // What is wrong with its mounts comes first.
        (
            Case {
                workers: 0,
                secrets: secret(Secret::Absent),
                table: Some(Table::new()),
                ..Case::default()
            },
            "!SecretNotFound !Settled !NotReady",
        ),
        (
            Case {
                faults: fault("/ns/d"),
                ..Case::default()
            },
            "Readable !Settled StoreUnreachable",
        ),
        (
            Case {
                faults: fault("/ns/d/former"),
                ..Case::default()
            },
            "Readable !Settled !Healthy",
        ),
        (
            Case {
                secrets: secret(Secret::Absent),
                ..Case::default()
            },
            "Readable !Settled SecretNotFound",
        ),
        (
            Case {
                secrets: secret(Secret::Absent),
                table: Some(Table::new()),
                ..Case::default()
            },
            "!SecretNotFound !Settled !NotReady",
        ),
        (
            Case {
                secrets: secret(Secret::Unreadable("no".into())),
                ..Case::default()
            },
            "Readable !Settled SecretUnreadable",
        ),
        (
            Case {
                secrets: secret(Secret::Present(credentials("x"))),
                ..Case::default()
            },
            "Readable Mounting !Healthy",
        ),
        (
            Case {
                secrets: secret(Secret::Present(credentials("x"))),
                ..Case::default()
            }
            .failed(wanted("x"), Code::PermissionDenied, 1),
            "Readable !Settled AccessDenied",
        ),
        (
            Case {
                table: Some(Table::new()),
                ..Case::default()
            }
            .failed(wanted("k"), Code::NotFound, 1),
            "!StoreNotFound !Settled !NotReady",
        ),
        (
            Case {
                table: table("s3://old"),
                ..Case::default()
            },
            "!Mounting Mounting !NotReady",
        ),
        (
            Case {
                claim: Some(claim("Pending")),
                ..Case::default()
            },
            "!VolumePending Binding !NotReady",
        ),
        (
            Case {
                claim: Some(claim("Lost")),
                ..Case::default()
            },
            "!VolumeReplaced Binding !NotReady",
        ),
    ];
    for (case, expected) in cases {
        assert_eq!(said(&case.plan()), expected);
    }
}

#[test]
fn in_good_order_there_is_nothing_to_do() {
    let plan = Case::default().plan();
    assert!(plan.finalizer && plan.calls.is_empty() && plan.volume.is_empty());
    let kinds: Vec<_> = plan.apply.iter().map(|o| o["kind"].clone()).collect();
    assert_eq!(kinds, ["PersistentVolume", "PersistentVolumeClaim"]);
    let csi = &plan.apply[0]["spec"]["csi"];
    assert_eq!(
        (&csi["volumeHandle"], &csi["volumeAttributes"]["path"]),
        (&json!("D"), &json!("/ns/d"))
    );
}

#[test]
fn outer_mounts_come_before_those_inside_and_leftovers_go() {
    let mounts = json!([
        {"uri": "s3://b", "path": "/", "options": {"anonymous": "true"}},
        {"uri": "s3://c", "path": "/in", "options": {"anonymous": "true"}},
    ]);
    let anonymous = |uri: &str| Row {
        options: [("anonymous".to_owned(), "true".to_owned())].into(),
        held: Held::Nothing,
        ..row(uri, "")
    };
    let mut case = Case {
        dataset: dataset(&mounts),
        table: Some([("/ns/d/old".to_owned(), anonymous("s3://x"))].into()),
        ..Case::default()
    };
    let calls = |case: &Case| -> Vec<String> {
        let path = |call: Call| match call {
            Call::Mount(wanted) => format!("+{}", wanted.path),
            Call::Unmount(path) => format!("-{path}"),
        };
        case.plan().calls.into_iter().map(path).collect()
    };
    assert_eq!(calls(&case), ["-/ns/d/old", "+/ns/d"]);
    case.table = Some([("/ns/d".to_owned(), anonymous("s3://b"))].into());
    assert_eq!(calls(&case), ["+/ns/d/in"]);
}

#[test]
fn a_claim_that_was_made_anew_gets_the_volume() {
    let case = Case {
        volume: Some(volume("former")),
        ..Case::default()
    };
    let plan = case.plan();
    assert_eq!(plan.volume, [claim::Act::Release("forebay-D".into())]);
    assert!(!plan.findings[0].holds);
}

#[test]
fn the_claim_comes_when_the_volume_can_be_had() {
    let kinds = |volume: Option<PersistentVolume>, claim: Option<PersistentVolumeClaim>| {
        let case = Case {
            volume,
            claim,
            ..Case::default()
        };
        let apply = case.plan().apply;
        let kinds = apply.iter().map(|o| o["kind"].as_str().unwrap().len());
        kinds.collect::<Vec<_>>()
    };
    let [volume_only, both] = [vec![16], vec![16, 21]];
    let with = |phase: &str, holder: Option<&str>| {
        let mut volume = serde_json::to_value(volume(holder.unwrap_or_default())).unwrap();
        volume["status"] = json!({"phase": phase});
        if holder.is_none() {
            volume["spec"]["claimRef"]["uid"] = Value::Null;
        }
        serde_json::from_value::<PersistentVolume>(volume).ok()
    };
    assert_eq!(kinds(None, None), volume_only);
    assert_eq!(kinds(with("Pending", None), None), volume_only);
    assert_eq!(kinds(with("Released", Some("gone")), None), volume_only);
    assert_eq!(kinds(with("Released", None), None), volume_only);
    assert_eq!(kinds(with("Available", None), None), both);
    assert_eq!(kinds(with("Bound", Some("P")), Some(claim("Bound"))), both);
}

#[test]
fn a_claim_that_went_astray_is_made_anew() {
    let mut astray = claim("Bound");
    let spec = json!({"volumeName": "somebody-elses"});
    astray.spec = serde_json::from_value(spec).unwrap();
    let plan = Case {
        claim: Some(astray),
        ..Case::default()
    }
    .plan();
    let delete = claim::Act::DeleteClaim(Key::new("ns", "d"), "P".into());
    assert!(plan.volume == [delete] && plan.apply.is_empty());
}

#[test]
fn a_volume_of_another_cluster_is_replaced() {
    let mut other = cluster("ns", &[]);
    other.metadata.uid = Some("C2".to_owned());
    let mut case = Case {
        cluster: Some(other),
        ..Case::default()
    };
    let plan = case.plan();
    assert!(plan.apply.is_empty());
    let delete = claim::Act::DeleteClaim(Key::new("ns", "d"), "P".into());
    assert_eq!(plan.volume, [delete]);
    case.claim = None;
    let delete = claim::Act::DeleteVolume("forebay-D".into(), String::new());
    assert_eq!(case.plan().volume, [delete]);
    case.volume = None;
    assert_eq!(case.plan().apply.len(), 1);
}

#[test]
fn it_goes_by_claim_and_volume_and_mounts() {
    let plan = Case::default().deleted().plan();
    assert_eq!(
        plan.volume,
        [claim::Act::DeleteClaim(Key::new("ns", "d"), "P".into())]
    );
    assert!(plan.finalizer && plan.calls.is_empty());
    assert_eq!(said(&plan), "!Deleting Deleting !NotReady");
    let plan = Case {
        claim: None,
        ..Case::default()
    }
    .deleted()
    .plan();
    assert!(matches!(plan.volume[..], [claim::Act::DeleteVolume(..)]) && plan.finalizer);
    let plan = Case::default().without_volume().deleted().plan();
    assert_eq!(plan.calls, [Call::Unmount("/ns/d".into())]);
    assert!(plan.finalizer);
    let unmounted = Case {
        table: Some(Table::new()),
        ..Case::default()
    };
    assert!(!unmounted.without_volume().deleted().plan().finalizer);
}

#[test]
fn it_is_let_go_when_nobody_can_unmount_it() {
    // Deleted at 600; masters silent since 590.
    let silent = |now| {
        let case = Case {
            table: None,
            silent_since: 590,
            now,
            ..Case::default()
        };
        case.without_volume().deleted().plan()
    };
    let waits = silent(630);
    assert!(waits.finalizer && waits.again == Some(Duration::from_secs(30)));
    let gone = silent(660);
    assert!(!gone.finalizer && gone.note.unwrap().0 == "LetGo");
    let refused = |failures| {
        let case = Case::default().failed(None, Code::InvalidArgument, failures);
        case.without_volume().deleted().plan()
    };
    assert!(refused(4).finalizer && !refused(5).finalizer);
    let orphan = Case {
        cluster: None,
        table: None,
        ..Case::default()
    };
    assert!(!orphan.without_volume().deleted().plan().finalizer);
    // A call under way may still mount it.
    let mut running = Case {
        table: Some(Table::new()),
        ..Case::default()
    };
    let outcome = Outcome::Running {
        since: at(999),
        failures: 0,
    };
    let wanted = Wanted::new("/ns/d", &one().spec.mounts[0], None);
    let attempt = Attempt {
        wanted: Some(wanted),
        outcome,
    };
    running.attempts.insert("/ns/d".into(), attempt);
    assert!(running.without_volume().deleted().plan().finalizer);
}

fn other(uid: &str, claim: Option<&str>) -> Other {
    let names = Names::of(&cluster("ns", &[]));
    let claimant = Claimant {
        handle: uid.to_owned(),
        ..Claimant::own(&Key::new("team", "mine"), uid)
    };
    let mut volume = volume::volume(&Key::new("ns", "d"), "D", &names, &claimant);
    volume["metadata"]["uid"] = json!(format!("V{uid}"));
    Other {
        volume: Arc::new(serde_json::from_value(volume).unwrap()),
        claim: claim.map(|name| Key::new("team", name)),
    }
}

#[test]
fn volumes_go_with_the_claims_that_users_made() {
    let case = Case {
        others: vec![other("A", Some("mine")), other("B", None)],
        ..Case::default()
    };
    let gone = claim::Act::DeleteVolume("forebay-B".to_owned(), "VB".to_owned());
    assert_eq!(case.plan().volume, std::slice::from_ref(&gone));
    let mut going = dataset(&json!([{"uri": "s3://b"}]));
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        at(900),
    ));
    let case = Case {
        dataset: going,
        volume: None,
        claim: None,
        ..case
    };
    let plan = case.plan();
    assert!(plan.finalizer && plan.calls.is_empty(), "in use");
    assert_eq!(plan.volume, [gone]);
    assert_eq!(
        plan.findings[0].message,
        "it is used by PersistentVolumeClaim team/mine: it goes when they are deleted"
    );
    let case = Case {
        others: Vec::new(),
        ..case
    };
    assert_eq!(case.plan().calls, [Call::Unmount("/ns/d".to_owned())]);
}

#[test]
fn pods_are_told_where_the_data_is_as_long_as_workers_say_so() {
    let nodes = |cached_bytes: u64, workers: usize| {
        let holders = vec![Holder {
            worker: 1,
            cached_bytes,
        }];
        let usage = MountUsage {
            cached_bytes,
            holders,
            ..MountUsage::default()
        };
        let case = Case {
            usage: [("/ns/d".to_owned(), usage)].into(),
            others: vec![other("A", Some("mine"))],
            workers,
            ..Case::default()
        };
        let Placement { targets, nodes } = case.plan().placement?;
        // That of a claim that a user made goes with it.
        let [_, of_user] = &targets[..] else {
            panic!("both: {targets:?}");
        };
        assert_eq!(of_user.claim, Key::new("team", "mine"));
        assert_eq!(of_user.owner.uid, "A");
        Some(nodes)
    };
    assert_eq!(nodes(5, 1), Some(vec![("n1".to_owned(), 100)]));
    assert_eq!(nodes(0, 1), Some(Vec::new()));
    assert_eq!(nodes(5, 0), None, "it stays as it is");
    assert_eq!(Case::default().plan().placement, None, "not known yet");
}
