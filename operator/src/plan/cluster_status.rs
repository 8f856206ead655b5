//! The status of a CacheCluster.

use crate::plan::{
    cluster::Observed,
    condition::{DEGRADED, Finding, PROGRESSING, READY},
    master::MASTER,
    membership::Membership,
    name::Names,
    pod_seen::PodSeen,
    view::Worker,
    worker::WORKER,
};
use forebay_crds::{
    CacheClusterStatus, CacheClusterSummary, MastersStatus, Medium, TierStatus, UsedBy,
    WorkerGroupStatus,
};
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};

/// Most pods that a message names.
const NAMED: usize = 5;
/// Why workers of one group keep those of another from their node.
const GROUPS_OVERLAP: &str = "GroupsOverlap";

/// What the status is made of.
pub struct Facts<'a> {
    /// What was observed.
    pub observed: &'a Observed<'a>,
    /// How many masters there are to be now.
    pub membership: &'a Membership,
}

/// A group of workers.
struct Group<'a> {
    name: &'a str,
    wanted: u32,
    serving: u32,
    /// Pods that are there and do not serve.
    silent: Vec<&'a PodSeen>,
}

/// Findings, and the status but for conditions.
pub fn status(facts: &Facts<'_>) -> (Vec<Finding>, CacheClusterStatus) {
    let observed = facts.observed;
    let cluster = observed.cluster;
    let names = Names::of(cluster);
    let view = observed.view;
    let alive = view.alive();
    let groups: Vec<Group<'_>> = cluster
        .spec
        .workers
        .iter()
        .map(|group| group_of(facts, &group.name, &alive))
        .collect();
    let quorum = view.quorum.as_ref();
    let counting = |id: &&u64| {
        let members = quorum.map(|q| q.members.as_slice()).unwrap_or_default();
        members.iter().any(|m| m.id == **id && m.voter)
    };
    let masters = MastersStatus {
        replicas: cluster.spec.masters.replicas,
        ready: view.following.iter().filter(counting).count() as u32,
        leader: quorum.map(|quorum| names.master_pod(quorum.leader)),
        term: quorum.map(|quorum| quorum.term),
    };
    let workers = groups.iter().map(|group| WorkerGroupStatus {
        name: group.name.to_owned(),
        replicas: group.wanted,
        ready: group.serving,
    });
    let mut status = CacheClusterStatus {
        observed_generation: cluster.metadata.generation,
        masters: Some(masters),
        workers: workers.collect(),
        tiers: tiers(alive.values().copied()),
        used_by: Some(UsedBy::new(observed.users.clone())),
        ..CacheClusterStatus::default()
    };
    status.summary = Some(CacheClusterSummary::of(&status));
    let ready = ready(facts, &groups);
    let degraded = degraded(facts, &groups, &status, &ready);
    let findings = vec![ready, progressing(facts), degraded];
    (findings, status)
}

fn group_of<'a>(facts: &Facts<'a>, name: &'a str, alive: &BTreeMap<&str, &Worker>) -> Group<'a> {
    let observed = facts.observed;
    let set = observed.workers.get(name);
    let status = set.and_then(|set| set.status.as_ref());
    let wanted = status.map_or(0, |s| s.desired_number_scheduled);
    let pods = observed.pods.iter().copied();
    let pods = pods.filter(|p| p.component() == WORKER && p.group() == name);
    // What the masters hear is what counts; the kubelet of a dead node says nothing for a while.
    let (serving, silent): (Vec<_>, Vec<_>) = pods.partition(|pod| {
        pod.worker_address()
            .is_some_and(|address| alive.contains_key(address.as_str()))
    });
    Group {
        name,
        wanted: wanted.max(0) as u32,
        serving: serving.len() as u32,
        silent,
    }
}

fn tiers<'a>(workers: impl Iterator<Item = &'a Worker>) -> Vec<TierStatus> {
    let mut sums = BTreeMap::<Medium, TierStatus>::new();
    for tier in workers.flat_map(|worker| &worker.tiers) {
        let medium = match tier.medium.as_str() {
            "MEM" => Medium::Mem,
            "SSD" => Medium::Ssd,
            "HDD" => Medium::Hdd,
            _ => continue,
        };
        let sum = sums.entry(medium).or_insert(TierStatus {
            medium,
            capacity_bytes: 0,
            used_bytes: 0,
        });
        // One that failed holds nothing for anybody.
        if tier.fault.is_none() {
            sum.capacity_bytes += tier.quota;
            sum.used_bytes += tier.used;
        }
    }
    sums.into_values().collect()
}

fn ready(facts: &Facts<'_>, groups: &[Group<'_>]) -> Finding {
    let observed = facts.observed;
    let names = Names::of(observed.cluster);
    let namespace = &names.key.namespace;
    if observed.view.quorum.is_none() {
        let pods = observed.pods.iter().copied();
        let masters: Vec<&PodSeen> = pods.filter(|pod| pod.component() == MASTER).collect();
        if let Some((reason, message)) = trouble(&masters) {
            return Finding::no(READY, reason, message);
        }
        if let Some((reason, message)) = &observed.not_applied {
            return Finding::no(READY, reason, message.clone());
        }
        let answering = observed.view.following.len();
        let wanted = facts.membership.replicas;
        let before = observed.cluster.status.as_ref();
        let led = before.is_some_and(|s| s.masters.as_ref().is_some_and(|m| m.term.is_some()));
        return if led || was(observed, &["NoLeader"]) {
            let message = format!(
                "no master leads, {answering} of {wanted} know of one: more than half must run: kubectl get pods -n {namespace} -l forebay.io/cluster={}",
                names.uid
            );
            Finding::no(READY, "NoLeader", message)
        } else {
            Finding::no(READY, "MastersStarting", "the masters start")
        };
    }
    if groups.iter().all(|group| group.wanted == 0) {
        let message = "no node is selected by any group of workers: compare nodeSelector and tolerations with the nodes";
        return Finding::no(READY, "NoNodes", message);
    }
    let dead = groups
        .iter()
        .find(|group| group.wanted > 0 && group.serving == 0);
    if let Some(group) = dead {
        let overlap = overlap(observed).filter(|overlap| overlap.groups.contains(group.name));
        if let Some(overlap) = overlap {
            return Finding::no(READY, GROUPS_OVERLAP, overlap.message());
        }
        let (reason, message) = trouble(&group.silent).unwrap_or_else(|| {
            let served = was(observed, &["NoWorkers", "NoLeader"]);
            let (reason, yet) = if served {
                ("NoWorkers", "")
            } else {
                ("WorkersStarting", " yet")
            };
            (
                reason,
                format!("no worker of group {} serves{yet}", group.name),
            )
        });
        return Finding::no(READY, reason, message);
    }
    Finding::yes(READY, "Serving", "masters and workers serve")
}

/// A node that several groups of workers select. It has one worker of a cluster: two would share its socket.
struct Overlap<'a> {
    node: &'a str,
    groups: BTreeSet<&'a str>,
    /// How many more nodes there are.
    more: usize,
}

impl Overlap<'_> {
    fn message(&self) -> String {
        let groups: Vec<&str> = self.groups.iter().copied().collect();
        let more = match self.more {
            0 => String::new(),
            more => format!(" and {more} more nodes"),
        };
        format!(
            "groups {} of workers all select node {}{more}, and a node has one worker of a cluster: give the groups different nodeSelectors",
            groups.join(" and "),
            self.node
        )
    }
}

fn overlap<'a>(observed: &Observed<'a>) -> Option<Overlap<'a>> {
    let mut nodes = BTreeMap::<&str, BTreeSet<&str>>::new();
    for pod in observed.pods.iter().copied() {
        let goes = pod.metadata.deletion_timestamp.is_some();
        if let Some(node) = pod.node().filter(|_| pod.component() == WORKER && !goes) {
            nodes.entry(node).or_default().insert(pod.group());
        }
    }
    nodes.retain(|_, groups| groups.len() > 1);
    let more = nodes.len().saturating_sub(1);
    let (node, groups) = nodes.into_iter().next()?;
    Some(Overlap { node, groups, more })
}

/// Whether it was ready, as far as the conditions tell: it is, or is not for one of these reasons.
fn was(observed: &Observed<'_>, reasons: &[&str]) -> bool {
    let status = observed.cluster.status.as_ref();
    let conditions = status.map(|s| s.conditions.as_slice()).unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == READY);
    ready.is_some_and(|c| c.status == "True" || reasons.contains(&c.reason.as_str()))
}

fn degraded(
    facts: &Facts<'_>,
    groups: &[Group<'_>],
    status: &CacheClusterStatus,
    ready: &Finding,
) -> Finding {
    if !ready.holds {
        return Finding::no(DEGRADED, "NotReady", "");
    }
    let observed = facts.observed;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let masters = status.masters.clone().unwrap_or_default();
    let wanted = facts.membership.replicas;
    if masters.ready < wanted {
        let pods = observed.pods.iter().copied();
        let pods: Vec<&PodSeen> = pods.filter(|p| p.component() == MASTER).collect();
        let why = trouble(&pods).map_or(String::new(), |(_, why)| format!(": {why}"));
        let message = format!("{} of {wanted} masters serve{why}", masters.ready);
        found.push(("MastersDown", message));
    }
    if let Some(overlap) = overlap(observed) {
        found.push((GROUPS_OVERLAP, overlap.message()));
    }
    for group in groups.iter().filter(|g| g.serving < g.wanted) {
        let named = group.silent.iter().take(NAMED).map(|pod| {
            let node = pod.spec.node_name.as_deref().unwrap_or("no node");
            format!("{} on {node}", pod.name_any())
        });
        let named: Vec<String> = named.collect();
        let (reason, why) = trouble(&group.silent)
            .map_or(("WorkersDown", String::new()), |(reason, why)| {
                (reason, format!(": {why}"))
            });
        let message = format!(
            "{} of {} workers of group {} serve, not {}{why}",
            group.serving,
            group.wanted,
            group.name,
            named.join(", ")
        );
        found.push((reason, message));
    }
    let workers = observed.view.workers.iter().filter(|w| w.alive);
    let faults = workers.flat_map(|worker| {
        let faults = worker.tiers.iter().filter_map(|tier| tier.fault.as_ref());
        faults.map(|fault| format!("{} of {}", fault, worker.address))
    });
    let faults: Vec<String> = faults.take(NAMED).collect();
    if !faults.is_empty() {
        found.push(("TierFailed", faults.join("; ")));
    }
    if let Some(why) = observed.not_grown {
        found.push((
            "StorageNotGrown",
            format!("the volumes of the masters cannot grow: {why}"),
        ));
    }
    if let Some((reason, message)) = &observed.not_applied {
        found.push((reason, message.clone()));
    }
    match found.first() {
        None => Finding::no(DEGRADED, "Healthy", ""),
        Some((reason, _)) => {
            let messages: Vec<&str> = found.iter().map(|(_, m)| m.as_str()).collect();
            Finding::yes(DEGRADED, reason, messages.join("; "))
        }
    }
}

/// The first trouble of pods that do not serve, and how many have one.
fn trouble(pods: &[&PodSeen]) -> Option<(&'static str, String)> {
    let mut troubled = pods.iter().filter_map(|pod| Some((pod, pod.trouble()?)));
    let (pod, (reason, why)) = troubled.next()?;
    let more = troubled.count();
    let more = if more > 0 {
        format!(" ({more} more)")
    } else {
        String::new()
    };
    Some((reason, format!("pod {}: {why}{more}", pod.name_any())))
}

fn progressing(facts: &Facts<'_>) -> Finding {
    if let Some(waits) = &facts.membership.waits {
        return Finding::yes(PROGRESSING, "ChangingMasters", waits.clone());
    }
    let observed = facts.observed;
    let rolling = observed.masters.is_none_or(is_rolling_set)
        || observed.cluster.spec.workers.iter().any(|group| {
            let set = observed.workers.get(&group.name);
            set.is_none_or(|set| is_rolling(set))
        });
    if rolling {
        Finding::yes(PROGRESSING, "Replacing", "pods are being made or replaced")
    } else {
        Finding::no(PROGRESSING, "Settled", "")
    }
}

fn is_rolling_set(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
    set.status.as_ref().is_none_or(|status| {
        status.observed_generation != set.metadata.generation
            || status.updated_replicas.unwrap_or(0) < wanted.unwrap_or(0)
            || status.replicas != wanted.unwrap_or(0)
    })
}

fn is_rolling(set: &DaemonSet) -> bool {
    set.status.as_ref().is_none_or(|status| {
        status.observed_generation != set.metadata.generation
            || status.updated_number_scheduled.unwrap_or(0) < status.desired_number_scheduled
    })
}
