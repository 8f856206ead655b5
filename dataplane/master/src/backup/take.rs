//! Taking a backup from a running cluster.

use super::manifest::{Item, Manifest};
use anyhow::{Context, bail, ensure};
use forebay_client::{Master, call::error_of};
use forebay_proto::v1::{BackupRequest, BackupResponse, backup_response::What};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// What was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The whole backup.
    pub manifest: Manifest,
    /// Bytes that an earlier one in the same directory did not have.
    pub sent: u64,
}

/// Takes a backup into `dir`. What an earlier one there has already is not sent again; that one stays
/// as it is until this one is whole.
pub async fn take(master: &Master, dir: &Path) -> anyhow::Result<Taken> {
    let before = Manifest::read(dir)?;
    let (wanted, manifest, mut parts) = begin(master).await?;
    if let Some(before) = before {
        ensure!(
            before.cluster == manifest.cluster,
            "{} holds a backup of cluster {}, this is {}: give another directory",
            dir.display(),
            before.cluster,
            manifest.cluster
        );
    }
    Manifest::make_dir(dir)?;
    let mut sent = 0;
    for item in &manifest.files {
        if item.is_whole(dir)? {
            continue;
        }
        let file = item.name.clone();
        let told = wanted.send(BackupRequest { file }).await;
        told.ok()
            .context("the master ended the backup: try again")?;
        receive(item, dir, &mut parts, master).await?;
        sent += item.size;
    }
    manifest.write(dir)?;
    Ok(Taken { manifest, sent })
}

/// Where wanted files are named; what the backup holds; its bytes.
type Begun = (
    mpsc::Sender<BackupRequest>,
    Manifest,
    Streaming<BackupResponse>,
);

async fn begin(master: &Master) -> anyhow::Result<Begun> {
    let ask = || {
        let mut admin = master.admin();
        async move {
            let (wanted, asked) = mpsc::channel(1);
            let parts = admin.backup(ReceiverStream::new(asked)).await?;
            let mut parts = parts.into_inner();
            match parts.message().await?.and_then(|message| message.what) {
                Some(What::Manifest(text)) => Ok((wanted, text, parts)),
                _ => Err(Status::unavailable("the backup did not begin")),
            }
        }
    };
    let (wanted, text, parts) = master.retrying("backup", ask).await?;
    let manifest = serde_json::from_slice(&text).context("the master's manifest is unreadable")?;
    Ok((wanted, manifest, parts))
}

/// Writes a file of the backup.
async fn receive(
    item: &Item,
    dir: &Path,
    parts: &mut Streaming<BackupResponse>,
    master: &Master,
) -> anyhow::Result<()> {
    let path = item.path(dir);
    let mut draft = path.clone().into_os_string();
    draft.push("~");
    let draft = PathBuf::from(draft);
    let mut file = File::create(&draft)?;
    let mut size = 0;
    while size < item.size {
        let message = parts.message().await;
        let message = message.map_err(|status| error_of(&master.address(), "backup", &status))?;
        let Some(What::Data(piece)) = message.and_then(|message| message.what) else {
            bail!("the master ended the backup: try again");
        };
        file.write_all(&piece)?;
        size += piece.len() as u64;
    }
    file.sync_all()?;
    let arrived = Item::of(&draft, item.name.clone())?;
    ensure!(arrived == *item, "{} arrived damaged: try again", item.name);
    Ok(fs::rename(draft, path)?)
}
