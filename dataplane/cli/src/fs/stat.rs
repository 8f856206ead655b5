//! `forebay fs stat`.

use super::{
    location::replicas,
    walk::{attr, resolve},
};
use crate::{cluster::Target, failure::Failure, output};

/// Attributes, and for a file where its bytes come from and how much of it is cached.
pub(crate) async fn run(target: &Target, json: bool) -> Result<(), Failure> {
    let found = resolve(target).await?;
    let it = attr(found.attr)?;
    let location = if it.directory {
        None
    } else {
        Some(replicas(target).await?)
    };
    let file = location.as_ref().and_then(|l| l.file.clone());
    let fingerprint = file.as_ref().and_then(|f| f.fingerprint.clone());
    let cached = location
        .as_ref()
        .and_then(|l| l.replicas.iter().map(|r| r.cached_bytes).max())
        .unwrap_or(0);
    if json {
        let value = serde_json::json!({
            "path": target.shown(),
            "kind": if it.directory { "directory" } else { "file" },
            "inode": it.ino,
            "parent": found.parent,
            "version": it.version,
            "size": it.size,
            "mtime_ns": it.mtime_ns,
            "mode": it.mode,
            "mount": file.as_ref().map(|f| f.mount),
            "key": file.as_ref().map(|f| crate::cluster::shown(&f.key)),
            "etag": fingerprint.map(|f| f.etag),
            "cached_bytes": if it.directory { None } else { Some(cached) },
        });
        println!("{value}");
        return Ok(());
    }
    let mut rows = vec![
        ("path", target.shown()),
        (
            "kind",
            if it.directory { "directory" } else { "file" }.to_owned(),
        ),
        ("inode", it.ino.to_string()),
        ("modified", output::time(it.mtime_ns)),
    ];
    if let (Some(file), Some(fingerprint)) = (file, fingerprint) {
        rows.push((
            "size",
            format!("{} ({} bytes)", output::size(it.size), it.size),
        ));
        rows.push(("version", it.version.to_string()));
        rows.push(("key", crate::cluster::shown(&file.key)));
        rows.push(("etag", fingerprint.etag));
        rows.push((
            "cached",
            format!(
                "{} ({})",
                output::size(cached),
                output::percent(cached, it.size)
            ),
        ));
    }
    for (name, value) in rows {
        println!("{name:<10}{value}");
    }
    Ok(())
}
