//! `forebay bench meta`: operations on the metadata of a running cluster.

use super::{
    acked::Acked,
    caller::{ACCESS, Bench, Caller, Dir, needs_file},
    phase::{Budget, Phase, Tally, print},
};
use crate::{
    args::{ClusterArgs, MetaBenchArgs, Operation, Planned},
    duration_arg,
    failure::Failure,
    mount_arg,
    signal::StopSignals,
};
use forebay_client::{Master, Session};
use forebay_proto::v1::ResolveRequest;
use forebay_types::{Code, Ino, MountSpec, Name, SyncPolicy};
use futures::future::try_join_all;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Operations of a phase, and files made for those that need some, unless told otherwise.
const COUNT: u64 = 100_000;

/// Measures, and prints what it found.
pub(crate) async fn run(cluster: &ClusterArgs, args: &MetaBenchArgs) -> Result<(), Failure> {
    let address = cluster.master.as_ref().ok_or_else(|| {
        Failure::usage("which cluster? give --master ADDRESS, or set FOREBAY_MASTER")
    })?;
    let limit = args
        .duration
        .as_deref()
        .map(duration_arg::parse)
        .transpose()?;
    let acked = Acked::create(args.acked.as_deref())?;
    let mut stop = StopSignals::install()?;
    let master = if args.spread_reads {
        Master::spreading_reads(address)
    } else {
        Master::new(address)
    };
    let client = format!("bench pid {}", std::process::id());
    let session = Session::open(&master, &client).await?;
    let mounted = match &args.path {
        Some(_) => None,
        None => Some(mount(&master).await?),
    };
    let top = match (&args.path, &mounted) {
        (Some(path), _) => mount_arg::tree_path(path)?,
        (None, mounted) => mounted.clone().unwrap_or_default(),
    };
    let bench = Arc::new(Bench {
        master,
        session,
        acked,
        directories: args.directories,
    });
    let measured = measure(&bench, args, limit, &top, &mut stop).await;
    if let Some(path) = mounted.filter(|_| !args.keep && args.acked.is_none()) {
        bench.master.unmount(&path).await?;
    }
    let phases = measured?;
    if cluster.json {
        for phase in &phases {
            println!("{}", phase.json());
        }
    } else {
        print(&phases);
    }
    // What was acknowledged was not found: that is no matter of speed.
    if phases
        .iter()
        .any(|phase| phase.tally.has_code(Code::Corrupt))
    {
        return Err(Failure::run("a file that was acknowledged was not found"));
    }
    Ok(())
}

async fn measure(
    bench: &Arc<Bench>,
    args: &MetaBenchArgs,
    limit: Option<Duration>,
    top: &str,
    stop: &mut StopSignals,
) -> Result<Vec<Phase>, Failure> {
    let dirs = directories(bench, args, top).await?;
    let caller = |number| {
        let dir = &dirs[usize::from(number) % dirs.len()];
        Caller::new(bench.clone(), number, dir.clone())
    };
    let mut callers: Vec<Caller> = (0..args.in_flight).map(caller).collect();
    let mut phases = Vec::new();
    for planned in &args.operations {
        let Planned {
            operation,
            count,
            files: among,
        } = planned;
        let files: usize = callers.iter().map(Caller::files).sum();
        let count = count.or(args.count);
        let wanted = match operation {
            Operation::Remove => count.unwrap_or(COUNT),
            Operation::Mix => count.unwrap_or(COUNT).min(COUNT),
            one if needs_file(*one) && files == 0 => count.unwrap_or(COUNT).min(COUNT),
            _ => 0,
        };
        if let Some(lacking) = wanted.checked_sub(files as u64).filter(|n| *n > 0) {
            let budget = Arc::new(Budget::new(lacking, None));
            let (made, stopped) = all(&mut callers, Operation::Create, &budget, stop).await?;
            if let Some(error) = made.last_error() {
                return Err(Failure::run(format!("cannot make the files: {error}")));
            }
            if stopped {
                break;
            }
        }
        let count = match limit {
            Some(_) => count.unwrap_or(u64::MAX),
            None => count.unwrap_or(COUNT),
        };
        let budget = Arc::new(Budget::new(count, limit));
        let each = among.map_or(u64::MAX, |files| files.div_ceil(args.in_flight.into()));
        for caller in &mut callers {
            caller.read(each.max(1) as usize);
        }
        let begun = Instant::now();
        let (tally, stopped) = all(&mut callers, *operation, &budget, stop).await?;
        phases.push(Phase {
            operation: *operation,
            in_flight: args.in_flight,
            took: begun.elapsed(),
            tally,
        });
        if stopped {
            break;
        }
    }
    Ok(phases)
}

/// All callers at the same time; what they found, and whether somebody wants an end.
async fn all(
    callers: &mut Vec<Caller>,
    operation: Operation,
    budget: &Arc<Budget>,
    stop: &mut StopSignals,
) -> Result<(Tally, bool), Failure> {
    let tasks = callers.drain(..).map(|mut caller| {
        let budget = budget.clone();
        let task = tokio::spawn(async move {
            let tally = caller.run(operation, &budget).await;
            (caller, tally)
        });
        async move {
            task.await
                .map_err(|e| Failure::run(format!("a caller died: {e}")))
        }
    });
    let mut running = try_join_all(tasks.collect::<Vec<_>>());
    let mut stopped = false;
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended?,
            () = stop.wait(), if !stopped => {
                stopped = true;
                budget.stop();
            }
        }
    };
    let mut total = Tally::new();
    for (caller, tally) in ended {
        total.add(&tally?);
        callers.push(caller);
    }
    Ok((total, stopped))
}

/// Makes the working directories; of those that are there, uses them.
async fn directories(bench: &Bench, args: &MetaBenchArgs, top: &str) -> Result<Vec<Dir>, Failure> {
    let path = top.trim_end_matches('/').to_owned();
    let mut at = Dir {
        ino: resolve(&bench.master, top).await?,
        path: path.into(),
        parent: Ino::ROOT,
    };
    // A run of its own for each run.
    let run = uuid::Uuid::new_v4().simple().to_string();
    at = below(bench, &at, &format!("run-{}", &run[..8])).await?;
    for level in 0..args.depth {
        at = below(bench, &at, &format!("level-{level}")).await?;
    }
    let mut dirs = Vec::new();
    for number in 0..args.directories {
        dirs.push(below(bench, &at, &format!("dir-{number}")).await?);
    }
    Ok(dirs)
}

async fn below(bench: &Bench, dir: &Dir, text: &str) -> Result<Dir, Failure> {
    let name = Name::new(text.to_owned()).map_err(|e| Failure::run(e.to_string()))?;
    let made = bench.session.mkdir(dir.ino, &name, ACCESS).await?;
    bench.acked.there(&dir.path, &name)?;
    Ok(Dir {
        ino: made.ino,
        path: format!("{}/{text}", dir.path).into(),
        parent: dir.ino,
    })
}

async fn resolve(master: &Master, path: &str) -> Result<Ino, Failure> {
    let path = bytes::Bytes::copy_from_slice(path.as_bytes());
    let ask = || {
        let (calls, path) = (master.calls(), path.clone());
        async move { calls.resolve(ResolveRequest { path }).await }
    };
    let found = master.retrying("resolve", ask).await?;
    let attr = found.attr.unwrap_or_default();
    if !attr.directory {
        return Err(Failure::usage("--path is no directory"));
    }
    Ok(Ino(attr.ino))
}

/// Makes a scratch mount of its own; its path.
async fn mount(master: &Master) -> Result<String, Failure> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let path = format!("/bench-{}", &id[..8]);
    let spec = MountSpec {
        path: path.clone(),
        uri: MountSpec::SCRATCH.to_owned(),
        options: BTreeMap::new(),
        sync: SyncPolicy::Never,
        credentials: None,
    };
    master.mount(&spec).await?;
    Ok(path)
}
