//! The driver: looks, lets a plan be made, carries it out.

use crate::{
    error::Error,
    flag::Flags,
    fuse_call::FuseCalls,
    host::{Host, Volumes},
    lock::Locks,
    metrics::Metrics,
    mount_table::MountTable,
    mounter,
    plan::{self, Action, Health, Seen},
    record::Record,
    store::Store,
    volume::{Volume, VolumeId},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tonic::Code;

/// All of it; clones are the same driver.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The FUSE host of this node.
    pub host: Host,
    /// What the kubelet has asked for.
    pub store: Arc<Store>,
    /// Who works on which volume.
    pub locks: Locks,
    /// The way to ask a FUSE file system.
    pub fuse: FuseCalls,
    /// What is counted.
    pub metrics: Metrics,
}

impl Driver {
    /// `NodeStageVolume`.
    pub async fn stage(&self, volume: Volume, staging: PathBuf) -> Result<(), Error> {
        let id = volume.id.clone();
        self.alone(&id, "stage", async move |driver: Driver| {
            let volumes = driver.host.volumes().await?;
            let record = driver.store.get(&volume.id);
            let wanted = Record::staged(volume.clone(), staging.clone());
            let seen = driver.look(&wanted, &volumes).await?;
            let actions = plan::stage(volume, staging.clone(), record.as_ref(), &seen)?;
            let done = driver.carry_out(actions).await;
            if done.is_err() && record.is_none() {
                // The kubelet may take the failure for the end of it and never ask again.
                let undo = plan::unstage(wanted.id(), &staging, None, &seen.table)?;
                driver.try_to(undo).await;
            }
            done
        })
        .await
    }

    /// `NodeUnstageVolume`.
    pub async fn unstage(&self, id: &VolumeId, staging: PathBuf) -> Result<(), Error> {
        let volume = id.clone();
        self.alone(id, "unstage", async move |driver: Driver| {
            let record = driver.store.get(&volume);
            let table = table()?;
            let actions = plan::unstage(&volume, &staging, record.as_ref(), &table)?;
            driver.carry_out(actions).await
        })
        .await
    }

    /// `NodePublishVolume`.
    pub async fn publish(
        &self,
        id: &VolumeId,
        staging: PathBuf,
        target: PathBuf,
        flags: Flags,
    ) -> Result<(), Error> {
        let volume = id.clone();
        self.alone(id, "publish", async move |driver: Driver| {
            let volumes = driver.host.volumes().await?;
            let record = driver.store.get(&volume);
            let seen = match &record {
                Some(record) => driver.look(record, &volumes).await?,
                None => Seen::nothing(table()?),
            };
            let actions =
                plan::publish(&volume, &staging, &target, &flags, record.as_ref(), &seen)?;
            let done = driver.carry_out(actions).await;
            let had = record.is_some_and(|record| record.targets.contains_key(&target));
            if done.is_err() && !had {
                let undo = plan::unpublish(&target, driver.store.get(&volume).as_ref());
                driver.try_to(undo).await;
            }
            done
        })
        .await
    }

    /// `NodeUnpublishVolume`.
    pub async fn unpublish(&self, id: &VolumeId, target: PathBuf) -> Result<(), Error> {
        let volume = id.clone();
        self.alone(id, "unpublish", async move |driver: Driver| {
            let record = driver.store.get(&volume);
            let actions = plan::unpublish(&target, record.as_ref());
            driver.carry_out(actions).await
        })
        .await
    }

    /// Makes what is there what is recorded.
    pub async fn repair(&self, id: &VolumeId) -> Result<(), Error> {
        let volume = id.clone();
        self.alone(id, "repair", async move |driver: Driver| {
            let volumes = driver.host.volumes().await?;
            let Some(record) = driver.store.get(&volume) else {
                return Ok(());
            };
            let seen = driver.look(&record, &volumes).await?;
            let actions = plan::repair(&record, &seen);
            if !actions.is_empty() {
                tracing::info!(%volume, health = ?seen.health, served = ?seen.served, "repairing");
            }
            driver.carry_out(actions).await
        })
        .await
    }

    /// Ends a volume that the FUSE host serves at `point` and nobody has asked for; false if pods
    /// use it all the same.
    pub async fn reap(&self, id: &VolumeId, point: &Path) -> Result<bool, Error> {
        if plan::orphan(id, point, &table()?).is_empty() {
            return Ok(false);
        }
        let (volume, point) = (id.clone(), point.to_owned());
        self.alone(id, "orphan", async move |driver: Driver| {
            if driver.store.get(&volume).is_some() {
                return Ok(());
            }
            tracing::info!(%volume, "ending an orphan");
            let actions = plan::orphan(&volume, &point, &table()?);
            driver.carry_out(actions).await
        })
        .await
        .map(|()| true)
    }

    /// Runs an operation to its end, with the volume for itself, whether or not the caller waits.
    async fn alone<F>(
        &self,
        id: &VolumeId,
        name: &'static str,
        operation: impl FnOnce(Driver) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let done = match self.locks.take(id) {
            Ok(guard) => {
                let operation = operation(self.clone());
                let task = tokio::spawn(async move {
                    let _guard = guard;
                    operation.await
                });
                task.await.unwrap_or(Err(Error::Stopping))
            }
            Err(busy) => Err(busy),
        };
        match &done {
            Ok(()) => tracing::info!(operation = name, volume = %id, "done"),
            Err(error) => tracing::warn!(operation = name, volume = %id, %error, "failed"),
        }
        let code = done.as_ref().err().map_or(Code::Ok, Error::code);
        self.metrics.count(name, code);
        done
    }

    /// What a plan for the volume of `record` needs to know.
    pub async fn look(&self, record: &Record, volumes: &Volumes) -> Result<Seen, Error> {
        let served = self.host.served(record, volumes)?;
        let table = table()?;
        let health = match table.at(&record.staging) {
            Some(_) => self.fuse.health(&record.staging).await,
            None => Health::Dead,
        };
        let paths = record.targets.keys().chain([&record.staging]);
        let bare = paths.filter(|path| table.at(path).is_none());
        let bare: Vec<PathBuf> = bare.cloned().collect();
        let missing = apart(|| {
            let missing = bare.into_iter().filter(|path| mounter::is_missing(path));
            Ok(missing.collect())
        });
        Ok(Seen {
            missing: missing.await?,
            table,
            health,
            served,
        })
    }

    /// Does one thing after the other, up to the first that fails.
    pub async fn carry_out(&self, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            tracing::debug!(?action);
            self.act(action).await?;
        }
        Ok(())
    }

    /// The same, each whether or not the others fail: what is left over is repaired later.
    async fn try_to(&self, actions: Vec<Action>) {
        for action in actions {
            if let Err(error) = self.act(action).await {
                tracing::warn!(%error, "left for later");
            }
        }
    }

    async fn act(&self, action: Action) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        match action {
            Action::Save(record) => {
                let what = record.id().to_string();
                let saved = apart(move || Ok(store.save(record))).await?;
                saved.map_err(Error::system("write the record of", what))
            }
            Action::Forget(id) => {
                let what = id.to_string();
                let forgotten = apart(move || Ok(store.forget(&id))).await?;
                forgotten.map_err(Error::system("remove the record of", what))
            }
            Action::MakeDir(path) => apart(move || mounter::make_dir(&path)).await,
            Action::RemoveDir(path) => apart(move || mounter::remove_dir(&path)).await,
            Action::Attach(volume, path) => {
                self.host.attach(&volume, &path).await?;
                table()?.at(&path).map(drop).ok_or(Error::Hidden(path))
            }
            Action::Detach(id) => self.host.detach(&id).await,
            Action::TryDetach(id) => match self.host.detach(&id).await {
                Err(error @ Error::NoHost(_)) => {
                    tracing::warn!(volume = %id, %error, "unmounted without the FUSE host");
                    Ok(())
                }
                done => done,
            },
            Action::Unmount(path) => apart(move || mounter::unmount_all(&path)).await,
            Action::Bind {
                staging,
                sub_path,
                target,
            } => {
                let from = self.fuse.open(&staging, sub_path.as_ref()).await?;
                apart(move || mounter::bind(&from, &target)).await
            }
            Action::AddFlags(path, flags) => apart(move || mounter::add_flags(&path, &flags)).await,
        }
    }

    /// Whether the kubelet has been told that the volume is at `path`.
    pub fn is_at(&self, id: &VolumeId, path: &Path) -> bool {
        let record = self.store.get(id);
        record.is_some_and(|r| r.staging == path || r.targets.contains_key(path))
    }
}

fn table() -> Result<MountTable, Error> {
    MountTable::read().map_err(Error::system("read", MountTable::PATH))
}

/// On a thread where a slow disk holds up nobody else.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Error::Stopping))
}
