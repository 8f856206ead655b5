//! The mode of every open inode, decided in one place: at its first open, until its last release.
//!
//! The kernel allows one backing file per inode, and refuses a passthrough open of an inode that is open
//! in cached mode (and the other way round), so all opens of an inode share one decision. Our counts
//! are conservative: a release reaches us after the kernel has counted it.
//!
//! An inode in passthrough mode keeps its backing id and its lease after the last release, in a bounded
//! list, least recently used out first: opening it again asks nobody.

use crate::ledger::{Kind, Ledger, Row};
use forebay_client::LeaseId;
use forebay_types::{FileRef, Ino};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    future::Future,
    sync::{Arc, atomic::AtomicBool},
};
use tokio::sync::OnceCell;

/// How an inode is read while it is open.
#[derive(Debug)]
pub enum Mode<B> {
    /// By the kernel, from the backing file; we see no read.
    Passthrough {
        /// The kernel's reference to the backing file.
        backing: B,
        /// Keeps the file from eviction. None if a predecessor opened it: the backing keeps the bytes.
        lease: Option<LeaseId>,
    },
    /// Through us, from the descriptor, after the worker has made sure of the range.
    Cached {
        /// The sparse file.
        file: Arc<File>,
        /// Keeps the file from eviction.
        lease: LeaseId,
    },
    /// Through us, streamed: there is no local worker, or its cache cannot take the file.
    Streamed,
}

/// An open inode.
#[derive(Debug)]
pub struct Inode<B> {
    /// What names its bytes.
    pub file: FileRef,
    /// How it is read.
    pub mode: Mode<B>,
    /// The under store was found to have another content.
    pub stale: AtomicBool,
}

impl<B> Inode<B> {
    /// An inode that nothing speaks against.
    pub fn new(file: FileRef, mode: Mode<B>) -> Inode<B> {
        Inode {
            file,
            mode,
            stale: AtomicBool::new(false),
        }
    }

    /// What it holds of the worker.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        match &self.mode {
            Mode::Passthrough { lease, .. } => *lease,
            Mode::Cached { lease, .. } => Some(*lease),
            Mode::Streamed => None,
        }
    }
}

/// What keeps a backing file registered with the kernel.
pub trait Backed: Clone + Send + Sync + 'static {
    /// The number by which the kernel knows it.
    fn number(&self) -> u32;
}

/// How the kernel reads an inode that a predecessor of this process opened.
#[derive(Clone, Debug)]
pub enum Inherited<B> {
    /// From this backing file.
    Passthrough(B),
    /// Through us.
    Cached,
}

impl<B: Backed> Inherited<B> {
    fn kind(&self) -> Kind {
        match self {
            Inherited::Passthrough(backing) => Kind::Passthrough(backing.number()),
            Inherited::Cached => Kind::Cached,
        }
    }
}

type Cell<B> = Arc<OnceCell<Arc<Inode<B>>>>;

struct Slot<B> {
    cell: Cell<B>,
    opens: u64,
    /// Only until the cell is filled.
    inherited: Option<Inherited<B>>,
    /// Its row in the ledger.
    row: Option<u64>,
    /// Place in the list of the idle; only while `opens` is 0.
    idle: u64,
    /// The worker wants the lease back: let go at the last release.
    recalled: bool,
}

struct Table<B> {
    slots: HashMap<Ino, Slot<B>>,
    leases: HashMap<LeaseId, Ino>,
    idle: Idle,
    clock: u64,
    ledger: Option<Ledger>,
}

/// Idle inodes in the order of their last release, counted with those of other mounts.
struct Idle {
    order: BTreeMap<u64, Ino>,
    counted: Gauge,
}

impl Idle {
    fn insert(&mut self, at: u64, ino: Ino) {
        self.order.insert(at, ino);
        self.counted.inc();
    }

    fn remove(&mut self, at: u64) {
        if self.order.remove(&at).is_some() {
            self.counted.dec();
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.counted.dec_by(self.order.len() as i64);
    }
}

/// Called with an inode that is let go, to give its lease back.
pub type LetGo<B> = Box<dyn Fn(Arc<Inode<B>>) + Send + Sync>;

/// All open inodes, and the idle ones that keep their backing.
pub struct Inodes<B> {
    table: Mutex<Table<B>>,
    most_idle: usize,
    let_go: LetGo<B>,
}

impl<B: Backed> Inodes<B> {
    /// None yet; at most `most_idle` are kept while not open, and `counted` counts them.
    pub fn new(most_idle: usize, counted: Gauge, let_go: LetGo<B>) -> Inodes<B> {
        let table = Table {
            slots: HashMap::new(),
            leases: HashMap::new(),
            idle: Idle {
                order: BTreeMap::new(),
                counted,
            },
            clock: 0,
            ledger: None,
        };
        Inodes {
            table: Mutex::new(table),
            most_idle,
            let_go,
        }
    }

    /// Notes from now on in `ledger` what a successor must know. `rows` is what a predecessor has noted, and `adopt` makes
    /// its backing files ours; those that nobody has open are let go.
    pub fn keep(&self, ledger: Ledger, rows: Vec<Row>, adopt: impl Fn(u32) -> B) {
        let mut table = self.table.lock();
        table.ledger = Some(ledger);
        for row in rows {
            let inherited = match row.kind {
                Kind::Passthrough(number) => Inherited::Passthrough(adopt(number)),
                Kind::Cached => Inherited::Cached,
            };
            if row.opens > 0 {
                let slot = Slot {
                    opens: row.opens.into(),
                    inherited: Some(inherited),
                    ..Slot::new()
                };
                table.slots.insert(row.ino, slot);
                table.note(row.ino);
            }
        }
    }

    /// Counts an open of `ino` and returns its state, decided by `decide` if this is the first one: as it
    /// likes, or as a predecessor has decided. An open that fails or is given up is not counted.
    pub async fn open<E, F>(
        &self,
        ino: Ino,
        decide: impl FnOnce(Option<Inherited<B>>) -> F,
    ) -> Result<Arc<Inode<B>>, E>
    where
        F: Future<Output = Result<Inode<B>, E>>,
    {
        let (cell, inherited) = self.begin(ino);
        let opening = Opening { inodes: self, ino };
        let inode = self.decided(ino, &cell, || decide(inherited)).await?;
        std::mem::forget(opening);
        self.table.lock().note(ino);
        Ok(inode)
    }

    /// The state of an inode that a predecessor opened; `None` if none did.
    pub async fn resume<E, F>(
        &self,
        ino: Ino,
        decide: impl FnOnce(Option<Inherited<B>>) -> F,
    ) -> Result<Option<Arc<Inode<B>>>, E>
    where
        F: Future<Output = Result<Inode<B>, E>>,
    {
        let Some((cell, inherited)) = self.table.lock().slots.get(&ino).map(Slot::known) else {
            return Ok(None);
        };
        if cell.get().is_none() && inherited.is_none() {
            return Ok(None);
        }
        self.decided(ino, &cell, || decide(inherited))
            .await
            .map(Some)
    }

    async fn decided<E, F>(
        &self,
        ino: Ino,
        cell: &Cell<B>,
        decide: impl FnOnce() -> F,
    ) -> Result<Arc<Inode<B>>, E>
    where
        F: Future<Output = Result<Inode<B>, E>>,
    {
        if let Some(inode) = cell.get() {
            return Ok(inode.clone());
        }
        let inode = cell.get_or_try_init(|| async {
            let inode = Arc::new(decide().await?);
            if let Some(lease) = inode.lease() {
                self.table.lock().leases.insert(lease, ino);
            }
            Ok(inode)
        });
        Ok(inode.await?.clone())
    }

    /// The state of an open inode.
    pub fn get(&self, ino: Ino) -> Option<Arc<Inode<B>>> {
        self.table.lock().slots.get(&ino)?.cell.get().cloned()
    }

    /// Counts a release.
    pub fn release(&self, ino: Ino) {
        let gone = {
            let mut table = self.table.lock();
            let Some(slot) = table.slots.get_mut(&ino) else {
                return;
            };
            slot.opens = slot.opens.saturating_sub(1);
            if slot.opens > 0 {
                table.note(ino);
                return;
            }
            let passthrough = slot
                .cell
                .get()
                .is_some_and(|i| matches!(i.mode, Mode::Passthrough { .. }));
            if passthrough && !slot.recalled {
                table.rest(ino, self.most_idle)
            } else {
                table.remove(ino)
            }
        };
        if let Some(inode) = gone {
            (self.let_go)(inode);
        }
    }

    /// The worker wants a lease back: at once if the inode is not open, else at its last release.
    pub fn recall(&self, lease: LeaseId) {
        let gone = {
            let mut table = self.table.lock();
            let Some(ino) = table.leases.get(&lease).copied() else {
                return;
            };
            match table.slots.get_mut(&ino) {
                Some(slot) if slot.opens > 0 => {
                    slot.recalled = true;
                    None
                }
                _ => table.remove(ino),
            }
        };
        if let Some(inode) = gone {
            (self.let_go)(inode);
        }
    }

    /// Lets go of an inode unless it is open.
    pub fn forget(&self, ino: Ino) {
        let gone = {
            let mut table = self.table.lock();
            let idle = table.slots.get(&ino).is_some_and(|slot| slot.opens == 0);
            if idle { table.remove(ino) } else { None }
        };
        if let Some(inode) = gone {
            (self.let_go)(inode);
        }
    }

    /// Inodes that keep their backing while not open.
    pub fn idle(&self) -> usize {
        self.table.lock().idle.order.len()
    }

    fn begin(&self, ino: Ino) -> (Cell<B>, Option<Inherited<B>>) {
        let mut table = self.table.lock();
        let table = &mut *table;
        let slot = table.slots.entry(ino).or_insert_with(Slot::new);
        if slot.opens == 0 {
            table.idle.remove(slot.idle);
        }
        slot.opens += 1;
        slot.known()
    }
}

impl<B: Backed> Slot<B> {
    fn new() -> Slot<B> {
        Slot {
            cell: Cell::default(),
            opens: 0,
            inherited: None,
            row: None,
            idle: 0,
            recalled: false,
        }
    }

    fn known(&self) -> (Cell<B>, Option<Inherited<B>>) {
        (self.cell.clone(), self.inherited.clone())
    }

    fn kind(&self) -> Option<Kind> {
        match self.cell.get() {
            None => self.inherited.as_ref().map(Inherited::kind),
            Some(inode) => Some(match &inode.mode {
                Mode::Passthrough { backing, .. } => Kind::Passthrough(backing.number()),
                Mode::Cached { .. } | Mode::Streamed => Kind::Cached,
            }),
        }
    }
}

impl<B: Backed> Table<B> {
    /// Writes down what a successor must know of an inode.
    fn note(&mut self, ino: Ino) {
        let (Some(ledger), Some(slot)) = (&mut self.ledger, self.slots.get_mut(&ino)) else {
            return;
        };
        if let Some(kind) = slot.kind() {
            let opens = slot.opens.try_into().unwrap_or(u32::MAX);
            slot.row = Some(ledger.put(slot.row, Row { ino, opens, kind }));
        }
    }

    /// Puts an inode on the idle list; returns the one that has to leave it.
    fn rest(&mut self, ino: Ino, most: usize) -> Option<Arc<Inode<B>>> {
        self.clock += 1;
        self.idle.insert(self.clock, ino);
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.idle = self.clock;
        }
        self.note(ino);
        if self.idle.order.len() <= most {
            return None;
        }
        let oldest = *self.idle.order.first_key_value()?.1;
        self.remove(oldest)
    }

    fn remove(&mut self, ino: Ino) -> Option<Arc<Inode<B>>> {
        let slot = self.slots.remove(&ino)?;
        self.idle.remove(slot.idle);
        if let (Some(ledger), Some(row)) = (&mut self.ledger, slot.row) {
            ledger.clear(row);
        }
        let inode = slot.cell.get()?.clone();
        if let Some(lease) = inode.lease() {
            self.leases.remove(&lease);
        }
        Some(inode)
    }
}

/// An open that is not decided yet; dropped, it is taken back.
struct Opening<'a, B: Backed> {
    inodes: &'a Inodes<B>,
    ino: Ino,
}

impl<B: Backed> Drop for Opening<'_, B> {
    fn drop(&mut self) {
        self.inodes.release(self.ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, FileId, Fingerprint, MountId};
    use futures::FutureExt;

    #[derive(Clone, Debug)]
    struct Number(u32);

    impl Backed for Number {
        fn number(&self) -> u32 {
            self.0
        }
    }

    fn inode(ino: u64, passthrough: bool) -> Inode<Number> {
        let lease = LeaseId(ino);
        let file = FileRef {
            id: FileId {
                ino: Ino(ino),
                version: ContentVersion(1),
            },
            mount: MountId(1),
            key: "k".into(),
            fingerprint: Fingerprint::default(),
        };
        let mode = if passthrough {
            Mode::Passthrough {
                backing: Number(ino as u32),
                lease: Some(lease),
            }
        } else {
            Mode::Cached {
                file: Arc::new(tempfile::tempfile().unwrap()),
                lease,
            }
        };
        Inode::new(file, mode)
    }

    type Gone = Arc<Mutex<Vec<u64>>>;

    fn inodes(most_idle: usize) -> (Inodes<Number>, Gone) {
        let gone = Gone::default();
        let log = gone.clone();
        let let_go = move |inode: Arc<Inode<Number>>| log.lock().push(inode.file.id.ino.0);
        (
            Inodes::new(most_idle, Gauge::default(), Box::new(let_go)),
            gone,
        )
    }

    fn open(inodes: &Inodes<Number>, ino: u64, passthrough: bool) -> Arc<Inode<Number>> {
        let decide = |_| async move { Ok::<_, ()>(inode(ino, passthrough)) };
        inodes
            .open(Ino(ino), decide)
            .now_or_never()
            .unwrap()
            .unwrap()
    }

    fn never(inodes: &Inodes<Number>, ino: u64) -> Arc<Inode<Number>> {
        let decide = |_| async { panic!("decided twice") };
        inodes
            .open::<(), _>(Ino(ino), decide)
            .now_or_never()
            .unwrap()
            .unwrap()
    }

    #[test]
    fn the_mode_stays_from_the_first_open_to_the_last_release() {
        let (inodes, gone) = inodes(8);
        open(&inodes, 1, false);
        never(&inodes, 1);
        inodes.release(Ino(1));
        never(&inodes, 1);
        inodes.release(Ino(1));
        inodes.release(Ino(1));
        assert_eq!(*gone.lock(), [1]);
        assert!(matches!(
            open(&inodes, 1, true).mode,
            Mode::Passthrough { .. }
        ));
    }

    #[test]
    fn a_backing_is_kept_for_the_next_open_until_others_push_it_out() {
        let (inodes, gone) = inodes(2);
        for ino in 1..=2 {
            open(&inodes, ino, true);
            inodes.release(Ino(ino));
        }
        never(&inodes, 1);
        inodes.release(Ino(1));
        open(&inodes, 3, true);
        assert!(gone.lock().is_empty());
        inodes.release(Ino(3));
        assert_eq!((gone.lock().clone(), inodes.idle()), (vec![2], 2));
    }

    #[test]
    fn a_recall_takes_an_idle_lease_at_once_and_an_open_one_at_its_release() {
        let (inodes, gone) = inodes(8);
        open(&inodes, 1, true);
        open(&inodes, 2, true);
        inodes.release(Ino(1));
        inodes.recall(LeaseId(1));
        inodes.recall(LeaseId(2));
        inodes.recall(LeaseId(99));
        assert_eq!(*gone.lock(), [1]);
        never(&inodes, 2);
        inodes.release(Ino(2));
        inodes.release(Ino(2));
        assert_eq!(*gone.lock(), [1, 2]);
        assert_eq!(inodes.idle(), 0);
    }

    #[test]
    fn a_failed_or_abandoned_open_leaves_nothing_behind() {
        let (inodes, gone) = inodes(8);
        let failed = inodes
            .open(Ino(1), |_| async { Err::<Inode<Number>, _>(5) })
            .now_or_never();
        assert_eq!(failed.unwrap().unwrap_err(), 5);
        let waits = inodes
            .open::<(), _>(Ino(1), |_| futures::future::pending())
            .now_or_never();
        assert!(waits.is_none());
        assert!(inodes.table.lock().slots.is_empty());
        assert!(gone.lock().is_empty());
    }

    #[test]
    fn a_successor_keeps_the_mode_of_what_is_open_and_counts_its_releases() {
        let file = tempfile::tempfile().unwrap();
        let keep = |inodes: &Inodes<Number>| {
            let (ledger, rows) = Ledger::open(file.try_clone().unwrap()).unwrap();
            inodes.keep(ledger, rows, Number);
        };
        let (before, _) = inodes(8);
        keep(&before);
        open(&before, 1, true);
        never(&before, 1);
        open(&before, 2, false);
        open(&before, 3, true);
        before.release(Ino(3));
        drop(before);

        let (after, _) = inodes(8);
        keep(&after);
        let decide = |inherited: Option<Inherited<Number>>| async move {
            let passthrough = match inherited {
                Some(Inherited::Passthrough(Number(1))) => true,
                Some(Inherited::Cached) => false,
                other => panic!("{other:?}"),
            };
            Ok::<_, ()>(inode(1, passthrough))
        };
        let resumed = |ino| {
            after
                .resume(Ino(ino), decide)
                .now_or_never()
                .unwrap()
                .unwrap()
        };
        assert!(matches!(resumed(2).unwrap().mode, Mode::Cached { .. }));
        assert!(resumed(3).is_none(), "nobody has it open");
        let again = after.open(Ino(1), decide).now_or_never().unwrap().unwrap();
        assert!(matches!(again.mode, Mode::Passthrough { .. }));
        for _ in 0..3 {
            assert!(after.get(Ino(1)).is_some());
            after.release(Ino(1));
        }
        assert_eq!(after.idle(), 1);
        after.release(Ino(2));
        assert!(after.get(Ino(2)).is_none());
    }
}
