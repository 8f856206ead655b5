//! `forebay backup`, `forebay restore` and `forebay journal dump`: a master's data outside of the master.

use crate::{
    args::{BackupArgs, JournalDumpArgs, RestoreArgs},
    failure::Failure,
    output,
};
use forebay_client::Master;
use forebay_master::{
    backup::{self, Taken},
    config::MasterConfig,
    dump::{self, Dumped},
};
use forebay_service::config;
use std::io::{self, Write};

/// Takes a backup; what an earlier one in the same directory has already is not sent again.
pub(crate) async fn take(args: &BackupArgs) -> Result<(), Failure> {
    let masters = args.cluster.master.as_ref().ok_or_else(|| {
        Failure::usage("which cluster? give --master ADDRESS, or set FOREBAY_MASTER")
    })?;
    let Taken { manifest, sent } = backup::take(&Master::new(masters), &args.dir).await?;
    let total = manifest.files.iter().map(|item| item.size).sum();
    if args.cluster.json {
        let said = serde_json::json!({
            "cluster": manifest.cluster,
            "index": manifest.index,
            "bytes": total,
            "bytes_sent": sent,
        });
        println!("{said}");
    } else {
        println!(
            "{} holds cluster {} up to journal index {}: {}, of which {} are new",
            args.dir.display(),
            manifest.cluster,
            manifest.index,
            output::size(total),
            output::size(sent)
        );
    }
    Ok(())
}

/// Makes a master's directory from a backup.
pub(crate) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let config: MasterConfig = config::load(Some(&args.config))?;
    config.validate()?;
    let manifest = backup::restore(&args.dir, &config)?;
    println!(
        "{} holds cluster {} up to journal index {}: start it with 'forebay master --config {}'; others join \
         it with empty directories",
        config.data_dir.display(),
        manifest.cluster,
        manifest.index,
        args.config.display()
    );
    Ok(())
}

/// Prints the entries of a journal that no master has open.
pub(crate) fn dump(args: &JournalDumpArgs) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let (mut left, mut written) = (args.limit, Ok(()));
    let tell = |entry: &Dumped| {
        if left == 0 {
            return false;
        }
        left -= 1;
        written = if args.json {
            writeln!(out, "{}", entry.to_json())
        } else {
            let Dumped { index, term, .. } = entry;
            writeln!(out, "{index:>10}  {term:>4}  {}", entry.describe())
        };
        written.is_ok()
    };
    dump::dump(&args.data_dir, args.from, tell)?;
    match written {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
