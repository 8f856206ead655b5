//! Carries out the plans of claims that users made of Datasets.

use crate::{
    apply::Applier,
    error::Result,
    event::Events,
    placements::Placements,
    plan::{
        name::{Key, cluster_of, uid},
        placement,
        user_claim::{self, Note, Observed},
        volume,
    },
    world::World,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{ResourceExt, runtime::reflector::ObjectRef as Ref};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What it takes to carry them out.
pub(crate) struct UserClaims {
    pub(crate) world: Arc<World>,
    pub(crate) applier: Arc<Applier>,
    pub(crate) events: Events,
    pub(crate) placements: Arc<Placements>,
    /// What was told last, by the uid of the claim.
    pub(crate) told: Mutex<BTreeMap<String, Note>>,
}

impl UserClaims {
    /// Makes a plan and carries it out.
    pub(crate) async fn reconcile(
        &self,
        claim: Arc<PersistentVolumeClaim>,
    ) -> Result<Option<Duration>> {
        let Some(of) = user_claim::dataset_of(&claim) else {
            return Ok(None);
        };
        let id = uid(&*claim);
        let world = &self.world;
        let dataset = world
            .datasets
            .get(&Ref::new(&of.name).within(&of.namespace));
        let cluster = dataset.as_ref().and_then(|dataset| {
            let key = cluster_of(dataset);
            world
                .clusters
                .get(&Ref::new(&key.name).within(&key.namespace))
        });
        let volume = world.volumes.get(&Ref::new(&volume::name(&id)));
        let observed = Observed {
            claim: &claim,
            dataset: dataset.as_deref(),
            cluster: cluster.as_deref(),
            volume: volume.as_deref(),
        };
        let plan = user_claim::plan(&observed, &of);
        if let Some(volume) = &plan.apply {
            self.applier.apply(volume).await?;
        }
        if let Some(act) = &plan.act {
            self.applier.act(act).await?;
        }
        if claim.metadata.deletion_timestamp.is_some() {
            self.told.lock().remove(&id);
            let key = Key::of(&*claim);
            self.applier.forget("ConfigMap", &placement::key(&key));
            self.placements.forget_claim(&key);
        } else if let Some(note) = self.news(id, plan.note) {
            let Note {
                warning,
                reason,
                message,
            } = &note;
            self.events.tell(&*claim, !warning, reason, message).await;
        }
        Ok(None)
    }

    /// The note, if it was not told last.
    fn news(&self, id: String, note: Option<Note>) -> Option<Note> {
        let mut told = self.told.lock();
        let Some(note) = note else {
            told.remove(&id);
            return None;
        };
        if !told.contains_key(&id) {
            // Some went unseen.
            let there = self.world.claims.state();
            let there: BTreeSet<_> = there.iter().filter_map(|claim| claim.uid()).collect();
            told.retain(|id, _| there.contains(id));
        }
        let before = told.insert(id, note.clone());
        (before.as_ref() != Some(&note)).then_some(note)
    }
}
