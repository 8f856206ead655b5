//! A backup on its way to a client: a checkpoint, whose files the client asks for as far as it lacks
//! them. It lives as long as the stream.

use crate::{
    backup::{FORMAT, Item, Manifest},
    error::{Error, Result, blocking},
    machine::Machine,
};
use bytes::Bytes;
use forebay_proto::v1::{BackupRequest, BackupResponse, backup_response::What};
use forebay_service::Shutdown;
use forebay_types::Code;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Bytes of one message.
const PIECE: u64 = 1 << 20;

/// Where checkpoints for backups are, within the data directory.
const DIR: &str = "backup";

/// Messages that wait for a client.
const WAITING: usize = 4;

type Answer = std::result::Result<BackupResponse, Status>;
type Sender = mpsc::Sender<Answer>;

/// The answers of a stream.
pub(super) type Answers = ReceiverStream<Answer>;

/// A checkpoint; its files go with it.
struct Checkpoint {
    dir: PathBuf,
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot remove a checkpoint");
        }
    }
}

/// Backups of this master's state, one at a time.
pub(crate) struct Backups {
    machine: Arc<Machine>,
    dir: PathBuf,
    turn: Arc<Semaphore>,
}

impl Backups {
    /// Of the state in `data_dir`; removes what a backup has left that was cut short by the end of
    /// the process.
    pub(crate) fn new(machine: Arc<Machine>, data_dir: &Path) -> io::Result<Backups> {
        let dir = data_dir.join(DIR);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Backups {
            machine,
            dir,
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Serves one backup; a task of `shutdown`.
    pub(super) fn serve(
        &self,
        cluster: String,
        asked: Streaming<BackupRequest>,
        shutdown: &Shutdown,
    ) -> Result<Answers> {
        let turn = self.turn.clone().try_acquire_owned();
        let turn = turn.map_err(|_| {
            let text = "a backup is being taken already: wait for its end";
            Error::new(Code::Busy, text)
        })?;
        let (answers, stream) = mpsc::channel(WAITING);
        let (machine, dir) = (self.machine.clone(), self.dir.clone());
        shutdown.spawn(async move {
            if let Err(error) = serve(machine, dir, cluster, asked, &answers).await {
                // If nobody listens, nobody wants to know.
                let _ = answers.send(Err(error.into())).await;
            }
            drop(turn);
        });
        Ok(ReceiverStream::new(stream))
    }
}

async fn serve(
    machine: Arc<Machine>,
    dir: PathBuf,
    cluster: String,
    mut asked: Streaming<BackupRequest>,
    answers: &Sender,
) -> Result<()> {
    let made = blocking(move || checkpoint(&machine, &dir, cluster));
    let (checkpoint, manifest) = made.await?.map_err(|error| {
        Error::new(
            Code::Internal,
            format!("cannot make a checkpoint: {error:#}"),
        )
    })?;
    let items = manifest.files.clone();
    let text = serde_json::to_vec(&manifest)
        .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
    if !tell(answers, What::Manifest(text.into())).await {
        return Ok(());
    }
    let gone = |status: Status| Error::new(Code::Unavailable, status.message());
    while let Some(BackupRequest { file }) = asked.message().await.map_err(gone)? {
        let item = items.iter().find(|item| item.name == file).ok_or_else(|| {
            Error::new(
                Code::InvalidArgument,
                format!("the backup has no file '{file}'"),
            )
        })?;
        let path = checkpoint.dir.join(&item.name);
        let opened = blocking(move || File::open(path)).await?;
        let mut file = opened.map_err(|error| broken(&error))?;
        loop {
            let (back, piece) = blocking(move || {
                let piece = piece(&mut file);
                (file, piece)
            })
            .await?;
            let piece = piece.map_err(|error| broken(&error))?;
            if piece.is_empty() {
                break;
            }
            file = back;
            if !tell(answers, What::Data(piece)).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns whether anybody listens.
async fn tell(answers: &Sender, what: What) -> bool {
    let answer = BackupResponse { what: Some(what) };
    answers.send(Ok(answer)).await.is_ok()
}

fn piece(file: &mut File) -> io::Result<Bytes> {
    let mut piece = Vec::new();
    file.take(PIECE).read_to_end(&mut piece)?;
    Ok(piece.into())
}

fn broken(error: &io::Error) -> Error {
    Error::new(
        Code::Internal,
        format!("cannot read the checkpoint: {error}"),
    )
}

fn checkpoint(
    machine: &Machine,
    parent: &Path,
    cluster: String,
) -> anyhow::Result<(Checkpoint, Manifest)> {
    fs::create_dir_all(parent)?;
    let dir = parent.join(uuid::Uuid::new_v4().to_string());
    let checkpoint = Checkpoint { dir };
    let index = machine.meta().checkpoint(&checkpoint.dir)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(&checkpoint.dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push(Item::of(&entry.path(), name)?);
    }
    files.sort();
    let manifest = Manifest {
        format: FORMAT,
        cluster,
        index,
        files,
    };
    Ok((checkpoint, manifest))
}
