//! Carries out the plans of WarmupPolicies.

use crate::{
    calls, clock,
    error::Result,
    event::Events,
    masters::{Observatory, Watched},
    metrics::Metrics,
    plan::{
        condition,
        mount::reason,
        name::{Key, cluster_of, uid},
        warmup::{self, Attempt, Call, Masters, Observed, Plan},
    },
    status::Own,
    world::World,
};
use forebay_client::Error as CallError;
use forebay_crds::{Dataset, WarmupPolicy};
use forebay_types::Code;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef as Ref;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(8);

/// What it takes to carry them out.
pub(crate) struct Warmups {
    pub(crate) world: Arc<World>,
    pub(crate) own: Own,
    pub(crate) events: Events,
    pub(crate) observatory: Arc<Observatory>,
    pub(crate) metrics: Arc<Metrics>,
    /// By the uid of the policy.
    pub(crate) remembered: Mutex<BTreeMap<String, Remembered>>,
    /// When this operator began to act.
    pub(crate) begun: Timestamp,
}

/// What the API server does not keep.
#[derive(Clone, Default)]
pub(crate) struct Remembered {
    /// The last call.
    attempt: Option<Attempt>,
    /// The cluster of its Dataset, which may go before it.
    cluster: Option<Key>,
}

/// Whom to ask about a policy.
enum Reach {
    /// There is no cluster.
    Nobody,
    /// Its masters are not known yet.
    Unasked,
    /// These.
    Asked(Arc<Watched>),
}

impl Warmups {
    /// Makes a plan and carries it out.
    pub(crate) async fn reconcile(&self, policy: Arc<WarmupPolicy>) -> Result<Option<Duration>> {
        let (key, id) = (Key::of(&*policy), uid(&*policy));
        let dataset = Ref::new(&policy.spec.dataset_ref.name).within(&key.namespace);
        let dataset = self.world.datasets.get(&dataset);
        let mut remembered = self.remembered.lock().get(&id).cloned().unwrap_or_default();
        if let Some(dataset) = &dataset {
            remembered.cluster = Some(cluster_of(dataset));
        }
        let mut masters = self.masters(remembered.cluster.as_ref());
        if matches!(masters, Reach::Unasked) && policy.status.is_some() {
            // What an operator that has just begun does not know is no news; the masters' first answer wakes us.
            return Ok(None);
        }
        let mut plan = self.plan(&policy, dataset.as_deref(), &masters, &remembered);
        if plan.finalizer && policy.metadata.deletion_timestamp.is_none() {
            self.own.finalizer(&*policy, true).await?;
        }
        if let (Some(call), Reach::Asked(watched)) = (plan.call.take(), &masters) {
            let made = self.make(&key, &id, watched, call, remembered.attempt.take());
            remembered.attempt = Some(made.await);
            masters = self.masters(remembered.cluster.as_ref());
            plan = self.plan(&policy, dataset.as_deref(), &masters, &remembered);
        }
        if let Some((reason, note)) = &plan.note {
            self.events.tell(&*policy, false, reason, note).await;
        }
        if !plan.finalizer {
            self.remembered.lock().remove(&id);
            self.own.finalizer(&*policy, false).await?;
            return Ok(None);
        }
        self.remembered.lock().insert(id, remembered);
        self.tell(&policy, &plan).await?;
        Ok(plan.again)
    }

    fn masters(&self, cluster: Option<&Key>) -> Reach {
        let cluster = cluster.map(|key| Ref::new(&key.name).within(&key.namespace));
        let cluster = cluster.and_then(|cluster| self.world.clusters.get(&cluster));
        match cluster.map(|cluster| self.observatory.get(&uid(&*cluster))) {
            None => Reach::Nobody,
            Some(Some(watched)) if watched.asked() => Reach::Asked(watched),
            Some(_) => Reach::Unasked,
        }
    }

    fn plan(
        &self,
        policy: &WarmupPolicy,
        dataset: Option<&Dataset>,
        masters: &Reach,
        remembered: &Remembered,
    ) -> Plan {
        let view = match masters {
            Reach::Asked(watched) => Some(watched.view()),
            Reach::Nobody | Reach::Unasked => None,
        };
        warmup::plan(&Observed {
            policy,
            dataset,
            masters: match &view {
                None if matches!(masters, Reach::Nobody) => Masters::Absent,
                None => Masters::Silent { since: self.begun },
                Some(view) if view.quorum.is_none() => Masters::Silent {
                    since: view.silent_since.unwrap_or(view.seen),
                },
                Some(view) => Masters::Leading {
                    warmups: &view.warmups,
                    workers: view.alive().len() as u32,
                    seen: view.seen,
                },
            },
            attempt: remembered.attempt.as_ref(),
            now: clock::now(),
        })
    }

    async fn make(
        &self,
        key: &Key,
        id: &str,
        masters: &Watched,
        call: Call,
        before: Option<Attempt>,
    ) -> Attempt {
        let (kind, made) = match call.clone() {
            Call::Start(request) => {
                tracing::info!(policy = %key, run = request.run, "starts a run");
                let started = timeout(CALL, calls::start_warmup(masters, *request)).await;
                ("start_warmup", started)
            }
            Call::Remove => {
                let removed = timeout(CALL, calls::remove_warmup(masters, id.to_owned())).await;
                ("remove_warmup", removed)
            }
        };
        let made = made.unwrap_or_else(|_| {
            let text = format!("no answer within {} s", CALL.as_secs());
            Err(CallError::new(Code::Timeout, text))
        });
        let failed = match made {
            Ok(()) => {
                self.metrics.call(kind, "Done");
                None
            }
            Err(error) => {
                self.metrics.call(kind, reason(error.code));
                tracing::warn!(policy = %key, %error, "{kind} has failed");
                let same = before.filter(|before| before.call.is_as(&call));
                let failures = same
                    .and_then(|b| b.failed)
                    .map_or(0, |(failures, _)| failures);
                Some((failures + 1, error))
            }
        };
        Attempt {
            call,
            at: clock::now(),
            failed,
        }
    }

    async fn tell(&self, policy: &WarmupPolicy, plan: &Plan) -> Result<()> {
        let before = policy.status.as_ref();
        let conditions = before.map(|s| s.conditions.as_slice()).unwrap_or_default();
        let generation = policy.metadata.generation;
        let mut status = plan.status.clone();
        status.conditions = condition::merge(conditions, &plan.findings, generation, clock::now());
        self.own.status(policy, before, &status).await?;
        for finding in condition::transitions(conditions, &plan.findings) {
            self.events.found(policy, finding).await;
        }
        Ok(())
    }
}
