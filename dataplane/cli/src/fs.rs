//! `forebay fs …`: one file per tool.

mod cat;
mod du;
mod find;
mod load;
mod location;
mod ls;
mod mount;
mod mounts;
mod problems;
mod stat;
mod steer;
mod walk;

use crate::{
    args::{FsArgs, FsCommand},
    cluster::Target,
    failure::Failure,
};
use std::ffi::OsStr;

/// Runs one tool.
pub(crate) async fn run(args: FsArgs) -> Result<(), Failure> {
    let master = args.cluster.master.as_ref();
    let json = args.cluster.json;
    let at = |path: &OsStr| Target::find(master, path);
    match &args.command {
        FsCommand::Ls(a) => ls::run(&at(&a.path)?, json).await,
        FsCommand::Stat(a) => stat::run(&at(&a.path)?, json).await,
        FsCommand::Cat(a) => cat::run(&at(&a.path)?).await,
        FsCommand::Du(a) => du::run(&at(&a.path)?, json).await,
        FsCommand::Find(a) => find::run(&at(&a.path)?, a, json).await,
        FsCommand::Location(a) => location::run(&at(&a.path)?, json).await,
        FsCommand::Mounts(a) => mounts::run(&at(&a.path)?, json).await,
        FsCommand::Mount(a) => mount::mount(master, a).await,
        FsCommand::Unmount(a) => mount::unmount(master, a).await,
        FsCommand::Load(a) => load::run(&at(&a.path)?, a, json).await,
        FsCommand::Free(a) => steer::free(&at(&a.path)?, json).await,
        FsCommand::Pin(a) => steer::pin(&at(&a.path)?, true, json).await,
        FsCommand::Unpin(a) => steer::pin(&at(&a.path)?, false, json).await,
        FsCommand::Sync(a) => steer::sync(&at(&a.path)?, a.recursive, json).await,
        FsCommand::Problems(a) => problems::run(&at(&a.path)?, a.limit, json).await,
    }
}
