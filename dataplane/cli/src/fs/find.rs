//! `forebay fs find`.

use super::walk::{attr, read_dir, resolve};
use crate::{
    args::FindArgs,
    cluster::{Target, join, shown},
    failure::Failure,
};
use bytes::Bytes;
use forebay_proto::v1::Attr;
use futures::TryStreamExt;
use globset::{Glob, GlobMatcher};
use jiff::Timestamp;
use std::{ffi::OsStr, io::Write, os::unix::ffi::OsStrExt, pin::pin, time::Duration};

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
                let age = age(text)?;
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

fn age(text: &str) -> Result<Duration, Failure> {
    let bad = || Failure::usage(format!("bad age '{text}': use 90s, 15m, 6h or 14d"));
    let (number, seconds) = match text.char_indices().last() {
        Some((i, 's')) => (&text[..i], 1),
        Some((i, 'm')) => (&text[..i], 60),
        Some((i, 'h')) => (&text[..i], 3600),
        Some((i, 'd')) => (&text[..i], 86_400),
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(bad)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read() {
        assert_eq!(age("14d").unwrap(), Duration::from_hours(14 * 24));
        for text in ["", "d", "14", "14w", "-1s", "99999999999999999999d"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
