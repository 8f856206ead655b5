//! One of the callers: its files, and one operation after the other on them.

use super::{
    acked::Acked,
    phase::{Budget, Tally, record},
};
use crate::{args::Operation, failure::Failure};
use forebay_client::{Access, Error, Master, Session, Voter, call::error_of};
use forebay_proto::v1;
use forebay_types::{Attr, Code, Ino, Name};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What came of an operation; its error is counted.
type Done<T = ()> = Result<T, Error>;

/// Of everything that is made.
pub(crate) const ACCESS: Access = Access {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// What all callers share.
pub(crate) struct Bench {
    pub(crate) master: Master,
    pub(crate) session: Session,
    pub(crate) acked: Acked,
    /// Working directories: the n-th is also that of callers n + this, n + twice this …
    pub(crate) directories: u16,
}

/// A working directory.
#[derive(Clone)]
pub(crate) struct Dir {
    pub(crate) ino: Ino,
    /// Absolute, without a slash at the end.
    pub(crate) path: Arc<str>,
    /// Its own edge.
    pub(crate) parent: Ino,
}

/// A file that this caller has made.
struct File {
    name: Name,
    ino: Ino,
}

/// A caller; nobody else touches its files.
pub(crate) struct Caller {
    bench: Arc<Bench>,
    number: u16,
    dir: Dir,
    files: Vec<File>,
    /// Lookups and getattrs are of so many of them at most.
    read: usize,
    /// Names made so far.
    made: u64,
    /// Random enough to spread reads.
    seed: u64,
}

impl Caller {
    pub(crate) fn new(bench: Arc<Bench>, number: u16, dir: Dir) -> Caller {
        let seed = 0x9e37_79b9_7f4a_7c15 ^ u64::from(number);
        Caller {
            bench,
            number,
            dir,
            files: Vec::new(),
            read: usize::MAX,
            made: 0,
            seed,
        }
    }

    /// How many files it has.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Lookups and getattrs are of `files` of its files from now on.
    pub(crate) fn read(&mut self, files: usize) {
        self.read = files;
    }

    /// Operations until the budget is used up, there is nothing left to do them on, or the cluster
    /// does not answer.
    pub(crate) async fn run(
        &mut self,
        operation: Operation,
        budget: &Budget,
    ) -> Result<Tally, Failure> {
        let mut tally = Tally::new();
        // One at a time in each directory.
        let whole = matches!(operation, Operation::List | Operation::RenameDir);
        let idle = whole && self.number >= self.bench.directories;
        let lacks = |files: &[File]| files.is_empty() && needs_file(operation);
        while !(idle || lacks(&self.files)) && budget.take(Instant::now()) {
            let operation = match operation {
                Operation::Mix if self.files.is_empty() => Operation::Create,
                Operation::Mix => self.mixed(),
                one => one,
            };
            let begun = Instant::now();
            match self.perform(operation, begun, &mut tally).await? {
                Ok(()) => {
                    let ns = begun.elapsed().as_nanos() as u64;
                    record(&mut tally.latency, ns);
                }
                Err(error) => {
                    tally.failed(&error);
                    // The client has tried for long: the cluster is not there.
                    if error.code.is_transient() {
                        break;
                    }
                }
            }
        }
        Ok(tally)
    }

    /// One operation. The outer error ends the benchmark.
    async fn perform(
        &mut self,
        operation: Operation,
        begun: Instant,
        tally: &mut Tally,
    ) -> Result<Done, Failure> {
        match operation {
            Operation::Create => {
                let name = self.name('f');
                let made = self.bench.session.create(self.dir.ino, &name, ACCESS).await;
                self.keep(made, name)
            }
            Operation::Mkdir => {
                let name = self.name('d');
                match self.bench.session.mkdir(self.dir.ino, &name, ACCESS).await {
                    Ok(_) => self.bench.acked.there(&self.dir.path, &name).map(Ok),
                    Err(error) => Ok(Err(error)),
                }
            }
            Operation::Lookup => Ok(self.lookup().await),
            Operation::Getattr => Ok(self.getattr().await),
            Operation::Rename => self.rename().await,
            Operation::Remove => self.remove().await,
            Operation::List => Ok(self.list(begun, tally).await),
            Operation::RenameDir => Ok(self.rename_dir().await),
            Operation::Mix => unreachable!("a mix is made of the others"),
        }
    }

    fn mixed(&mut self) -> Operation {
        match self.random() % 100 {
            0..50 => Operation::Lookup,
            50..80 => Operation::Getattr,
            80..90 => Operation::Create,
            90..95 => Operation::Rename,
            _ => Operation::Remove,
        }
    }

    fn keep(&mut self, made: Done<Attr>, name: Name) -> Result<Done, Failure> {
        match made {
            Ok(attr) => {
                self.bench.acked.there(&self.dir.path, &name)?;
                self.files.push(File {
                    name,
                    ino: attr.ino,
                });
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn lookup(&mut self) -> Done {
        let file = self.one_to_read();
        let (parent, name) = (self.dir.ino.0, self.files[file].name.clone().into_bytes());
        let ask = |master: Voter| {
            let name = name.clone();
            async move {
                let request = v1::LookupRequest { parent, name };
                master.calls().lookup(request).await
            }
        };
        let answer = self.bench.master.ask("lookup", ask).await?;
        let found = answer.attr.map(|attr| attr.ino);
        self.same(file, found)
    }

    async fn getattr(&mut self) -> Done {
        let file = self.one_to_read();
        let ino = self.files[file].ino.0;
        let ask = |master: Voter| async move {
            let request = v1::GetAttrRequest { ino };
            master.calls().get_attr(request).await
        };
        let answer = self.bench.master.ask("getattr", ask).await?;
        let found = answer.attr.map(|attr| attr.ino);
        self.same(file, found)
    }

    /// An acknowledged file must be there.
    fn same(&self, file: usize, found: Option<u64>) -> Done {
        let File { name, ino } = &self.files[file];
        if found == Some(ino.0) {
            return Ok(());
        }
        let text = format!("{}/{name} is inode {ino}, found: {found:?}", self.dir.path);
        Err(Error::new(Code::Corrupt, text))
    }

    async fn rename(&mut self) -> Result<Done, Failure> {
        let file = self.any();
        let (old, new) = (self.files[file].name.clone(), self.name('r'));
        let dir = self.dir.ino;
        let renamed = self.bench.session.rename((dir, &old), (dir, &new), true);
        if let Err(error) = renamed.await {
            // Where it is now, nobody knows.
            self.files.swap_remove(file);
            return Ok(Err(error));
        }
        self.bench.acked.renamed(&self.dir.path, &old, &new)?;
        self.files[file].name = new;
        Ok(Ok(()))
    }

    async fn remove(&mut self) -> Result<Done, Failure> {
        let file = self.any();
        let file = self.files.swap_remove(file);
        match self.bench.session.remove(self.dir.ino, &file.name).await {
            Ok(()) => self.bench.acked.gone(&self.dir.path, &file.name).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn list(&self, begun: Instant, tally: &mut Tally) -> Done {
        let address = self.bench.master.address();
        let failed = |status| error_of(&address, "list", &status);
        let request = v1::ReadDirRequest {
            ino: self.dir.ino.0,
            ..v1::ReadDirRequest::default()
        };
        let listing = self.bench.master.metadata().read_dir(request).await;
        let mut batches = listing.map_err(failed)?.into_inner();
        let mut first: Option<Duration> = None;
        while let Some(batch) = batches.message().await.map_err(failed)? {
            first.get_or_insert_with(|| begun.elapsed());
            tally.entries += batch.entries.len() as u64;
        }
        let ns = first.map_or(0, |first| first.as_nanos() as u64);
        record(&mut tally.first, ns);
        Ok(())
    }

    /// There and back: the callers of a directory would not find it under another name.
    async fn rename_dir(&mut self) -> Done {
        let own = self.dir.path.rsplit('/').next().unwrap_or_default();
        let bad = |_| Error::new(Code::Internal, "a working directory without a name");
        let own = Name::new(own.to_owned()).map_err(bad)?;
        let (parent, other) = (self.dir.parent, self.name('m'));
        let session = &self.bench.session;
        session
            .rename((parent, &own), (parent, &other), true)
            .await?;
        session.rename((parent, &other), (parent, &own), true).await
    }

    /// A name that nobody has had.
    fn name(&mut self, kind: char) -> Name {
        self.made += 1;
        let text = format!("{kind}{:02}-{:08}", self.number, self.made);
        Name::new(text).expect("letters and digits are a name")
    }

    /// One of the files.
    fn any(&mut self) -> usize {
        (self.random() % self.files.len() as u64) as usize
    }

    /// One of those that are read.
    fn one_to_read(&mut self) -> usize {
        (self.random() % self.files.len().min(self.read) as u64) as usize
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Whether an operation works on files that are there.
pub(crate) fn needs_file(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Lookup | Operation::Getattr | Operation::Rename | Operation::Remove
    )
}
