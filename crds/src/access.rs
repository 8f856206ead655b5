//! Who may use an object from another namespace.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Namespaces beside the object's own that may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Names of namespaces, such as `team-a`, or `*` alone for all of them. Default: none but the
    /// object's own. A name that is taken out ends nothing that is in use already; it refuses what is new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(n, n == '*' || n.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))")
            .message("names of namespaces, such as team-a, or * for all of them"),
        validation = Rule::new("!('*' in self) || self.size() == 1")
            .message("* stands for all namespaces: give no other name beside it"),
    )]
    pub namespaces: Vec<String>,
}

impl Access {
    /// Whether `namespace`, which is not the object's own, may use it.
    pub fn grants(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|n| n == "*" || n == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_named_is_granted() {
        let access = |names: &[&str]| Access {
            namespaces: names.iter().map(|&name| name.to_owned()).collect(),
        };
        assert!(!access(&[]).grants("a"));
        assert!(access(&["a", "b"]).grants("b"));
        assert!(!access(&["a"]).grants("ab"));
        assert!(access(&["*"]).grants("ab"));
    }
}
