//! Making a master's directory from a backup.

use super::manifest::Manifest;
use crate::{config::MasterConfig, node_id, tables::Tables};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use forebay_consensus::journal;
use forebay_kv_rocksdb::{Options, RocksKv};
use forebay_service::data_dir::DataDir;
use std::{fs, path::Path};

/// Makes the data directory of `config`, which must be empty, hold what the backup in `dir` holds; the
/// only master of a new quorum, which others join. Returns what was restored.
pub fn restore(dir: &Path, config: &MasterConfig) -> anyhow::Result<Manifest> {
    let shown = dir.display();
    let Some(manifest) = Manifest::read(dir)? else {
        bail!("{shown} holds no backup: give the directory of 'forebay backup'");
    };
    for item in &manifest.files {
        let whole = item.is_whole(dir);
        ensure!(
            whole.with_context(|| format!("cannot read {}", item.path(dir).display()))?,
            "{} is missing or damaged: restore another backup",
            item.path(dir).display()
        );
    }
    let data_dir = DataDir::open(&config.data_dir, "master")?;
    ensure!(
        data_dir.id().is_none(),
        "data directory {} belongs to a master already: give an empty one",
        config.data_dir.display()
    );
    let place = || format!("cannot restore into {}", config.data_dir.display());
    let tables = Tables::new(config.data_dir.join("meta"), [config.memory.0 / 2; 2]);
    let meta = tables
        .begin_with(
            manifest
                .files
                .iter()
                .map(|item| (item.path(dir), item.name.as_str())),
        )
        .with_context(place)?;
    ensure!(
        meta.applied() == manifest.index,
        "{shown} says that it goes up to index {}, its tables to {}: restore another backup",
        manifest.index,
        meta.applied()
    );
    let journal =
        RocksKv::open(&config.data_dir.join("journal"), &Options::default()).with_context(place)?;
    let node = node_id::founder(config.id);
    let own = config.peers.iter().find(|peer| peer.id == config.id);
    let address = own.map_or(&config.listen, |peer| &peer.address);
    let context = Bytes::from(address.to_string());
    journal::begin_behind(&*journal, node, context, manifest.index)?;
    fs::File::open(&config.data_dir)?.sync_all()?;
    data_dir.bind(&manifest.cluster)?;
    // The last step: until then the directory is nobody's.
    data_dir.bind_id(node)?;
    Ok(manifest)
}
