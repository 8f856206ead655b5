//! `[PATH=]URI` and `[PATH:]KEY=VALUE` of the command line. Pure.

use crate::{args::MountArgs, failure::Failure};
use forebay_types::{MountSpec, SyncPolicy};
use forebay_ufs::config::OPTIONS;
use std::{collections::BTreeMap, path::Path};

/// The key among the options that is ours, not the under store's.
const SYNC: &str = "sync";

/// The mount table that the command line asks for.
pub(crate) fn mounts(args: &MountArgs) -> Result<Vec<MountSpec>, Failure> {
    let mut mounts: Vec<MountSpec> = Vec::new();
    for text in &args.uris {
        let (path, uri) = split_uri(text);
        let path = tree_path(path)?;
        if mounts.iter().any(|m| m.path == path) {
            return Err(Failure::usage(format!(
                "two under stores at {path}: give each its own PATH=URI"
            )));
        }
        let uri = absolute(uri)?;
        mounts.push(MountSpec {
            path,
            uri,
            options: BTreeMap::new(),
            sync: SyncPolicy::default(),
            credentials: None,
        });
    }
    // Options for all first, so that one with a path overrides them.
    let mut options = args
        .options
        .iter()
        .map(|o| split_option(o))
        .collect::<Result<Vec<_>, _>>()?;
    options.sort_by_key(|(path, ..)| path.is_some());
    for (path, key, value) in options {
        let mut hit = false;
        // An option for all goes to those that know it; one that nobody knows goes to all, and the
        // under store says what it would know.
        let known = mounts.iter().any(|m| knows(m, &key));
        for mount in mounts.iter_mut().filter(|m| match &path {
            Some(path) => *path == m.path,
            None => !known || knows(m, &key),
        }) {
            hit = true;
            if key == SYNC {
                mount.sync = value.parse().map_err(Failure::usage)?;
            } else {
                mount.options.insert(key.clone(), value.clone());
            }
        }
        if let (false, Some(path)) = (hit, path) {
            return Err(Failure::usage(format!(
                "option '{key}' is for {path}, but nothing is mounted there: add {path}=URI"
            )));
        }
    }
    Ok(mounts)
}

/// Whether the mount's under store has such an option.
fn knows(mount: &MountSpec, key: &str) -> bool {
    let scheme = mount.uri.split("://").next().unwrap_or_default();
    key == SYNC
        || OPTIONS
            .iter()
            .any(|o| o.key == key && o.schemes.iter().any(|s| s.as_str() == scheme))
}

/// A URI may itself hold `=`, but a tree path never holds `://`.
fn split_uri(text: &str) -> (&str, &str) {
    match text.split_once('=') {
        Some((path, uri)) if !path.contains("://") => (path, uri),
        _ => ("/", text),
    }
}

/// Normalises a path of the cluster's tree.
pub(crate) fn tree_path(text: &str) -> Result<String, Failure> {
    let mut path = String::new();
    for segment in text.split('/').filter(|s| !s.is_empty()) {
        if matches!(segment, "." | "..") {
            return Err(Failure::usage(format!(
                "bad mount path '{text}': no '.' or '..' in it"
            )));
        }
        path.push('/');
        path.push_str(segment);
    }
    Ok(if path.is_empty() {
        "/".to_owned()
    } else {
        path
    })
}

/// A bare path is a local directory.
fn absolute(uri: &str) -> Result<String, Failure> {
    if uri == MountSpec::SCRATCH {
        return Ok(uri.to_owned());
    }
    if let Some((scheme, rest)) = uri.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        // The URI is not printed: it is shown to everybody, and so is what is in it.
        if scheme != "file" && authority.contains('@') {
            return Err(Failure::usage(format!(
                "a {scheme} URI holds a user or password: take it out and give credentials by \
                 environment variables, files or instance identity"
            )));
        }
        return Ok(uri.to_owned());
    }
    if !uri.starts_with(['/', '.']) {
        return Err(Failure::usage(format!(
            "bad URI '{uri}': use s3://bucket/prefix, gs://…, az://…, file:///dir, /dir or scratch:"
        )));
    }
    let path = std::path::absolute(Path::new(uri))
        .map_err(|error| Failure::usage(format!("bad path '{uri}': {error}")))?;
    let path = path.to_str().ok_or_else(|| {
        Failure::usage(format!(
            "bad path '{uri}': a mounted directory's path must be UTF-8"
        ))
    })?;
    Ok(format!("file://{path}"))
}

fn split_option(text: &str) -> Result<(Option<String>, String, String), Failure> {
    let bad = || {
        Failure::usage(format!(
            "bad option '{text}': use KEY=VALUE or PATH:KEY=VALUE"
        ))
    };
    let (left, value) = text.split_once('=').ok_or_else(bad)?;
    let (path, key) = match left.rsplit_once(':') {
        Some((path, key)) => (Some(tree_path(path)?), key),
        None => (None, left),
    };
    if key.is_empty() {
        return Err(bad());
    }
    Ok((path, key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uris: &[&str], options: &[&str]) -> Result<Vec<MountSpec>, Failure> {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        mounts(&MountArgs {
            uris: own(uris),
            options: own(options),
        })
    }

    #[test]
    fn paths_and_options_find_their_mounts() {
        let mounts = parse(
            &[
                "s3://a/p=q@r",
                "models//llama/=s3://b",
                "/data=/srv",
                "/tmp=scratch:",
            ],
            &[
                "/models/llama:region=eu",
                "region=us",
                "sync=never",
                "endpoint=http://h:1/x?a=b",
            ],
        )
        .unwrap();
        let of = |i: usize| (mounts[i].path.as_str(), mounts[i].uri.as_str());
        assert_eq!(of(0), ("/", "s3://a/p=q@r"));
        assert_eq!(of(1), ("/models/llama", "s3://b"));
        assert_eq!(of(2), ("/data", "file:///srv"));
        assert_eq!(of(3), ("/tmp", "scratch:"));
        assert!(mounts[3].is_scratch() && mounts[3].options.is_empty());
        assert_eq!(mounts[0].options["region"], "us");
        assert_eq!(mounts[1].options["region"], "eu");
        assert_eq!(mounts[0].options["endpoint"], "http://h:1/x?a=b");
        assert_eq!(mounts[2].sync, SyncPolicy::Never);
        assert_eq!(mounts[2].options.len(), 0, "a directory knows neither");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_value() {
        for (uris, options, word) in [
            (&["s3://a", "s3://b"][..], &[][..], "two under stores"),
            (&["bucket"], &[], "'bucket'"),
            (&["../x/..=s3://a"], &[], "'../x/..'"),
            (&["s3://key:secret@a"], &[], "user or password"),
            (&["s3://a"], &["/other:k=v"], "/other"),
            (&["s3://a"], &["novalue"], "'novalue'"),
            (&["s3://a"], &["=v"], "'=v'"),
            (&["s3://a"], &["sync=soon"], "'soon'"),
        ] {
            let line = parse(uris, options).unwrap_err().to_string();
            assert!(line.contains(word), "{line}");
        }
    }
}
