//! `forebay fs ls`.

use super::walk::{attr, read_dir, resolve};
use crate::{
    cluster::{Target, shown},
    failure::Failure,
    output,
};
use forebay_proto::v1::{Attr, DirEntry};
use futures::TryStreamExt;
use std::{io::Write, pin::pin};

/// Lists a directory in the order of names, or the file itself.
pub(crate) async fn run(target: &Target, json: bool) -> Result<(), Failure> {
    let found = resolve(target).await?;
    let it = attr(found.attr)?;
    let mut out = std::io::stdout().lock();
    if !it.directory {
        return line(&mut out, &found.name, &it, json);
    }
    let mut batches = pin!(read_dir(target, it.ino).await?);
    while let Some(batch) = batches.try_next().await? {
        for DirEntry { name, attr: entry } in batch {
            line(&mut out, &name, &attr(entry)?, json)?;
        }
    }
    Ok(())
}

fn line(out: &mut impl Write, name: &[u8], attr: &Attr, json: bool) -> Result<(), Failure> {
    let written = if json {
        let value = serde_json::json!({
            "name": shown(name),
            "kind": if attr.directory { "directory" } else { "file" },
            "size": attr.size,
            "mtime_ns": attr.mtime_ns,
            "inode": attr.ino,
        });
        writeln!(out, "{value}")
    } else {
        let (kind, slash) = if attr.directory {
            ('d', "/")
        } else {
            ('-', "")
        };
        writeln!(
            out,
            "{kind} {:>12} {:>19} {}{slash}",
            attr.size,
            output::time(attr.mtime_ns),
            shown(name)
        )
    };
    written.map_err(Failure::from)
}
