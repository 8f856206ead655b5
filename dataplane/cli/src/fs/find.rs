//! `forebay fs find`.

use super::walk::{attr, read_dir, resolve};
use crate::{
    args::FindArgs,
    cluster::{Target, join, shown},
    duration_arg,
    failure::Failure,
};
use bytes::Bytes;
use forebay_proto::v1::Attr;
use futures::TryStreamExt;
use globset::{Glob, GlobMatcher};
use jiff::Timestamp;
use std::{ffi::OsStr, io::Write, os::unix::ffi::OsStrExt, pin::pin};

/// What must hold.
struct Filter {
    name: Option<GlobMatcher>,
    directory: Option<bool>,
    sizes: std::ops::RangeInclusive<u64>,
    not_before_ns: i64,
}

impl Filter {
    fn new(args: &FindArgs, now: Timestamp) -> Result<Filter, Failure> {
        let name = args
            .name
            .as_deref()
            .map(|glob| {
                Glob::new(glob)
                    .map_err(|e| Failure::usage(format!("bad glob '{glob}': {}", e.kind())))
            })
            .transpose()?
            .map(|glob| glob.compile_matcher());
        let not_before_ns = match &args.newer_than {
            None => i64::MIN,
            Some(text) => {
                let age = duration_arg::parse(text)?;
                i64::try_from(now.as_nanosecond() - age.as_nanos() as i128).unwrap_or(i64::MIN)
            }
        };
        Ok(Filter {
            name,
            directory: args.kind.as_deref().map(|kind| kind == "d"),
            sizes: args.min_size.map_or(0, |s| s.0)..=args.max_size.map_or(u64::MAX, |s| s.0),
            not_before_ns,
        })
    }

    fn accepts(&self, name: &[u8], attr: &Attr) -> bool {
        self.directory.is_none_or(|wanted| wanted == attr.directory)
            && self.sizes.contains(&attr.size)
            && attr.mtime_ns >= self.not_before_ns
            && self
                .name
                .as_ref()
                .is_none_or(|glob| glob.is_match(OsStr::from_bytes(name)))
    }
}

/// Prints the paths that match, as they are found, the starting point included.
pub(crate) async fn run(target: &Target, args: &FindArgs, json: bool) -> Result<(), Failure> {
    let filter = Filter::new(args, Timestamp::now())?;
    let found = resolve(target).await?;
    let it = attr(found.attr)?;
    let mut out = std::io::stdout().lock();
    let mut print = |path: &Bytes, name: &[u8], attr: &Attr| -> Result<(), Failure> {
        if !filter.accepts(name, attr) {
            return Ok(());
        }
        if json {
            let kind = if attr.directory { "directory" } else { "file" };
            let line = serde_json::json!({
                "path": shown(path), "kind": kind, "size": attr.size, "mtime_ns": attr.mtime_ns,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}", shown(path))?;
        }
        Ok(())
    };
    print(&target.path, &found.name, &it)?;
    let mut waiting = if it.directory {
        vec![(target.path.clone(), it.ino)]
    } else {
        Vec::new()
    };
    while let Some((dir, ino)) = waiting.pop() {
        let mut batches = pin!(read_dir(target, ino).await?);
        while let Some(batch) = batches.try_next().await? {
            for entry in batch {
                let child = attr(entry.attr)?;
                let path = join(&dir, &entry.name);
                print(&path, &entry.name, &child)?;
                if child.directory {
                    waiting.push((path, child.ino));
                }
            }
        }
    }
    Ok(())
}
