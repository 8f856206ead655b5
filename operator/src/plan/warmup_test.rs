use super::*;
use crate::plan::condition;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CREATED: i64 = 1_000_000;
/// A quarter to three, of a night.
const NOW: &str = "2026-01-10T02:45:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn policy(spec: &Value) -> WarmupPolicy {
    let mut value = json!({
        "metadata": {
            "name": "w", "namespace": "ns", "uid": "W", "generation": 3, "finalizers": [FINALIZER],
            "creationTimestamp": "2026-01-09T12:00:00Z",
        },
        "spec": spec,
    });
    value["spec"]["datasetRef"] = json!({"name": "d"});
    serde_json::from_value(value).unwrap()
}

fn dataset(ready: bool, reason: &str) -> Dataset {
    let mut dataset: Dataset = serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "D"},
        "spec": {"clusterRef": {"name": "c"}, "mounts": [{"uri": "s3://b"}]},
    }))
    .unwrap();
    let status = if ready { "True" } else { "False" };
    let condition = json!({
        "type": "Ready", "status": status, "reason": reason, "message": "why", "lastTransitionTime": NOW,
    });
    dataset.status = serde_json::from_value(json!({"conditions": [condition]})).unwrap();
    dataset
}

fn warmup(run: &str, ended: Option<&str>, done: u64, failed: u64) -> Warmup {
    Warmup {
        run: run.to_owned(),
        started: at("2026-01-10T02:00:00.7Z"),
        ended: ended.map(at),
        progress: v1::JobProgress {
            files_total: 10,
            bytes_total: 1000,
            listed: true,
            files_done: done,
            bytes_done: done * 100,
            files_failed: failed,
            failures: (0..failed)
                .map(|n| v1::Failure {
                    path: format!("/ns/d/train/{n}").into_bytes().into(),
                    reason: "no such key".to_owned(),
                })
                .collect(),
            ..v1::JobProgress::default()
        },
        eta: Some(Duration::from_secs(90)),
        workers: 2,
    }
}

/// A policy whose Dataset is ready, and which the masters have not heard of.
struct Case {
    policy: WarmupPolicy,
    dataset: Option<Dataset>,
    warmups: Warmups,
    leads: bool,
    workers: u32,
    seen: String,
    attempt: Option<Attempt>,
    now: String,
}

impl Case {
    fn new(spec: &Value) -> Case {
        Case {
            policy: policy(spec),
            dataset: Some(dataset(true, "Readable")),
            warmups: Warmups::Known(BTreeMap::new()),
            leads: true,
            workers: 2,
            seen: NOW.to_owned(),
            attempt: None,
            now: NOW.to_owned(),
        }
    }

    fn at(mut self, now: &str) -> Case {
        now.clone_into(&mut self.now);
        now.clone_into(&mut self.seen);
        self
    }

    fn knows(mut self, warmup: Warmup) -> Case {
        self.warmups = Warmups::Known([("W".to_owned(), warmup)].into());
        self
    }

    fn status(mut self, status: Value) -> Case {
        self.policy.status = serde_json::from_value(status).unwrap();
        self
    }

    fn deleted(mut self) -> Case {
        let mut value = serde_json::to_value(&self.policy).unwrap();
        value["metadata"]["deletionTimestamp"] = json!("2026-01-10T02:44:30Z");
        self.policy = serde_json::from_value(value).unwrap();
        self
    }

    fn tried(mut self, call: Call, failed: Option<(u32, Code)>) -> Case {
        let failed = failed.map(|(n, code)| (n, CallError::new(code, "the master's words")));
        let at = at(&self.now);
        self.attempt = Some(Attempt { call, at, failed });
        self
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            policy: &self.policy,
            dataset: self.dataset.as_ref(),
            masters: if self.leads {
                Masters::Leading {
                    warmups: &self.warmups,
                    workers: self.workers,
                    seen: at(&self.seen),
                }
            } else {
                Masters::Silent {
                    since: Timestamp::from_second(CREATED).unwrap(),
                }
            },
            attempt: self.attempt.as_ref(),
            now: at(&self.now),
        })
    }

    /// Name of the run that is to be started.
    fn starts(&self) -> Option<String> {
        match self.plan().call {
            Some(Call::Start(request)) => Some(request.run),
            _ => None,
        }
    }

    fn said(&self) -> String {
        said(&self.plan())
    }
}

/// Ready, Progressing, Complete, Degraded with their reasons; `!` before those that do not hold.
fn said(plan: &Plan) -> String {
    let of = |finding: &Finding| {
        let not = if finding.holds { "" } else { "!" };
        format!("{not}{}", finding.reason)
    };
    assert!(!condition::merge(&[], &plan.findings, None, at(NOW)).is_empty());
    plan.findings.iter().map(of).collect::<Vec<_>>().join(" ")
}

fn once() -> Case {
    Case::new(&json!({}))
}

fn nightly() -> Case {
    let schedule = json!({"cron": "30 3 * * *", "timeZone": "Europe/Berlin"});
    Case::new(&json!({"schedule": schedule}))
}

fn next(plan: &Plan) -> String {
    let next = plan.status.next_run_time.as_ref();
    next.map_or(String::new(), |time| time.0.to_string())
}

#[test]
fn conditions_say_what_it_waits_for_and_how_it_ended() {
    let ended = Some("2026-01-10T02:40:00Z");
    let changed = |change: &dyn Fn(&mut Case)| {
        let mut case = once();
        change(&mut case);
        case
    };
    let bad_zone = json!({"schedule": {"cron": "0 3 * * *", "timeZone": "Europe/Atlantis"}});
    let cases = vec![
        (once(), "Accepted Starting !Waiting !Healthy"),
        (
            changed(&|c| c.dataset = None),
            "!DatasetNotFound !Waiting !Waiting !NotReady",
        ),
        (
            changed(&|c| c.dataset = Some(dataset(false, "AccessDenied"))),
            "!DatasetNotReady !Waiting !Waiting !NotReady",
        ),
        (
            changed(&|c| c.leads = false),
            "!MastersUnavailable !Waiting !Waiting !NotReady",
        ),
        (
            changed(&|c| c.warmups = Warmups::TooOld),
            "!MastersTooOld !Waiting !Waiting !NotReady",
        ),
        (
            changed(&|c| c.warmups = Warmups::Unknown),
            "!Waiting !Waiting !Waiting !NotReady",
        ),
        (
            Case::new(&bad_zone),
            "!InvalidTimeZone !Waiting !Waiting !NotReady",
        ),
        (
            once().knows(warmup("g3", None, 4, 0)),
            "Accepted Running !Running !Healthy",
        ),
        (
            once().knows(warmup("g3", None, 4, 1)),
            "Accepted Running !Running FilesFailed",
        ),
        (
            once().knows(warmup("g3", ended, 10, 0)),
            "Accepted !Settled Succeeded !Healthy",
        ),
        (
            once().knows(warmup("g3", ended, 9, 1)),
            "Accepted !Settled !FilesFailed FilesFailed",
        ),
        (
            once().knows(warmup("g3", ended, 9, 0)),
            "Accepted !Settled !Incomplete !Healthy",
        ),
        // It was edited.
        (
            once().knows(warmup("g2", ended, 10, 0)),
            "Accepted Starting !Waiting !Healthy",
        ),
        (
            nightly().knows(warmup("g3-t1", ended, 10, 0)),
            "Scheduled Starting Succeeded !Healthy",
        ),
    ];
    for (n, (case, expected)) in cases.into_iter().enumerate() {
        assert_eq!(case.said(), expected, "{n}");
    }
    let message = once().knows(warmup("g3", ended, 8, 2)).plan().findings[3]
        .message
        .clone();
    assert_eq!(
        message,
        "2 files could not be brought: train/0: no such key; status.run.failed has the first of them"
    );
}

#[test]
fn the_masters_get_what_the_policy_says() {
    let start = |case: &Case| match case.plan().call {
        Some(Call::Start(request)) => *request,
        other => panic!("{other:?}"),
    };
    let request = start(&once());
    assert_eq!((request.name.as_str(), request.run.as_str()), ("W", "g3"));
    let spec = request.spec.unwrap();
    let all = v1::WarmupSpec {
        path: "/ns/d".into(),
        copies: 1,
        ..v1::WarmupSpec::default()
    };
    assert_eq!(spec, all);
    let case = Case::new(&json!({
        "include": ["train/**", "*.json"], "newerThan": "1500ms", "placement": {"everyNode": {}},
        "pin": true, "limits": {"bandwidth": "200Mi"},
    }));
    let spec = start(&case).spec.unwrap();
    let some = v1::WarmupSpec {
        include: vec!["train/**".to_owned(), "*.json".to_owned()],
        newer_than_s: 2,
        copies: 0,
        pin: true,
        bandwidth: 200 << 20,
        ..all
    };
    assert_eq!(spec, some);
    let two = Case::new(&json!({"placement": {"replicas": 2}}));
    assert_eq!(start(&two).spec.unwrap().copies, 2);
}

#[test]
fn once_is_once_for_each_generation() {
    let ended = Some("2026-01-10T02:40:00Z");
    assert_eq!(once().starts().as_deref(), Some("g3"));
    assert_eq!(once().knows(warmup("g3", None, 1, 0)).starts(), None);
    assert_eq!(once().knows(warmup("g3", ended, 10, 0)).starts(), None);
    assert_eq!(
        once().knows(warmup("g2", None, 1, 0)).starts().as_deref(),
        Some("g3")
    );
    // Masters that were restored from a backup, or are others, know nothing of it.
    let before = once().knows(warmup("g3", ended, 10, 0)).plan().status;
    let mut forgotten = once();
    forgotten.policy.status = Some(before);
    assert_eq!(forgotten.starts().as_deref(), Some("g3"));
}

#[test]
fn a_start_is_made_once_and_again_after_a_while() {
    let call = || once().plan().call.unwrap();
    // The masters were asked before it was started.
    let started = once().tried(call(), None);
    let plan = started.plan();
    assert!(plan.call.is_none());
    assert_eq!(said(&plan), "Accepted Running !Running !Healthy");
    assert_eq!(plan.status.run.unwrap().generation, 3);
    // They were asked after it, and have nothing.
    let mut lost = once().tried(call(), None);
    lost.attempt.as_mut().unwrap().at = at("2026-01-10T02:44:00Z");
    assert!(lost.starts().is_some());
    let refused = once().tried(call(), Some((2, Code::InvalidArgument)));
    let plan = refused.plan();
    assert!(plan.call.is_none() && plan.again == Some(Duration::from_secs(4)));
    assert_eq!(said(&plan), "!InvalidWarmup !Waiting !Waiting !NotReady");
    assert_eq!(plan.findings[0].message, "the master's words");
    let later = Case {
        now: "2026-01-10T02:45:04Z".to_owned(),
        ..refused
    };
    assert!(later.starts().is_some());
}

#[test]
fn every_node_is_also_those_that_come_later() {
    let ended = Some("2026-01-10T02:40:00Z");
    let every = |warmup: Warmup, workers: u32| {
        let case = Case::new(&json!({"placement": {"everyNode": {}}})).knows(warmup);
        Case { workers, ..case }.starts()
    };
    assert_eq!(every(warmup("g3", ended, 10, 0), 2), None);
    assert_eq!(every(warmup("g3", ended, 10, 0), 1), None);
    assert_eq!(
        every(warmup("g3", ended, 10, 0), 3).as_deref(),
        Some("g3-w3")
    );
    // Masters that do not keep for how many it was: the name tells.
    let forgetful = |run: &str| Warmup {
        workers: 0,
        ..warmup(run, ended, 10, 0)
    };
    assert_eq!(every(forgetful("g3-w2"), 2), None);
    assert_eq!(every(forgetful("g3-w2"), 3).as_deref(), Some("g3-w3"));
    assert_eq!(every(forgetful("g3"), 3), None);
    assert_eq!(
        every(warmup("g2-w3", ended, 10, 0), 3).as_deref(),
        Some("g3-w3")
    );
    // As soon as the run has ended.
    assert_eq!(every(warmup("g3", None, 4, 0), 3), None);
    assert_eq!(every(warmup("g3-w3", ended, 4, 0), 3), None);
    assert_eq!(
        every(warmup("g3-t5", ended, 4, 0), 4).as_deref(),
        Some("g3-t5-w4")
    );
    let one = once().knows(warmup("g3", ended, 10, 0));
    assert_eq!(Case { workers: 9, ..one }.starts(), None);
}

#[test]
fn a_schedule_runs_at_its_times() {
    let first = nightly().at("2026-01-09T12:00:01Z");
    let plan = first.plan();
    assert!(plan.call.is_none() && plan.again == Some(LOOK));
    assert_eq!(next(&plan), "2026-01-10T02:30:00Z");
    assert_eq!(said(&plan), "Scheduled !Settled !Waiting !Healthy");
    let promised = json!({"observedGeneration": 3, "nextRunTime": "2026-01-10T02:30:00Z"});
    let early = nightly()
        .status(promised.clone())
        .at("2026-01-10T02:29:50Z");
    assert_eq!(
        (early.starts(), early.plan().again),
        (None, Some(Duration::from_secs(10)))
    );
    let due = nightly()
        .status(promised.clone())
        .at("2026-01-10T02:30:00Z");
    let run = due.starts().unwrap();
    assert_eq!(run, "g3-t1768012200");
    // The promise holds until it is started.
    assert_eq!(next(&due.plan()), "2026-01-10T02:30:00Z");
    let started = nightly()
        .status(promised.clone())
        .at("2026-01-10T02:30:00Z");
    let started = started.tried(due.plan().call.unwrap(), None);
    assert_eq!(
        (started.starts(), next(&started.plan())),
        (None, "2026-01-11T02:30:00Z".into())
    );
    // Another operator, which does not remember that it was.
    let known = nightly()
        .status(promised.clone())
        .knows(warmup(&run, None, 1, 0));
    assert_eq!(
        (known.starts(), next(&known.plan())),
        (None, "2026-01-11T02:30:00Z".into())
    );
    // The previous one goes on: one is left out.
    let busy = nightly()
        .status(promised)
        .knows(warmup("g3-t5", None, 1, 0));
    assert_eq!(
        (busy.starts(), next(&busy.plan())),
        (None, "2026-01-11T02:30:00Z".into())
    );
}

#[test]
fn of_runs_that_were_missed_the_latest_is_made_up_for() {
    let promised = json!({"observedGeneration": 3, "nextRunTime": "2026-01-03T02:30:00Z"});
    let away = nightly().status(promised.clone());
    assert_eq!(away.starts().as_deref(), Some("g3-t1768012200"));
    // Also what was missed before anybody saw it.
    assert_eq!(nightly().starts().as_deref(), Some("g3-t1768012200"));
    // It waits for its Dataset, too.
    let mut waits = nightly().status(promised);
    waits.dataset = None;
    let plan = waits.plan();
    assert!(plan.call.is_none() && next(&plan) == "2026-01-03T02:30:00Z");
    // An edit is no reason to run.
    let edited =
        nightly().status(json!({"observedGeneration": 2, "nextRunTime": "2026-01-03T02:30:00Z"}));
    assert_eq!(
        (edited.starts(), next(&edited.plan())),
        (None, "2026-01-11T02:30:00Z".into())
    );
}

#[test]
fn the_status_has_what_the_masters_say() {
    let plan = once().knows(warmup("g3", None, 4, 1)).plan();
    let run = plan.status.run.unwrap();
    assert_eq!(run.start_time.0, at("2026-01-10T02:00:00Z"));
    assert_eq!(
        (run.files.total, run.files.done, run.files.failed),
        (10, 4, 1)
    );
    assert_eq!(run.failed()[0].path, "train/0");
    assert_eq!(
        run.estimated_completion_time.unwrap().0,
        at("2026-01-10T02:46:30Z")
    );
    let summary = plan.status.summary.unwrap();
    assert_eq!(
        (
            summary.progress.as_str(),
            summary.files.as_str(),
            summary.eta.as_deref()
        ),
        ("40%", "4/10", Some("90s"))
    );
    assert_eq!(plan.status.last_success_time, None);
    let done = once()
        .knows(warmup("g3", Some("2026-01-10T02:40:00Z"), 10, 0))
        .plan();
    assert_eq!(
        done.status.last_success_time.clone().unwrap().0,
        at("2026-01-10T02:40:00Z")
    );
    let summary = done.status.summary.clone().unwrap();
    assert_eq!((summary.progress.as_str(), summary.eta), ("100%", None));
    // Masters that nobody reaches take nothing back.
    let mut silent = once();
    silent.policy.status = Some(done.status.clone());
    silent.leads = false;
    let plan = silent.plan();
    assert_eq!(plan.status.run, done.status.run);
    assert_eq!(
        said(&plan),
        "!MastersUnavailable !Waiting Succeeded !NotReady"
    );
}

#[test]
fn it_goes_when_the_masters_have_let_go_or_nobody_can_be_asked() {
    let going = || once().knows(warmup("g3", None, 1, 0)).deleted();
    let plan = going().plan();
    assert!(plan.finalizer && plan.call == Some(Call::Remove));
    assert!(!going().tried(Call::Remove, None).plan().finalizer);
    let failed = |n| going().tried(Call::Remove, Some((n, Code::Timeout))).plan();
    assert!(failed(1).finalizer && failed(1).again == Some(Duration::from_secs(2)));
    assert!(!failed(5).finalizer && failed(5).note.unwrap().0 == "LetGo");
    // What was called before does not count.
    let started = going().tried(once().plan().call.unwrap(), None).plan();
    assert_eq!(started.call, Some(Call::Remove));
    // The Dataset went first.
    let orphan = Case {
        dataset: None,
        ..going()
    };
    assert_eq!(orphan.plan().call, Some(Call::Remove));
    // Deleted at 02:44:30; masters silent for ages.
    let silent = |now: &str| {
        let case = Case {
            leads: false,
            ..going()
        };
        case.at(now).plan()
    };
    let waits = silent("2026-01-10T02:45:00Z");
    assert!(waits.finalizer && waits.again == Some(Duration::from_secs(30)));
    let gone = silent("2026-01-10T02:45:30Z");
    assert!(!gone.finalizer && gone.note.is_some());
    let old = Case {
        warmups: Warmups::TooOld,
        ..going()
    };
    assert!(!old.plan().finalizer);
    let case = going();
    let nowhere = plan_of_nowhere(&case);
    assert!(!nowhere.finalizer && nowhere.note.is_none());
}

fn plan_of_nowhere(case: &Case) -> Plan {
    plan(&Observed {
        policy: &case.policy,
        dataset: None,
        masters: Masters::Absent,
        attempt: None,
        now: at(NOW),
    })
}

#[test]
fn runs_are_named_so_that_they_can_be_told_apart() {
    for name in ["g3", "g3-t1700000000", "g3-w4", "g3-t1700000000-w4"] {
        assert_eq!(Run::parse(name).unwrap().name(), name);
    }
    for name in ["", "3", "g", "g3-", "g3-x1", "g3-t", "nightly"] {
        assert_eq!(Run::parse(name), None, "{name}");
    }
}
