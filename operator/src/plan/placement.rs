//! Where the data of a Dataset is, for pods that mount it: nodes with weights, in a ConfigMap beside each claim that
//! the policy of [`locality`](crate::plan::locality) reads.

use crate::plan::{
    config::hash,
    mount,
    name::{
        DATASET, DATASET_NAME, DATASET_NAMESPACE, Key, MANAGED_BY, MANAGER, owner, root, texts, uid,
    },
};
use forebay_crds::Dataset;
use forebay_proto::v1::MountUsage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Label of a ConfigMap that says where data is.
pub const PLACEMENT: &str = "forebay.io/placement";
/// Most nodes that are named.
const NODES_MOST: usize = 10;
/// A node that holds less than this part of what the fullest holds is not named.
const LEAST_PART: u64 = 10;
/// Nor one that holds less than so many times what workers hold that are not named: it is one of many.
const STANDS_OUT: u64 = 2;
/// Weights are multiples of this, so that few changes are worth a write.
const STEP: u64 = 10;
/// The longest name of an object.
const NAME_MOST: usize = 253;

/// What workers hold of a Dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes, by worker: those that have most.
    pub workers: BTreeMap<u64, u64>,
    /// Bytes of all the others.
    elsewhere: u64,
}

/// A claim whose pods are to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The claim.
    pub claim: Key,
    /// What the ConfigMap goes with.
    pub owner: OwnerReference,
}

/// Where a Dataset's data is, for the pods of its claims.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Its claims.
    pub targets: Vec<Target>,
    /// The nodes to prefer, with weights, the heaviest first.
    pub nodes: Vec<(String, u64)>,
}

/// What is known, by path, of the mounts of a Dataset: who holds it. None while nothing is known of any.
pub fn held(dataset: &Dataset, usage: &BTreeMap<String, MountUsage>) -> Option<Held> {
    let root = root(&Key::of(dataset));
    let paths = dataset.spec.mounts.iter().map(|m| &m.path);
    let known = paths.filter_map(|path| usage.get(&mount::path(&root, path)));
    let mut held: Option<Held> = None;
    for usage in known {
        let held = held.get_or_insert_default();
        let mut others = usage.cached_bytes;
        for holder in &usage.holders {
            let bytes = held.workers.entry(holder.worker).or_default();
            *bytes = bytes.saturating_add(holder.cached_bytes);
            others = others.saturating_sub(holder.cached_bytes);
        }
        held.elsewhere = held.elsewhere.saturating_add(others);
    }
    held
}

/// The nodes to prefer, with weights from 1 to 100, the heaviest first. `nodes` are those of the workers, of which there are
/// `count` in all.
pub fn weights(held: &Held, nodes: &BTreeMap<u64, String>, count: usize) -> Vec<(String, u64)> {
    let mut bytes = BTreeMap::<&str, u64>::new();
    for (worker, held) in &held.workers {
        if let Some(node) = nodes.get(worker) {
            let bytes = bytes.entry(node).or_default();
            *bytes = bytes.saturating_add(*held);
        }
    }
    let most = bytes.values().copied().max().unwrap_or(0);
    let others = count.saturating_sub(held.workers.len()) as u64;
    let usual = held.elsewhere.checked_div(others).unwrap_or(0);
    let least = (most / LEAST_PART).max(usual.saturating_mul(STANDS_OUT));
    let preferred = bytes.into_iter().filter(|(_, n)| *n > 0 && *n >= least);
    let weight = |bytes: u64| {
        let steps = (u128::from(bytes) * u128::from(100 / STEP)).div_ceil(u128::from(most));
        STEP * steps as u64
    };
    let heaviest: BTreeSet<_> = preferred
        .map(|(node, bytes)| (Reverse(weight(bytes)), node))
        .collect();
    let heaviest = heaviest.into_iter().take(NODES_MOST);
    heaviest
        .map(|(Reverse(weight), node)| (node.to_owned(), weight))
        .collect()
}

impl Target {
    /// The claim with the Dataset's name.
    pub fn own(dataset: &Dataset) -> Target {
        let claim = Key::of(dataset);
        let owner = owner("Dataset", &claim.name, &uid(dataset));
        Target { claim, owner }
    }

    /// A claim that a user made, with its uid.
    pub fn of_user(claim: Key, uid: String) -> Target {
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "PersistentVolumeClaim".to_owned(),
            name: claim.name.clone(),
            uid,
            ..OwnerReference::default()
        };
        Target { claim, owner }
    }
}

/// The ConfigMap of a claim.
pub fn key(claim: &Key) -> Key {
    let mut name = format!("forebay-placement-{}", claim.name);
    if name.len() > NAME_MOST {
        let end = hash(&name);
        name.truncate(NAME_MOST - 1 - end.len());
        // What comes before a hyphen must be a letter or a digit.
        name = format!("{}-{end}", name.trim_end_matches(['.', '-']));
    }
    Key::new(&claim.namespace, name)
}

/// The ConfigMaps that say it.
pub fn objects(dataset: &Dataset, placement: &Placement) -> Vec<Value> {
    let of = Key::of(dataset);
    let uid = uid(dataset);
    let labels = texts(&[
        (MANAGED_BY, MANAGER),
        (DATASET, &uid),
        (DATASET_NAMESPACE, &of.namespace),
        (DATASET_NAME, &of.name),
        (PLACEMENT, "true"),
    ]);
    let nodes = placement.nodes.iter();
    let nodes = nodes.map(|(node, weight)| format!("{node}={weight}"));
    let nodes = nodes.collect::<Vec<_>>().join(",");
    let object = |target: &Target| {
        let Key { namespace, name } = key(&target.claim);
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "ownerReferences": [target.owner],
            },
            "data": {"claim": target.claim.name, "nodes": nodes},
        })
    };
    placement.targets.iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::v1::Holder;

    fn dataset() -> Dataset {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "ns", "uid": "D"},
            "spec": {"clusterRef": {"name": "c"}, "mounts": [
                {"uri": "s3://a", "path": "/"}, {"uri": "s3://b", "path": "/in"},
            ]},
        }))
        .unwrap()
    }

    fn usage(holders: &[(u64, u64)], cached_bytes: u64) -> MountUsage {
        let holder = |(worker, cached_bytes): &(u64, u64)| Holder {
            worker: *worker,
            cached_bytes: *cached_bytes,
        };
        MountUsage {
            cached_bytes,
            holders: holders.iter().map(holder).collect(),
            ..MountUsage::default()
        }
    }

    /// What one mount comes to: workers hold so much, of `cached` bytes on `count` workers in all.
    fn told(holders: &[(u64, u64)], cached: u64, count: usize) -> String {
        let usage = [("/ns/d".to_owned(), usage(holders, cached))].into();
        let nodes = (0..100).map(|id| (id, format!("n{id:02}"))).collect();
        let placement = Placement {
            targets: vec![Target::own(&dataset())],
            nodes: weights(&held(&dataset(), &usage).unwrap(), &nodes, count),
        };
        let objects = objects(&dataset(), &placement);
        objects[0]["data"]["nodes"].as_str().unwrap().to_owned()
    }

    #[test]
    fn weights_are_shares_of_what_the_fullest_has() {
        assert_eq!(told(&[], 0, 2), "");
        assert_eq!(told(&[(1, 7)], 7, 2), "n01=100");
        assert_eq!(told(&[(2, 1000), (1, 310)], 1310, 2), "n02=100,n01=40");
        assert_eq!(told(&[(2, 1000), (1, 100)], 1100, 2), "n02=100,n01=10");
        assert_eq!(
            told(&[(2, 1000), (1, 99)], 1099, 2),
            "n02=100",
            "too little"
        );
        let most = u64::MAX;
        assert_eq!(told(&[(2, most), (1, most)], most, 2), "n01=100,n02=100");
        // A little more or less is not worth a write, whoever has most.
        assert_eq!(told(&[(1, 995), (2, 1000)], 1995, 2), "n01=100,n02=100");
        // A worker whose pod is not known.
        assert_eq!(told(&[(100, 500), (1, 100)], 600, 2), "n01=100");
    }

    #[test]
    fn nobody_is_preferred_where_many_hold_as_much() {
        let ten: Vec<(u64, u64)> = (0..10).map(|id| (id, 100)).collect();
        assert_eq!(told(&ten, 1000, 10).split(',').count(), 10, "all there are");
        assert_eq!(
            told(&ten, 1000, 100).split(',').count(),
            10,
            "the only ones"
        );
        assert_eq!(
            told(&ten, 10_000, 100),
            "",
            "ten of a hundred that have it all"
        );
        assert_eq!(told(&ten, 1400, 100).split(',').count(), 10, "few besides");
    }

    #[test]
    fn mounts_of_a_dataset_are_summed() {
        let all = [
            ("/ns/d".to_owned(), usage(&[(1, 100)], 100)),
            ("/ns/d/in".to_owned(), usage(&[(2, 400), (1, 100)], 530)),
            ("/ns/other".to_owned(), usage(&[(3, 1000)], 1000)),
        ];
        let held = held(&dataset(), &all.into()).unwrap();
        assert_eq!(held.workers, [(1, 200), (2, 400)].into());
        assert_eq!(held.elsewhere, 30);
        assert_eq!(super::held(&dataset(), &BTreeMap::new()), None);
    }

    #[test]
    fn every_claim_has_a_map_of_its_own() {
        let long = "x".repeat(200) + "." + &"y".repeat(52);
        let claims = ["d", "mine", &long].map(|name| Target {
            claim: Key::new("ns", name),
            owner: owner("Dataset", "d", "D"),
        });
        let placement = Placement {
            targets: claims.into(),
            nodes: vec![("n1".to_owned(), 100)],
        };
        let objects = objects(&dataset(), &placement);
        let names = objects.iter().map(|o| o["metadata"]["name"].as_str());
        let names: Vec<&str> = names.map(Option::unwrap).collect();
        assert_eq!(
            names[..2],
            ["forebay-placement-d", "forebay-placement-mine"]
        );
        assert_eq!(names[2].len(), NAME_MOST);
        assert_eq!(objects[2]["data"]["claim"], long);
        assert_eq!(objects[1]["metadata"]["labels"][DATASET_NAME], "d");
        let cut = key(&Key::new("ns", "x".repeat(217) + ".y" + &"z".repeat(40)));
        assert!(!cut.name.contains(".-"), "{}", cut.name);
    }
}
