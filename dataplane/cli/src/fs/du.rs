//! `forebay fs du`.

use super::walk::{attr, read_dir, resolve};
use crate::{
    cluster::{Target, shown},
    failure::Failure,
    output,
};
use futures::TryStreamExt;
use serde::Serialize;
use std::pin::pin;

#[derive(Clone, Copy, Default, Serialize)]
struct Usage {
    files: u64,
    directories: u64,
    bytes: u64,
}

impl Usage {
    fn add(&mut self, other: Usage) {
        self.files += other.files;
        self.directories += other.directories;
        self.bytes += other.bytes;
    }
}

/// One row for each entry of the directory, and the sum.
pub(crate) async fn run(target: &Target, json: bool) -> Result<(), Failure> {
    let found = resolve(target).await?;
    let it = attr(found.attr)?;
    let mut rows: Vec<(String, Usage)> = Vec::new();
    let mut total = Usage::default();
    if it.directory {
        let mut own = Usage::default();
        let mut batches = pin!(read_dir(target, it.ino).await?);
        while let Some(batch) = batches.try_next().await? {
            for entry in batch {
                let child = attr(entry.attr)?;
                if child.directory {
                    let usage = below(target, child.ino).await?;
                    total.add(usage);
                    rows.push((format!("{}/", shown(&entry.name)), usage));
                } else {
                    own.add(Usage {
                        files: 1,
                        directories: 0,
                        bytes: child.size,
                    });
                }
            }
        }
        total.add(own);
        total.directories += 1;
    } else {
        total = Usage {
            files: 1,
            directories: 0,
            bytes: it.size,
        };
    }
    if json {
        for (name, usage) in &rows {
            println!("{}", serde_json::json!({ "path": name, "usage": usage }));
        }
        println!(
            "{}",
            serde_json::json!({ "path": target.shown(), "total": total })
        );
        return Ok(());
    }
    rows.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.bytes));
    rows.push((target.shown(), total));
    let mut table = output::table(&["SIZE", "FILES", "DIRECTORIES", "PATH"], &[0, 1, 2]);
    for (name, usage) in rows {
        table.add_row([
            output::size(usage.bytes),
            usage.files.to_string(),
            usage.directories.to_string(),
            name,
        ]);
    }
    output::print(&table);
    Ok(())
}

/// Everything below a directory, itself included. One directory at a time: the master does the work.
async fn below(target: &Target, dir: u64) -> Result<Usage, Failure> {
    let mut usage = Usage::default();
    let mut waiting = vec![dir];
    while let Some(dir) = waiting.pop() {
        usage.directories += 1;
        let mut batches = pin!(read_dir(target, dir).await?);
        while let Some(batch) = batches.try_next().await? {
            for entry in batch {
                let child = attr(entry.attr)?;
                if child.directory {
                    waiting.push(child.ino);
                } else {
                    usage.files += 1;
                    usage.bytes += child.size;
                }
            }
        }
    }
    Ok(usage)
}
