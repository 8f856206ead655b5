//! Where the data of every claim is, as it was told last: the webhook answers from it.

use crate::plan::{name::Key, placement::Placement};
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// The nodes to prefer, by claim. An operator that has just begun knows none.
#[derive(Debug, Default)]
pub struct Placements(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    claims: BTreeMap<Key, Told>,
    /// The claims of each Dataset.
    datasets: BTreeMap<Key, Vec<Key>>,
}

#[derive(Debug)]
struct Told {
    dataset: Key,
    nodes: Vec<(String, u64)>,
}

impl Placements {
    /// The data of a Dataset is there; what was known before is forgotten.
    pub fn put(&self, dataset: &Key, placement: &Placement) {
        let mut known = self.0.write();
        known.forget(dataset);
        let claims = placement.targets.iter().map(|target| &target.claim);
        for claim in claims.clone() {
            let told = Told {
                dataset: dataset.clone(),
                nodes: placement.nodes.clone(),
            };
            known.claims.insert(claim.clone(), told);
        }
        known
            .datasets
            .insert(dataset.clone(), claims.cloned().collect());
    }

    /// A Dataset went.
    pub(crate) fn forget(&self, dataset: &Key) {
        self.0.write().forget(dataset);
    }

    /// A claim went.
    pub(crate) fn forget_claim(&self, claim: &Key) {
        self.0.write().claims.remove(claim);
    }

    /// The nodes with the data of claims, in their order.
    pub(crate) fn of<'a>(
        &self,
        namespace: &str,
        claims: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(String, u64)> {
        let known = self.0.read();
        let claims = claims.into_iter().map(|name| Key::new(namespace, name));
        let told = claims.filter_map(|claim| known.claims.get(&claim));
        told.flat_map(|told| told.nodes.iter().cloned()).collect()
    }
}

impl Known {
    fn forget(&mut self, dataset: &Key) {
        for claim in self.datasets.remove(dataset).unwrap_or_default() {
            // Another Dataset may have told of it since.
            if self
                .claims
                .get(&claim)
                .is_some_and(|t| t.dataset == *dataset)
            {
                self.claims.remove(&claim);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::placement::Target;

    fn placement(claims: &[&str], node: &str) -> Placement {
        let target = |claim: &&str| Target::of_user(Key::new("ns", *claim), "U".to_owned());
        Placement {
            targets: claims.iter().map(target).collect(),
            nodes: vec![(node.to_owned(), 100)],
        }
    }

    #[test]
    fn what_was_told_last_counts_as_long_as_there_is_a_claim() {
        let placements = Placements::default();
        let nodes = |claims: &[&str]| -> Vec<String> {
            let nodes = placements.of("ns", claims.iter().copied()).into_iter();
            nodes.map(|(node, _)| node).collect()
        };
        let [d, e] = ["d", "e"].map(|name| Key::new("ns", name));
        placements.put(&d, &placement(&["d", "mine"], "n1"));
        placements.put(&e, &placement(&["e"], "n2"));
        assert_eq!(nodes(&["d", "e", "x"]), ["n1", "n2"]);
        assert!(placements.of("elsewhere", ["d"]).is_empty());
        placements.put(&d, &placement(&["d"], "n3"));
        assert_eq!(nodes(&["d", "mine"]), ["n3"]);
        placements.put(&e, &placement(&["e", "d"], "n2"));
        placements.forget(&d);
        assert_eq!(nodes(&["d"]), ["n2"], "of the other by now");
        placements.forget_claim(&e);
        placements.forget(&e);
        assert!(nodes(&["d", "e"]).is_empty());
    }
}
