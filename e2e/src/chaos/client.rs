//! A client: one change after the other, each entered into its ledger.

use super::{
    change::{Change, Place, Slot, Step},
    ledger::Outcome,
    scene::Scene,
    tree::{self, ACCESS},
};
use forebay_client::{Error, Master, Session};
use forebay_types::{Addresses, Code, FileKind, Ino};
use rand::{SeedableRng, rngs::SmallRng};
use std::{sync::Arc, time::Instant};

/// A client with connections and a session of its own.
pub(super) struct Client {
    number: usize,
    master: Master,
    session: Session,
    own: Ino,
    shared: Ino,
    rng: SmallRng,
    scene: Arc<Scene>,
}

impl Client {
    pub(super) async fn new(
        masters: &Addresses,
        number: usize,
        (own, shared): (Ino, Ino),
        seed: u64,
        scene: Arc<Scene>,
    ) -> Result<Client, Error> {
        let master = Master::new(masters);
        let session = Session::open(&master, &format!("chaos client {number}")).await?;
        Ok(Client {
            number,
            master,
            session,
            own,
            shared,
            rng: SmallRng::seed_from_u64(seed ^ (number as u64 + 1).rotate_left(32)),
            scene,
        })
    }

    /// Goes on until something comes out that cannot be.
    pub(super) async fn run(mut self) {
        let scene = self.scene.clone();
        loop {
            let open = scene.gate.read().await;
            let step = scene.ledgers[self.number].lock().next(&mut self.rng);
            let done = match step {
                Step::Change(place, change) => self.change(place, change).await,
                Step::Look(slot) => self.look(slot).await,
            };
            if let Err(wrong) = done {
                scene.complain(&format!("client {}: {wrong}", self.number));
                return;
            }
            drop(open);
        }
    }

    async fn change(&self, place: Place, change: Change) -> Result<(), String> {
        let begun = Instant::now();
        let answer = self.perform(place, change).await;
        let outcome = match &answer {
            Ok(ino) => Outcome::Done(*ino),
            Err(error) if is_refusal(error.code) => Outcome::Refused(error.code),
            Err(error) => {
                self.given_up(&change.to_string(), error);
                Outcome::Unknown(error.code)
            }
        };
        self.scene.progress.over(begun, answer.is_ok());
        let round = self.scene.round();
        let mut ledger = self.scene.ledgers[self.number].lock();
        ledger.enter(round, place, change, outcome)
    }

    async fn perform(&self, place: Place, change: Change) -> Result<Option<Ino>, Error> {
        let dir = match place {
            Place::Own => self.own,
            Place::Shared => self.shared,
        };
        let session = &self.session;
        match change {
            Change::Make(kind, slot) => {
                let name = slot.name();
                let made = match kind {
                    FileKind::File => session.create(dir, &name, ACCESS).await,
                    FileKind::Directory => session.mkdir(dir, &name, ACCESS).await,
                };
                made.map(|attr| Some(attr.ino))
            }
            Change::Rename {
                from,
                to,
                no_replace,
            } => {
                let (from, to) = (from.name(), to.name());
                let renamed = session.rename((dir, &from), (dir, &to), no_replace).await;
                renamed.map(|()| None)
            }
            Change::Remove(kind, slot) => {
                let name = slot.name();
                let removed = match kind {
                    FileKind::File => session.remove(dir, &name).await,
                    FileKind::Directory => session.remove_dir(dir, &name).await,
                };
                removed.map(|()| None)
            }
        }
    }

    async fn look(&self, slot: Slot) -> Result<(), String> {
        let begun = Instant::now();
        let found = tree::lookup(&self.master, self.own, &slot.name()).await;
        self.scene.progress.over(begun, false);
        match found {
            Ok(found) => {
                let found = found.map(|attr| (attr.ino, attr.kind));
                self.scene.ledgers[self.number].lock().look(slot, found)
            }
            Err(error) if is_refusal(error.code) => Err(format!("a look at {slot}: {error}")),
            Err(error) => {
                self.given_up(&format!("a look at {slot}"), &error);
                Ok(())
            }
        }
    }

    fn given_up(&self, what: &str, error: &Error) {
        self.scene
            .give_up(format!("client {}: {what}: {error}", self.number));
    }
}

/// Whether a change that ended so has had no effect.
fn is_refusal(code: Code) -> bool {
    let lost = matches!(code, Code::Internal | Code::Stale | Code::Corrupt);
    !code.is_transient() && !lost
}
