//! What a volume is: its handle, and what its PersistentVolume says of it. Checked once, here.

use forebay_types::Addresses;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    path::{Component, Path, PathBuf},
};

/// Names a volume; also a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

impl VolumeId {
    /// CSI's limit.
    const MAX: usize = 128;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VolumeId {
    type Error = String;
    fn try_from(text: String) -> Result<VolumeId, String> {
        if text.is_empty() {
            return Err("no volume id".to_owned());
        }
        if text.len() > VolumeId::MAX || !is_plain(&text) {
            return Err(format!(
                "volume id '{}': use up to {} letters, digits, '.', '_' and '-', the first no '.'",
                text.escape_debug(),
                VolumeId::MAX
            ));
        }
        Ok(VolumeId(text))
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> String {
        id.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Good as one part of a path, and never hidden or a way up.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Uid of a CacheCluster; also the name of its directory of sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterUid(String);

impl ClusterUid {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClusterUid {
    type Error = String;
    fn try_from(text: String) -> Result<ClusterUid, String> {
        if is_plain(&text) {
            return Ok(ClusterUid(text));
        }
        Err(format!(
            "'{}' is no uid of a CacheCluster",
            text.escape_debug()
        ))
    }
}

impl From<ClusterUid> for String {
    fn from(uid: ClusterUid) -> String {
        uid.0
    }
}

/// A path in the tree of a cluster: absolute, without `.`, `..` and `//`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(String);

impl TreePath {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TreePath {
    type Error = String;
    fn try_from(text: String) -> Result<TreePath, String> {
        let good = text == "/"
            || text.strip_prefix('/').is_some_and(|rest| {
                rest.split('/').all(|name| !matches!(name, "" | "." | "..")) && !rest.contains('\0')
            });
        if good {
            return Ok(TreePath(text));
        }
        Err(format!(
            "'{}' is no absolute path without '.', '..' and '//'",
            text.escape_debug()
        ))
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> String {
        path.0
    }
}

/// A directory below the root of a volume: relative, of names only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct SubPath(PathBuf);

impl SubPath {
    /// As a path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<PathBuf> for SubPath {
    type Error = String;
    fn try_from(path: PathBuf) -> Result<SubPath, String> {
        let names_only = path.components().all(|c| matches!(c, Component::Normal(_)));
        let text = path.to_string_lossy();
        if names_only && !text.is_empty() && !text.contains('\0') {
            return Ok(SubPath(path.components().collect()));
        }
        Err(format!(
            "'{}' is no relative path without '..'",
            text.escape_debug()
        ))
    }
}

impl From<SubPath> for PathBuf {
    fn from(path: SubPath) -> PathBuf {
        path.0
    }
}

/// A volume as its PersistentVolume describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its handle.
    pub id: VolumeId,
    /// The cluster that serves it.
    pub cluster: ClusterUid,
    /// Where the masters of the cluster are.
    pub masters: Addresses,
    /// What of the cluster's tree it shows.
    pub path: TreePath,
    /// What of that pods see; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<SubPath>,
}

/// Keys that others add to a volume's attributes.
const OF_KUBERNETES: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

impl Volume {
    /// Reads the attributes of a volume (`volumeAttributes` of the PersistentVolume). An attribute
    /// that is not known is refused: a misspelt `subPath` must not show the whole volume.
    pub fn parse(id: VolumeId, attributes: HashMap<String, String>) -> Result<Volume, String> {
        let (mut cluster, mut masters, mut path, mut sub_path) = (None, None, None, None);
        for (key, value) in attributes {
            match key.as_str() {
                "cluster" => cluster = Some(ClusterUid::try_from(value).map_err(bad(&key))?),
                "masters" => masters = Some(value.parse().map_err(bad(&key))?),
                "path" => path = Some(TreePath::try_from(value).map_err(bad(&key))?),
                "subPath" if value.is_empty() => {}
                "subPath" => {
                    sub_path = Some(SubPath::try_from(PathBuf::from(value)).map_err(bad(&key))?);
                }
                _ if OF_KUBERNETES.iter().any(|prefix| key.starts_with(prefix)) => {}
                _ => {
                    return Err(format!(
                        "volume attribute '{}' is not known: use cluster, masters, path, subPath",
                        key.escape_debug()
                    ));
                }
            }
        }
        let missing = |key: &str| format!("volume attribute '{key}' is missing");
        Ok(Volume {
            id,
            cluster: cluster.ok_or_else(|| missing("cluster"))?,
            masters: masters.ok_or_else(|| missing("masters"))?,
            path: path.ok_or_else(|| missing("path"))?,
            sub_path,
        })
    }
}

fn bad(key: &str) -> impl Fn(String) -> String + '_ {
    move |why| format!("volume attribute '{key}': {why}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn id(text: &str) -> VolumeId {
        VolumeId::try_from(text.to_owned()).unwrap()
    }

    pub(crate) fn volume(name: &str) -> Volume {
        parse(&[]).map(|v| Volume { id: id(name), ..v }).unwrap()
    }

    fn parse(more: &[(&str, &str)]) -> Result<Volume, String> {
        let all = [
            ("cluster", "c-1"),
            ("masters", "m-1:7000,m-2:7000"),
            ("path", "/ns/data"),
        ];
        let attributes = all.iter().chain(more);
        let attributes = attributes.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut attributes: HashMap<_, _> = attributes.collect();
        attributes.retain(|_, value| value != "-");
        Volume::parse(id("v"), attributes)
    }

    #[test]
    fn attributes_are_read() {
        let volume = parse(&[("subPath", "a//b/"), ("csi.storage.k8s.io/pod.name", "p")]).unwrap();
        assert_eq!(volume.masters.to_string(), "m-1:7000,m-2:7000");
        assert_eq!(
            volume.sub_path.as_ref().map(SubPath::as_path),
            Some(Path::new("a/b"))
        );
        let text = serde_json::to_string(&volume).unwrap();
        assert_eq!(serde_json::from_str::<Volume>(&text).unwrap(), volume);
        assert_eq!(parse(&[("subPath", "")]).unwrap().sub_path, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, expected) in [
            (("cluster", "-"), "volume attribute 'cluster' is missing"),
            (
                ("cluster", "../x"),
                "volume attribute 'cluster': '../x' is no uid of a CacheCluster",
            ),
            (("masters", "m"), "volume attribute 'masters': bad address"),
            (("path", "ns"), "'ns' is no absolute path"),
            (("path", "/a/../b"), "'/a/../b' is no absolute path"),
            (("path", "/a//b"), "'/a//b' is no absolute path"),
            (("subPath", "/etc"), "'/etc' is no relative path"),
            (("subPath", "a/../../b"), "'a/../../b' is no relative path"),
            (("subPath", "."), "'.' is no relative path"),
            (
                ("subpath", "a"),
                "volume attribute 'subpath' is not known: use cluster, masters, path, subPath",
            ),
        ] {
            let error = parse(&[more]).unwrap_err();
            assert!(error.contains(expected), "{more:?}: {error}");
        }
        for bad in ["", ".x", "a/b", "a b", &"x".repeat(129)] {
            assert!(VolumeId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
