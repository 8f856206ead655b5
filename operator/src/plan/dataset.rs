//! A Dataset: its mounts, its volume, its end.

use crate::plan::{
    claim::{self, Seen},
    condition::{DEGRADED, Finding, PROGRESSING, READY},
    dataset_status,
    mount::{self, Attempt, Call, Fault, Outcome, Standing, Table, Verdict, Wanted},
    name::{FINALIZER, Key, Names, cluster_of, root, uid},
    placement::{self, Placement},
    volume::{self, Claimant},
};
use forebay_crds::{CacheCluster, Dataset, DatasetStatus};
use forebay_proto::v1::MountUsage;
use forebay_types::Credentials;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Masters that nobody could reach for so long do not keep a Dataset from going.
pub const LET_GO_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Nor do masters that refuse to unmount it so often.
const REFUSALS: u32 = 5;

/// What was observed.
pub struct Observed<'a> {
    /// The Dataset.
    pub dataset: &'a Dataset,
    /// The CacheCluster that it refers to.
    pub cluster: Option<&'a CacheCluster>,
    /// Its masters.
    pub masters: Masters<'a>,
    /// The Secrets that the Dataset refers to.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// The last call about each path.
    pub attempts: &'a BTreeMap<String, Attempt>,
    /// Its volume.
    pub volume: Option<&'a PersistentVolume>,
    /// Its claim.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The volumes of claims that users made, each with its claim if that is still there.
    pub others: &'a [Other],
    /// The time.
    pub now: Timestamp,
}

/// The volume of a claim that a user made.
#[derive(Clone, Debug)]
pub struct Other {
    /// The volume.
    pub volume: Arc<PersistentVolume>,
    /// The claim that it was made for.
    pub claim: Option<Key>,
}

/// What is known of the masters.
#[derive(Clone, Copy)]
pub enum Masters<'a> {
    /// Nobody who leads has answered.
    Silent {
        /// Since when.
        since: Timestamp,
    },
    /// The one that leads has.
    Leading {
        /// Its mount table.
        table: &'a Table,
        /// How many workers report to it.
        workers: usize,
        /// Under stores that do not answer, by the path of the mount.
        faults: &'a BTreeMap<String, Fault>,
        /// What is known of mounts, by path.
        usage: &'a BTreeMap<String, MountUsage>,
        /// The nodes of workers that hold something of the Dataset.
        nodes: &'a BTreeMap<u64, String>,
    },
}

/// A Secret that was asked for.
#[derive(Clone, Debug)]
pub enum Secret {
    /// There was no answer yet.
    Loading,
    /// It is not there.
    Absent,
    /// The operator may not read it, or the API server does not say.
    Unreadable(String),
    /// Its contents.
    Present(Credentials),
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Whether the Dataset is to have our finalizer.
    pub finalizer: bool,
    /// Objects to apply.
    pub apply: Vec<Value>,
    /// Where its data is, if that is known: a Dataset can do without.
    pub placement: Option<Placement>,
    /// What else to do about the volume.
    pub volume: Vec<claim::Act>,
    /// Calls to the masters.
    pub calls: Vec<Call>,
    /// What the conditions are to say.
    pub findings: Vec<Finding>,
    /// The figures of the status.
    pub figures: DatasetStatus,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
    /// To be told as an event beside the conditions: reason and message.
    pub note: Option<(&'static str, String)>,
}

/// Decides.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let usage = match observed.masters {
        Masters::Leading { usage, .. } => Some(usage),
        Masters::Silent { .. } => None,
    };
    let mut plan = Plan {
        figures: dataset_status::figures(observed.dataset, usage),
        ..decide(observed)
    };
    plan.volume.extend(unclaimed(observed.others));
    plan
}

/// The claims whose pods are told where the data is.
fn claims(observed: &Observed<'_>) -> Vec<placement::Target> {
    let others = observed.others.iter().filter_map(|other| {
        let uid = volume::handle(&other.volume)?.to_owned();
        Some(placement::Target::of_user(other.claim.clone()?, uid))
    });
    let own = placement::Target::own(observed.dataset);
    std::iter::once(own).chain(others).collect()
}

/// Volumes whose claim is gone go, too.
fn unclaimed(others: &[Other]) -> impl Iterator<Item = claim::Act> {
    let gone = others.iter().filter(|other| other.claim.is_none());
    gone.flat_map(|other| {
        claim::dismantle(&Seen {
            volume: Some(&other.volume),
            claim: None,
        })
    })
}

fn decide(observed: &Observed<'_>) -> Plan {
    if observed.dataset.metadata.deletion_timestamp.is_some() {
        return leave(observed);
    }
    let refused = |reason, message: String| Plan {
        finalizer: has_finalizer(observed.dataset),
        findings: not_ready(reason, message),
        ..Plan::default()
    };
    let wants = cluster_of(observed.dataset);
    let Some(cluster) = observed.cluster else {
        return refused(
            "ClusterNotFound",
            format!(
                "there is no CacheCluster {wants}: create it, or create a Dataset with another clusterRef"
            ),
        );
    };
    if !granted(observed, cluster) {
        let namespace = observed.dataset.namespace().unwrap_or_default();
        return refused(
            "NotGranted",
            format!(
                "CacheCluster {wants} does not let namespace {namespace} use it: its owner adds the namespace to spec.access.namespaces"
            ),
        );
    }
    serve(observed, cluster)
}

fn has_finalizer(dataset: &Dataset) -> bool {
    dataset.finalizers().iter().any(|f| f == FINALIZER)
}

fn not_ready(reason: &'static str, message: String) -> Vec<Finding> {
    vec![
        Finding::no(READY, reason, message),
        Finding::no(PROGRESSING, "Waiting", "nothing can be done before that"),
        Finding::no(DEGRADED, "NotReady", ""),
    ]
}

/// Its own namespace, a grant, or in use already: a grant that is taken back ends nothing.
fn granted(observed: &Observed<'_>, cluster: &CacheCluster) -> bool {
    let namespace = observed.dataset.namespace().unwrap_or_default();
    let access = cluster.spec.access.as_ref();
    let root = root(&Key::of(observed.dataset));
    let mounted = match observed.masters {
        Masters::Leading { table, .. } => !mount::unwanted(&root, table, &[]).is_empty(),
        Masters::Silent { .. } => false,
    };
    cluster.namespace().as_deref() == Some(namespace.as_str())
        || access.is_some_and(|access| access.grants(&namespace))
        || mounted
        || observed.claim.is_some()
}

fn serve(observed: &Observed<'_>, cluster: &CacheCluster) -> Plan {
    let dataset = observed.dataset;
    let (key, uid, names) = (Key::of(dataset), uid(dataset), Names::of(cluster));
    let desired = volume::volume(&key, &uid, &names, &Claimant::own(&key, &uid));
    let seen = Seen {
        volume: observed.volume,
        claim: observed.claim,
    };
    let (fit, acts) = claim::plan(&seen, &desired);
    let mut plan = Plan {
        finalizer: true,
        volume: acts,
        ..Plan::default()
    };
    let objects = [desired, volume::claim(&key, &uid)].into_iter();
    let objects = objects.zip(fit.may_apply());
    plan.apply = objects.filter_map(|(o, may)| may.then_some(o)).collect();
    match observed.masters {
        Masters::Silent { .. } => {
            let message = format!("no master of CacheCluster {} leads", names.key);
            let reason = match cluster_reason(cluster) {
                Some("MastersStarting") | None => "MastersStarting",
                Some(_) => "MastersUnavailable",
            };
            plan.findings = not_ready(reason, look_at(&names, &message));
        }
        Masters::Leading {
            table,
            workers,
            faults,
            usage,
            nodes,
        } => {
            mounts(observed, &mut plan, table, faults, fit);
            // Without workers nobody says who holds what: it stays as it was told last.
            if let Some(held) = placement::held(dataset, usage).filter(|_| workers > 0) {
                let nodes = placement::weights(&held, nodes, workers);
                let targets = claims(observed);
                plan.placement = Some(Placement { targets, nodes });
            }
            if let Some(ready) = plan.findings.first_mut().filter(|f| f.holds)
                && workers == 0
            {
                *ready = no_workers(cluster, &names);
                let degraded = plan.findings.iter_mut().find(|f| f.kind == DEGRADED);
                if let Some(degraded) = degraded {
                    *degraded = Finding::no(DEGRADED, "NotReady", "");
                }
            }
        }
    }
    plan
}

/// Why the cluster is not ready; none also before anything was said of it.
fn cluster_reason(cluster: &CacheCluster) -> Option<&str> {
    let conditions = cluster.status.as_ref().map(|s| s.conditions.as_slice());
    let mut conditions = conditions.unwrap_or_default().iter();
    let ready = conditions.find(|c| c.type_ == READY)?;
    Some(&ready.reason)
}

fn look_at(names: &Names, what: &str) -> String {
    let Key { namespace, name } = &names.key;
    format!("{what}: kubectl describe cachecluster -n {namespace} {name}")
}

fn no_workers(cluster: &CacheCluster, names: &Names) -> Finding {
    let reason = match cluster_reason(cluster) {
        Some("WorkersStarting") => "WorkersStarting",
        _ => "NoWorkers",
    };
    let message = format!("no worker of CacheCluster {} serves", names.key);
    Finding::no(READY, reason, look_at(names, &message))
}

/// How a mount stands, for the conditions.
struct Found {
    path: String,
    verdict: Verdict,
}

fn mounts(
    observed: &Observed<'_>,
    plan: &mut Plan,
    table: &Table,
    faults: &BTreeMap<String, Fault>,
    fit: claim::Fit,
) {
    let dataset = observed.dataset;
    let root = root(&Key::of(dataset));
    let mut found = Vec::new();
    let mut all = Vec::new();
    for mount in &dataset.spec.mounts {
        let secret = mount.secret_ref.as_ref();
        let credentials = secret.map(|s| (s.name.as_str(), observed.secrets.get(&s.name)));
        let (wanted, trouble) = match credentials {
            None => (Wanted::new(&root, mount, None), None),
            Some((_, Some(Secret::Present(credentials)))) => {
                (Wanted::new(&root, mount, Some(credentials.clone())), None)
            }
            Some((name, secret)) => (
                Wanted::new(&root, mount, None),
                Some(missing(dataset, name, secret)),
            ),
        };
        let verdict = match trouble {
            None => {
                let attempt = observed.attempts.get(&wanted.path);
                let mut verdict = mount::judge(&wanted, table, attempt, observed.now);
                let fault = faults.get(&wanted.path).cloned();
                if let Some(Fault { reason, message }) =
                    fault.filter(|_| verdict.standing == Standing::Mounted)
                {
                    verdict.standing = Standing::Failed { reason, message };
                }
                verdict
            }
            // What is mounted stays: old credentials are better than none.
            Some(standing) => Verdict {
                standing,
                readable: table.get(&wanted.path).is_some_and(|r| r.uri == wanted.uri),
                call: None,
                again: None,
            },
        };
        found.push(Found {
            path: mount.path.clone(),
            verdict,
        });
        all.push(wanted);
    }
    take_away(observed, plan, table, &all);
    let shown = |outer: &Wanted| {
        let row = table.get(&outer.path);
        row.is_some_and(|row| row.uri == outer.uri)
    };
    for (n, found) in found.iter().enumerate() {
        // A mount goes into one that is there.
        let inside = |outer: &Wanted| all[n].path.starts_with(&format!("{}/", outer.path));
        let ready = all.iter().filter(|outer| inside(outer)).all(shown);
        if let Some(call) = found.verdict.call.clone().filter(|_| ready) {
            plan.calls.push(call);
        }
        plan.again = sooner(plan.again, found.verdict.again);
    }
    plan.findings = findings(&found, fit, !plan.calls.is_empty());
}

fn missing(dataset: &Dataset, name: &str, secret: Option<&Secret>) -> Standing {
    let namespace = dataset.namespace().unwrap_or_default();
    match secret {
        None | Some(Secret::Loading | Secret::Present(_)) => Standing::Pending,
        Some(Secret::Absent) => Standing::Failed {
            reason: "SecretNotFound",
            message: format!("there is no Secret {name} in namespace {namespace}: create it"),
        },
        Some(Secret::Unreadable(why)) => Standing::Failed {
            reason: "SecretUnreadable",
            message: format!("Secret {name} in namespace {namespace}: {why}"),
        },
    }
}

/// Takes away what is mounted below the Dataset and wanted no longer; one after the other, the deepest first.
fn take_away(
    observed: &Observed<'_>,
    plan: &mut Plan,
    table: &Table,
    wanted: &[Wanted],
) -> Option<u32> {
    let root = root(&Key::of(observed.dataset));
    let next = mount::unwanted(&root, table, wanted).into_iter().next()?;
    let attempt = observed.attempts.get(&next);
    match attempt.map(|a| (a.wanted.is_none(), &a.outcome)) {
        Some((_, Outcome::Running { .. })) => return Some(0),
        Some((true, Outcome::Failed { at, failures, .. })) => {
            let wait = mount::wait(*failures);
            let retry = *at + SignedDuration::try_from(wait).unwrap_or_default();
            if observed.now < retry {
                plan.again = sooner(plan.again, Some(wait));
                return Some(*failures);
            }
            plan.calls.push(Call::Unmount(next));
            return Some(*failures);
        }
        _ => {}
    }
    plan.calls.push(Call::Unmount(next));
    Some(0)
}

fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

fn findings(found: &[Found], fit: claim::Fit, calling: bool) -> Vec<Finding> {
    let says = |f: &Found| match &f.verdict.standing {
        Standing::Failed { reason, message } => Some((*reason, format!("{}: {message}", f.path))),
        Standing::Mounted | Standing::Pending => None,
    };
    let together = |of: &dyn Fn(&Found) -> bool| -> Option<(&'static str, String)> {
        let failed: Vec<_> = found.iter().filter(|f| of(f)).filter_map(says).collect();
        let messages: Vec<&str> = failed.iter().map(|(_, m)| m.as_str()).collect();
        Some((failed.first()?.0, messages.join("; ")))
    };
    let hidden = found.iter().find(|f| !f.verdict.readable);
    let pending = found
        .iter()
        .any(|f| f.verdict.standing == Standing::Pending);
    let ready = if let Some((reason, message)) = together(&|f| !f.verdict.readable) {
        Finding::no(READY, reason, message)
    } else if let Some(hidden) = hidden {
        Finding::no(
            READY,
            "Mounting",
            format!("{} is being mounted", hidden.path),
        )
    } else if let Some((reason, message)) = fit.fault() {
        Finding::no(READY, reason, message)
    } else {
        Finding::yes(READY, "Readable", "pods can read it")
    };
    let degraded = match together(&|f| f.verdict.readable) {
        Some((reason, message)) if ready.holds => Finding::yes(DEGRADED, reason, message),
        _ if ready.holds => Finding::no(DEGRADED, "Healthy", ""),
        _ => Finding::no(DEGRADED, "NotReady", ""),
    };
    let progressing = if pending || calling {
        Finding::yes(PROGRESSING, "Mounting", "mounts are being changed")
    } else if fit.fault().is_some() {
        Finding::yes(PROGRESSING, "Binding", "the volume is being bound")
    } else {
        Finding::no(PROGRESSING, "Settled", "")
    };
    vec![ready, progressing, degraded]
}

/// It goes: the claim and the volume, then the mounts, then the finalizer.
fn leave(observed: &Observed<'_>) -> Plan {
    let dataset = observed.dataset;
    if !has_finalizer(dataset) {
        return Plan::default();
    }
    let stays = |what: String| Plan {
        finalizer: true,
        findings: vec![
            Finding::no(READY, "Deleting", what.clone()),
            Finding::yes(PROGRESSING, "Deleting", what),
            Finding::no(DEGRADED, "NotReady", ""),
        ],
        ..Plan::default()
    };
    let seen = Seen {
        volume: observed.volume,
        claim: observed.claim,
    };
    let acts = claim::dismantle(&seen);
    if observed.claim.is_some() || observed.volume.is_some() {
        let what = format!(
            "PersistentVolumeClaim {} is to go: as long as pods use it, it stays",
            dataset.name_any()
        );
        return Plan {
            volume: acts,
            ..stays(what)
        };
    }
    if !observed.others.is_empty() {
        let claims = observed.others.iter().filter_map(|o| o.claim.as_ref());
        let mut claims: Vec<String> = claims.map(Key::to_string).collect();
        claims.sort();
        let what = match claims.as_slice() {
            [] => "volumes of claims that are gone are to go".to_owned(),
            claims => format!(
                "it is used by PersistentVolumeClaim {}: it goes when they are deleted",
                claims.join(", ")
            ),
        };
        return stays(what);
    }
    let gone = |note| Plan {
        finalizer: false,
        note,
        ..Plan::default()
    };
    let wants = cluster_of(dataset);
    let Some(_) = observed.cluster else {
        return gone(None);
    };
    match observed.masters {
        Masters::Silent { since } => {
            let deleted = dataset.metadata.deletion_timestamp.as_ref();
            let since = deleted.map_or(since, |time| time.0.max(since));
            let end = since + LET_GO_AFTER;
            if observed.now >= end {
                let text = format!(
                    "no master of CacheCluster {wants} could be reached for {} s: it goes without being unmounted",
                    LET_GO_AFTER.as_secs()
                );
                return gone(Some(("LetGo", text)));
            }
            let wait = Duration::try_from(end.duration_since(observed.now));
            Plan {
                again: wait.ok(),
                ..stays(format!(
                    "the masters of CacheCluster {wants} are to unmount it, but none leads"
                ))
            }
        }
        Masters::Leading { table, .. } => {
            let mut plan = stays("it is being unmounted".to_owned());
            match take_away(observed, &mut plan, table, &[]) {
                Some(failures) if failures >= REFUSALS => {
                    let text = format!(
                        "the masters of CacheCluster {wants} do not unmount it: it goes all the same"
                    );
                    gone(Some(("LetGo", text)))
                }
                Some(_) => plan,
                // It ends, and wakes us.
                None if observed
                    .attempts
                    .values()
                    .any(|a| mount::is_running(Some(a))) =>
                {
                    plan
                }
                None => gone(None),
            }
        }
    }
}

#[cfg(test)]
#[path = "dataset_test.rs"]
mod tests;
