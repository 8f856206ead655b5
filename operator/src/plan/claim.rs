//! A volume and its claim: whether they are bound to each other, and how they come apart.

use crate::plan::name::{Key, uid};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::Value;

/// Both as they were observed.
pub struct Seen<'a> {
    /// The volume.
    pub volume: Option<&'a PersistentVolume>,
    /// The claim.
    pub claim: Option<&'a PersistentVolumeClaim>,
}

/// How they fit what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// They are bound.
    Bound,
    /// They will be.
    Binding,
    /// The claim is to wait until the volume can be had. Made earlier, it would be looked at again only after a while.
    Preparing,
    /// They must go before others are made.
    Replacing,
}

impl Fit {
    /// Whether the volume may be applied, and the claim.
    pub fn may_apply(self) -> [bool; 2] {
        match self {
            Fit::Bound | Fit::Binding => [true, true],
            Fit::Preparing => [true, false],
            Fit::Replacing => [false, false],
        }
    }

    /// What keeps pods from reading, by reason and message.
    pub fn fault(self) -> Option<(&'static str, String)> {
        match self {
            Fit::Bound => None,
            Fit::Binding | Fit::Preparing => Some((
                "VolumePending",
                "the PersistentVolumeClaim is not bound yet".to_owned(),
            )),
            Fit::Replacing => Some((
                "VolumeReplaced",
                "the PersistentVolumeClaim is made anew as soon as no pod uses the old one"
                    .to_owned(),
            )),
        }
    }
}

/// What to do about them beside applying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Delete the claim of that uid.
    DeleteClaim(Key, String),
    /// Delete the volume of that name and uid.
    DeleteVolume(String, String),
    /// Let the volume of that name forget a claim that is gone, so that the next one of the name can have it.
    Release(String),
}

/// How they fit the volume that is desired, and what to do.
pub fn plan(seen: &Seen<'_>, desired: &Value) -> (Fit, Vec<Act>) {
    let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|s| s.phase.clone());
    let stale = seen.volume.is_some_and(|volume| !is(volume, desired));
    let lost = seen
        .claim
        .is_some_and(|claim| phase(claim).as_deref() == Some("Lost"));
    let astray = seen.claim.is_some_and(|claim| {
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
        volume.is_some_and(|volume| desired["metadata"]["name"] != volume)
    });
    let leaving = seen
        .claim
        .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
        || seen
            .volume
            .is_some_and(|volume| volume.metadata.deletion_timestamp.is_some());
    if stale || lost || astray || leaving {
        let acts = if stale {
            dismantle(seen)
        } else {
            seen.claim.into_iter().filter_map(delete_claim).collect()
        };
        return (Fit::Replacing, acts);
    }
    let held = seen.volume.and_then(held_by);
    let former = seen
        .volume
        .filter(|_| held.is_some() && held != seen.claim.map(uid));
    if let Some(volume) = former {
        return (Fit::Preparing, vec![Act::Release(volume.name_any())]);
    }
    let free = seen.volume.is_some_and(|volume| {
        let status = volume.status.as_ref();
        status.and_then(|s| s.phase.as_deref()) == Some("Available")
    });
    let fit = match (seen.volume, seen.claim.map(phase)) {
        (None, _) => Fit::Preparing,
        (Some(_), None) if !free => Fit::Preparing,
        (Some(_), Some(Some(phase))) if phase == "Bound" => Fit::Bound,
        (Some(_), _) => Fit::Binding,
    };
    (fit, Vec::new())
}

/// What takes both away: first the claim, which pods may still use, then the volume.
pub fn dismantle(seen: &Seen<'_>) -> Vec<Act> {
    let going = |deleted: bool, act: Act| (!deleted).then_some(act);
    match (seen.claim, seen.volume) {
        (Some(claim), _) => delete_claim(claim).into_iter().collect(),
        (None, Some(volume)) => going(
            volume.metadata.deletion_timestamp.is_some(),
            Act::DeleteVolume(volume.name_any(), uid(volume)),
        )
        .into_iter()
        .collect(),
        (None, None) => Vec::new(),
    }
}

fn delete_claim(claim: &PersistentVolumeClaim) -> Option<Act> {
    let act = Act::DeleteClaim(Key::of(claim), uid(claim));
    claim.metadata.deletion_timestamp.is_none().then_some(act)
}

/// Whether a volume leads where it should: that cannot be changed.
pub fn is(volume: &PersistentVolume, desired: &Value) -> bool {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    let attributes = csi.and_then(|csi| csi.volume_attributes.as_ref());
    let attributes = serde_json::to_value(attributes).unwrap_or_default();
    attributes == desired["spec"]["csi"]["volumeAttributes"]
}

/// The uid of the claim that has the volume.
fn held_by(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.uid.clone()
}
