//! A WarmupPolicy: when the masters are to run it, how far it is, and its end.

use crate::plan::{
    condition::{Finding, PROGRESSING, READY},
    dataset::LET_GO_AFTER,
    mount,
    name::{FINALIZER, Key, cluster_of, root, uid},
    schedule::Times,
    view::{Warmup, Warmups},
    warmup_status::{current, findings, is_success},
};
use forebay_client::Error as CallError;
use forebay_crds::{Dataset, Placement, WarmupPolicy, WarmupPolicyStatus, WarmupPolicySummary};
use forebay_proto::v1;
use forebay_types::Code;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;
use std::time::Duration;

/// Masters that refuse so often to end a warm-up do not keep a policy from going.
const REFUSALS: u32 = 5;
/// It is looked at so often at least while it waits for its time: clocks are set, and machines sleep.
const LOOK: Duration = Duration::from_mins(5);

/// What was observed.
pub struct Observed<'a> {
    /// The policy.
    pub policy: &'a WarmupPolicy,
    /// Its Dataset.
    pub dataset: Option<&'a Dataset>,
    /// The masters of the Dataset's cluster, or of the one that it was last in.
    pub masters: Masters<'a>,
    /// The last call about it.
    pub attempt: Option<&'a Attempt>,
    /// The time.
    pub now: Timestamp,
}

/// What is known of the masters.
#[derive(Clone, Copy)]
pub enum Masters<'a> {
    /// There is no such cluster.
    Absent,
    /// Nobody who leads has answered.
    Silent {
        /// Since when.
        since: Timestamp,
    },
    /// The one that leads has.
    Leading {
        /// What it said of warm-ups.
        warmups: &'a Warmups,
        /// How many workers report to it.
        workers: u32,
        /// When it was asked.
        seen: Timestamp,
    },
}

/// The last call about a policy.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was asked for.
    pub call: Call,
    /// When it ended.
    pub at: Timestamp,
    /// How often the same failed in a row, and how the last time.
    pub failed: Option<(u32, CallError)>,
}

/// A call to the masters.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Start this run.
    Start(Box<v1::StartWarmupRequest>),
    /// End the warm-up.
    Remove,
}

impl Call {
    /// Whether it asks for the same as `other`; settings are those of the run's generation.
    pub fn is_as(&self, other: &Call) -> bool {
        match (self, other) {
            (Call::Start(a), Call::Start(b)) => a.run == b.run,
            (a, b) => a == b,
        }
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Whether the policy is to have our finalizer.
    pub finalizer: bool,
    /// The call to make now.
    pub call: Option<Call>,
    /// What the conditions are to say.
    pub findings: Vec<Finding>,
    /// The rest of the status.
    pub status: WarmupPolicyStatus,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
    /// To be told as an event beside the conditions: reason and message.
    pub note: Option<(&'static str, String)>,
}

/// A run by its name at the masters: `g3`, `g3-t1700000000` of a schedule, `g3-w4` on every node, when 4 workers served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) generation: i64,
    /// When the schedule has it, in seconds.
    time: Option<i64>,
    /// How many workers served, if it is for all of them: masters do not keep that when it has ended.
    workers: Option<u32>,
}

impl Run {
    pub(super) fn parse(name: &str) -> Option<Run> {
        let mut parts = name.split('-');
        let mut run = Run {
            generation: parts.next()?.strip_prefix('g')?.parse().ok()?,
            time: None,
            workers: None,
        };
        for part in parts {
            match part.split_at_checked(1)? {
                ("t", time) => run.time = Some(time.parse().ok()?),
                ("w", workers) => run.workers = Some(workers.parse().ok()?),
                _ => return None,
            }
        }
        Some(run)
    }

    fn name(&self) -> String {
        let time = self.time.map(|time| format!("-t{time}"));
        let workers = self.workers.map(|workers| format!("-w{workers}"));
        format!(
            "g{}{}{}",
            self.generation,
            time.unwrap_or_default(),
            workers.unwrap_or_default()
        )
    }
}

/// Decides.
pub fn plan(observed: &Observed<'_>) -> Plan {
    if observed.policy.metadata.deletion_timestamp.is_some() {
        return leave(observed);
    }
    let policy = observed.policy;
    let times = policy.spec.schedule.as_ref().map(Times::new).transpose();
    let mut due = Due::default();
    if let Ok(Some(times)) = &times {
        due = due_by(observed, times);
    } else if times.is_ok() {
        due.run = once(observed);
    }
    due.run = due.run.map(|run| Run {
        workers: everywhere(observed),
        ..run
    });
    due.run = due.run.or_else(|| for_more_workers(observed));
    let blocked = match &times {
        Err((reason, message)) => Some((*reason, message.clone())),
        Ok(_) => blocked(observed),
    };
    let mut plan = Plan {
        finalizer: true,
        ..Plan::default()
    };
    let mut trouble = None;
    if let Some(run) = due.run.filter(|_| blocked.is_none()) {
        let call = start(observed, &run);
        let attempt = observed.attempt.filter(|a| a.call.is_as(&call));
        match attempt.and_then(|a| Some((a, a.failed.as_ref()?))) {
            Some((attempt, (failures, error))) => {
                trouble = Some((reason(error.code), error.message.clone()));
                let retry = attempt.at + signed(mount::wait(*failures));
                match left(retry, observed.now) {
                    Some(wait) => plan.again = Some(wait),
                    None => plan.call = Some(call),
                }
            }
            None => plan.call = Some(call),
        }
    }
    let before = policy.status.as_ref();
    let run = current(observed);
    let blocked = blocked.or(trouble);
    plan.findings = findings(
        observed,
        blocked,
        run.as_ref(),
        plan.call.is_some(),
        due.next,
    );
    let completion = run.as_ref().filter(|run| is_success(run));
    let success = completion.and_then(|run| run.completion_time.clone());
    let seconds = |time: Timestamp| Time(whole(time));
    plan.status = WarmupPolicyStatus {
        observed_generation: policy.metadata.generation,
        conditions: Vec::new(),
        summary: run
            .as_ref()
            .map(|run| WarmupPolicySummary::of(run, &seconds(seen(observed)))),
        last_success_time: success.or_else(|| before.and_then(|s| s.last_success_time.clone())),
        next_run_time: due.next.map(seconds),
        run,
    };
    let next = due.next.and_then(|next| left(next, observed.now));
    plan.again = plan
        .again
        .into_iter()
        .chain(next.map(|n| n.min(LOOK)))
        .min();
    plan
}

/// When the masters were asked what the status is made of.
pub(super) fn seen(observed: &Observed<'_>) -> Timestamp {
    match observed.masters {
        Masters::Leading { seen, .. } => seen,
        Masters::Absent | Masters::Silent { .. } => observed.now,
    }
}

/// The API server keeps whole seconds.
pub(super) fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

pub(super) fn signed(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or_default()
}

/// How long it is until then; none if it is not.
fn left(then: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = Duration::try_from(then.duration_since(now)).ok()?;
    (!left.is_zero()).then_some(left)
}

pub(super) fn generation(observed: &Observed<'_>) -> i64 {
    observed.policy.metadata.generation.unwrap_or_default()
}

/// What the masters say of it.
pub(super) fn known<'a>(observed: &'a Observed<'_>) -> Option<&'a Warmup> {
    match observed.masters {
        Masters::Leading {
            warmups: Warmups::Known(all),
            ..
        } => all.get(&uid(observed.policy)),
        _ => None,
    }
}

/// A run that was started after the masters were asked, and since when it runs.
pub(super) fn fresh(observed: &Observed<'_>) -> Option<(Run, Timestamp)> {
    let attempt = observed.attempt.filter(|a| a.failed.is_none())?;
    let Call::Start(request) = &attempt.call else {
        return None;
    };
    let asked_before = match observed.masters {
        Masters::Leading { seen, .. } => seen <= attempt.at,
        Masters::Absent | Masters::Silent { .. } => false,
    };
    let known = known(observed).is_some_and(|warmup| warmup.run == request.run);
    (asked_before && !known).then_some((Run::parse(&request.run)?, attempt.at))
}

/// What is to run, and when the schedule has the next run.
#[derive(Default)]
struct Due {
    run: Option<Run>,
    next: Option<Timestamp>,
}

/// Without a schedule: once for each generation.
fn once(observed: &Observed<'_>) -> Option<Run> {
    let generation = generation(observed);
    let wanted = |run: &Run| run.generation == generation;
    let there = known(observed).and_then(|warmup| Run::parse(&warmup.run));
    let fresh = fresh(observed).map(|(run, _)| run);
    (!there.iter().chain(&fresh).any(wanted)).then_some(Run {
        generation,
        time: None,
        workers: None,
    })
}

/// By a schedule: what the status promises, late if it must be, and of several that were missed the latest.
fn due_by(observed: &Observed<'_>, times: &Times) -> Due {
    let (policy, now) = (observed.policy, observed.now);
    let promised = match &policy.status {
        Some(status) if status.observed_generation == policy.metadata.generation => {
            status.next_run_time.as_ref().map(|time| time.0)
        }
        // An edit is no reason to make up for anything.
        Some(_) => None,
        None => {
            let created = policy.metadata.creation_timestamp.as_ref();
            created.and_then(|time| times.next(time.0))
        }
    };
    let Some(promised) = promised.or_else(|| times.next(now)) else {
        return Due::default();
    };
    if promised > now {
        return Due {
            run: None,
            next: Some(promised),
        };
    }
    let latest = times.latest(now).filter(|then| *then >= promised);
    let run = Run {
        generation: generation(observed),
        time: Some(latest.unwrap_or(promised).as_second()),
        workers: None,
    };
    let there = known(observed);
    let started = there
        .and_then(|warmup| Run::parse(&warmup.run))
        .into_iter()
        .chain(fresh(observed).map(|(run, _)| run))
        .any(|there| there.time == run.time);
    let goes_on = there.is_some_and(|warmup| warmup.ended.is_none());
    if started || goes_on {
        return Due {
            run: None,
            next: times.next(now),
        };
    }
    Due {
        run: Some(run),
        next: Some(promised),
    }
}

/// How many workers serve, if files go to every node.
fn everywhere(observed: &Observed<'_>) -> Option<u32> {
    let placement = observed.policy.spec.placement.as_ref()?;
    placement.every_node.as_ref()?;
    match observed.masters {
        Masters::Leading { workers, .. } => Some(workers),
        Masters::Absent | Masters::Silent { .. } => None,
    }
}

/// On every node: once more when the last run has ended, and workers have come since it began.
fn for_more_workers(observed: &Observed<'_>) -> Option<Run> {
    let workers = everywhere(observed)?;
    let warmup = known(observed)?;
    let last = Run::parse(&warmup.run)?;
    let had = last.workers.unwrap_or_default().max(warmup.workers);
    let wanted = warmup.ended.is_some()
        && had > 0
        && workers > had
        && last.generation == generation(observed)
        && fresh(observed).is_none();
    let run = Run {
        workers: Some(workers),
        ..last.clone()
    };
    wanted.then_some(run)
}

/// What keeps a run from being started: reason, and what to do.
fn blocked(observed: &Observed<'_>) -> Option<(&'static str, String)> {
    let policy = observed.policy;
    let namespace = policy.namespace().unwrap_or_default();
    let name = &policy.spec.dataset_ref.name;
    let Some(dataset) = observed.dataset else {
        return Some((
            "DatasetNotFound",
            format!(
                "there is no Dataset {name} in namespace {namespace}: create it, or create a WarmupPolicy with another datasetRef"
            ),
        ));
    };
    let describe = |kind: &str, key: &Key| {
        format!("kubectl describe {kind} -n {} {}", key.namespace, key.name)
    };
    let cluster = cluster_of(dataset);
    let masters = || {
        let message = format!(
            "no master of CacheCluster {cluster} leads: {}",
            describe("cachecluster", &cluster)
        );
        Some(("MastersUnavailable", message))
    };
    match observed.masters {
        Masters::Absent | Masters::Silent { .. } => return masters(),
        Masters::Leading { warmups, .. } => match warmups {
            Warmups::Unknown => {
                let message = format!(
                    "the masters of CacheCluster {cluster} are asked what they know of warm-ups"
                );
                return Some(("Waiting", message));
            }
            Warmups::TooOld => {
                return Some((
                    "MastersTooOld",
                    format!(
                        "the masters of CacheCluster {cluster} know no warm-ups: give its spec.image the version of the operator, or leave it out"
                    ),
                ));
            }
            Warmups::Known(_) => {}
        },
    }
    if dataset.metadata.deletion_timestamp.is_some() {
        return Some((
            "DatasetNotReady",
            format!("Dataset {name} is being deleted: delete this policy, too"),
        ));
    }
    let conditions = dataset.status.as_ref().map(|s| s.conditions.as_slice());
    let ready = conditions.unwrap_or_default();
    let ready = ready.iter().find(|c| c.type_ == READY);
    match ready {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some((
            "DatasetNotReady",
            format!("Dataset {name}: {}: {}", ready.reason, ready.message),
        )),
        None => Some((
            "DatasetNotReady",
            format!("Dataset {name}: nothing is known of it yet"),
        )),
    }
}

fn start(observed: &Observed<'_>, run: &Run) -> Call {
    let policy = observed.policy;
    let spec = &policy.spec;
    let dataset = Key::new(
        policy.namespace().unwrap_or_default(),
        &spec.dataset_ref.name,
    );
    let seconds = |time: Duration| time.as_millis().div_ceil(1000).max(1) as u64;
    let all = spec.include.iter().any(|glob| glob == "**");
    let limits = spec.limits.as_ref();
    Call::Start(Box::new(v1::StartWarmupRequest {
        name: uid(policy),
        run: run.name(),
        spec: Some(v1::WarmupSpec {
            path: root(&dataset).into_bytes().into(),
            include: if all {
                Vec::new()
            } else {
                spec.include.clone()
            },
            newer_than_s: spec.newer_than.as_ref().map_or(0, |t| seconds(t.length())),
            copies: match &spec.placement {
                Some(Placement {
                    every_node: Some(_),
                    ..
                }) => 0,
                Some(placement) => placement.replicas.unwrap_or(1),
                None => 1,
            },
            pin: spec.pin,
            bandwidth: limits
                .and_then(|l| l.bandwidth.as_ref())
                .map_or(0, forebay_crds::Quantity::bytes),
        }),
    }))
}

/// The reason that conditions give for a start that failed.
fn reason(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "InvalidWarmup",
        Code::Unsupported => "MastersTooOld",
        Code::NotLeader | Code::Timeout | Code::Unavailable => "MastersUnavailable",
        Code::NotFound => "DatasetNotReady",
        _ => "StartFailed",
    }
}

/// It goes: the masters let go of what it pinned, if there is anybody to ask.
fn leave(observed: &Observed<'_>) -> Plan {
    let policy = observed.policy;
    if !policy.finalizers().iter().any(|f| f == FINALIZER) {
        return Plan::default();
    }
    let before = policy.status.clone().unwrap_or_default();
    let stays = |what: String| Plan {
        finalizer: true,
        findings: vec![
            Finding::no(READY, "Deleting", what.clone()),
            Finding::yes(PROGRESSING, "Deleting", what),
        ],
        status: WarmupPolicyStatus {
            conditions: Vec::new(),
            next_run_time: None,
            ..before.clone()
        },
        ..Plan::default()
    };
    let removing = observed.attempt.filter(|a| a.call == Call::Remove);
    match observed.masters {
        Masters::Absent
        | Masters::Leading {
            warmups: Warmups::TooOld,
            ..
        } => Plan::default(),
        Masters::Silent { since } => {
            let deleted = policy.metadata.deletion_timestamp.as_ref();
            let end = deleted.map_or(since, |time| time.0.max(since)) + LET_GO_AFTER;
            match left(end, observed.now) {
                Some(wait) => Plan {
                    again: Some(wait),
                    ..stays("the masters are to end it, but none leads".to_owned())
                },
                None => let_go(format!(
                    "no master could be reached for {} s: it goes, and what it pinned is let go as soon as they are back",
                    LET_GO_AFTER.as_secs()
                )),
            }
        }
        Masters::Leading { .. } => match removing.map(|a| (a.at, &a.failed)) {
            Some((_, None)) => Plan::default(),
            Some((_, Some((failures, error)))) if *failures >= REFUSALS => let_go(format!(
                "the masters do not end it: it goes all the same: {}",
                error.message
            )),
            Some((at, Some((failures, error)))) => {
                let mut plan = stays(format!("the masters do not end it: {}", error.message));
                match left(at + signed(mount::wait(*failures)), observed.now) {
                    Some(wait) => plan.again = Some(wait),
                    None => plan.call = Some(Call::Remove),
                }
                plan
            }
            None => Plan {
                call: Some(Call::Remove),
                ..stays("the masters are asked to end it".to_owned())
            },
        },
    }
}

fn let_go(text: String) -> Plan {
    Plan {
        note: Some(("LetGo", text)),
        ..Plan::default()
    }
}

#[cfg(test)]
#[path = "warmup_test.rs"]
mod tests;
