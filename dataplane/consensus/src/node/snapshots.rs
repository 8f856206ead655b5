//! Snapshots: offered by a leader whose journal does not reach back far enough, fetched beside
//! everything else, and only then told to raft.

use super::{Node, Output};
use crate::{
    log::Log,
    snapshot::{Manifest, SnapshotFile},
};
use forebay_kv::Batch;
use raft::{
    ProgressState, SnapshotStatus, StateRole,
    eraftpb::{Message, MessageType},
};
use std::collections::BTreeMap;

/// Ticks after which a follower that was offered a snapshot is offered one again: the offer may
/// have been lost, or the follower given up. One that is fetching takes no notice.
const OFFER_TICKS: u32 = 10;

/// Ticks after a failed checkpoint before the next.
const CHECKPOINT_PAUSE_TICKS: u32 = 50;

/// A snapshot on its way to this node.
pub(super) enum Incoming {
    None,
    /// Its files are being fetched.
    Pulling(Manifest),
    /// All files are there; raft does not know of it yet.
    Pulled(Manifest),
    /// The journal that begins with it is being written, with the batch of this number.
    Writing(u64, Manifest),
    /// The state machine is taking it over.
    Installing(u64),
}

impl Incoming {
    pub(super) fn is_being_written(&self) -> bool {
        matches!(self, Incoming::Writing(..))
    }
}

/// The checkpoint that this node serves to followers.
#[derive(Default)]
pub(super) struct Outgoing {
    state: Checkpoint,
    /// Ticks since each follower was last offered a snapshot.
    offered: BTreeMap<u64, u32>,
}

#[derive(Default)]
enum Checkpoint {
    #[default]
    None,
    /// Being taken, at this index or later.
    Taking(u64),
    /// There, at this index.
    Live(u64),
    /// Failed; ticks until the next attempt.
    Failed(u32),
}

impl Outgoing {
    /// The journal after this index is of use together with the checkpoint.
    pub(super) fn pin(&self) -> Option<u64> {
        match self.state {
            Checkpoint::Taking(index) | Checkpoint::Live(index) => Some(index),
            Checkpoint::None | Checkpoint::Failed(_) => None,
        }
    }
}

impl Node {
    /// The checkpoint that [`Output::Checkpoint`] asked for; none: it failed. Whether it is of
    /// use: if not, it can be removed. Takes the place of a former one.
    pub(crate) fn checkpointed(&mut self, taken: Option<(String, u64, Vec<SnapshotFile>)>) -> bool {
        let live = taken.and_then(|(id, index, files)| {
            let offered = self.raw.mut_store().offer(id, index, files);
            offered.then_some(index)
        });
        self.outgoing.state = match live {
            Some(index) => Checkpoint::Live(index),
            None => Checkpoint::Failed(CHECKPOINT_PAUSE_TICKS),
        };
        live.is_some()
    }

    /// The checkpoint is removed: nobody has fetched from it for long.
    pub(crate) fn forget_checkpoint(&mut self) {
        if let Checkpoint::Live(_) = self.outgoing.state {
            self.outgoing.state = Checkpoint::None;
        }
        self.raw.mut_store().withdraw();
    }

    /// Asks for a checkpoint if raft lacks one. It is of use only if the newest member is in it.
    pub(super) fn order_checkpoint(&mut self) {
        let may_take = match self.outgoing.state {
            Checkpoint::None | Checkpoint::Live(_) => true,
            Checkpoint::Taking(_) | Checkpoint::Failed(_) => false,
        };
        if self.raw.store().take_snapshot_wanted()
            && may_take
            && self.applied >= self.conf().index.max(1)
        {
            self.outgoing.state = Checkpoint::Taking(self.applied);
            self.orders.push(Output::Checkpoint);
        }
    }

    pub(super) fn tick_snapshots(&mut self) {
        if let Checkpoint::Failed(ticks) = &mut self.outgoing.state {
            *ticks -= 1;
            if *ticks == 0 {
                self.outgoing.state = Checkpoint::None;
            }
        }
        let raft = &self.raw.raft;
        let leading = raft.state == StateRole::Leader;
        let waits = |id: &u64| {
            let progress = raft.prs().get(*id);
            leading && progress.is_some_and(|p| p.state == ProgressState::Snapshot)
        };
        let offered = &mut self.outgoing.offered;
        offered.retain(|id, _| waits(id));
        for (id, _) in raft.prs().iter().filter(|(id, _)| waits(id)) {
            *offered.entry(*id).or_default() += 1;
        }
        let due: Vec<_> = offered
            .extract_if(.., |_, ticks| *ticks >= OFFER_TICKS)
            .collect();
        for (id, _) in due {
            self.raw.report_snapshot(id, SnapshotStatus::Failure);
        }
    }

    /// A leader offers a snapshot. Raft hears of it when its files are here.
    pub(super) fn offered(&mut self, message: Message) {
        let raft = &self.raw.raft;
        let manifest = match Manifest::from_bytes(&message.get_snapshot().data) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(from = message.from, %error, "snapshot ignored");
                return;
            }
        };
        if message.term < raft.term
            || manifest.index <= raft.raft_log.committed
            || raft.raft_log.match_term(manifest.index, manifest.term)
        {
            // Nothing to fetch: the answer says how far this node is.
            self.step(message);
            return;
        }
        let known = match &self.incoming {
            Incoming::None => false,
            Incoming::Pulling(current) | Incoming::Pulled(current) => current.id == manifest.id,
            Incoming::Writing(..) | Incoming::Installing(_) => true,
        };
        if !known && manifest.conf.contains(self.id) {
            tracing::info!(
                from = message.from,
                snapshot = manifest.id,
                index = manifest.index,
                "fetching a snapshot: the leader's journal does not reach back to this node's"
            );
            self.orders
                .push(Output::Pull(message.from, manifest.clone()));
            self.incoming = Incoming::Pulling(manifest);
        }
    }

    /// The files of the snapshot `id` are here, on disk; or fetching them was given up.
    pub(crate) fn pulled(&mut self, id: &str, whole: bool) {
        match std::mem::replace(&mut self.incoming, Incoming::None) {
            Incoming::Pulling(manifest) if manifest.id == id => {
                if whole {
                    self.incoming = Incoming::Pulled(manifest);
                }
            }
            other => self.incoming = other,
        }
    }

    /// Tells raft of a snapshot that is here, as soon as there is a leader it can be from: the
    /// one that offered it may have been followed by another, but what it holds is committed.
    pub(super) fn restore(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Follower || raft.leader_id == 0 {
            return;
        }
        let Incoming::Pulled(manifest) = &self.incoming else {
            return;
        };
        let mut message = Message {
            from: raft.leader_id,
            to: self.id,
            term: raft.term,
            snapshot: Some(manifest.to_raft()),
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgSnapshot);
        self.step(message);
        if self.raw.snap().is_none() {
            // Entries were faster.
            self.incoming = Incoming::None;
            self.orders.push(Output::Discard(Batch::default()));
        }
    }

    /// Raft has taken the snapshot: begins the journal anew, with the batch `number`.
    pub(super) fn begin_install(&mut self, number: u64) -> Batch {
        let Incoming::Pulled(manifest) = std::mem::replace(&mut self.incoming, Incoming::None)
        else {
            unreachable!("raft was told of no other snapshot");
        };
        let batch = self.raw.mut_store().restore(&manifest);
        self.outgoing = Outgoing::default();
        self.committed = manifest.index;
        self.handed_out = manifest.index;
        self.hold = None;
        self.orders.push(Output::Configure(manifest.conf.clone()));
        self.incoming = Incoming::Writing(number, manifest);
        batch
    }

    /// The batch `number` is on disk: if a snapshot was in it, the state machine may have it. From
    /// here on there is no way back.
    pub(super) fn snapshot_persisted(&mut self, number: u64) {
        match std::mem::replace(&mut self.incoming, Incoming::None) {
            Incoming::Writing(awaited, manifest) if awaited <= number => {
                self.raw.advance_apply_to(manifest.index);
                self.applying.push_back((manifest.index, 0));
                self.incoming = Incoming::Installing(manifest.index);
                self.orders.push(Output::Install(manifest));
            }
            other => self.incoming = other,
        }
    }

    /// The state machine has applied up to `index`, so it has a snapshot at or before that.
    pub(super) fn snapshot_installed(&mut self, index: u64) {
        if let Incoming::Installing(snapshot) = self.incoming
            && index >= snapshot
        {
            self.incoming = Incoming::None;
            self.orders.push(Output::Discard(Log::installed()));
        }
    }
}
