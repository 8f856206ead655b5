//! The bare client: the same code that Forebay fetches with, and nothing around it.

use anyhow::{Context, ensure};
use forebay_ufs::{Depth, Object, UnderStore};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Bytes of one ranged GET.
const PART: u64 = 8 << 20;
/// Ranged GETs at a time.
const PARTS: usize = 8;

pub(super) struct Bare {
    store: Arc<dyn UnderStore>,
    runtime: Runtime,
}

impl Bare {
    /// A client of `bucket` with the credentials of the environment.
    pub(super) fn new(endpoint: &str, bucket: &str) -> anyhow::Result<Bare> {
        let options = BTreeMap::from([
            ("endpoint".to_owned(), endpoint.to_owned()),
            ("region".to_owned(), "us-east-1".to_owned()),
            ("path_style".to_owned(), "true".to_owned()),
        ]);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let store = {
            let _inside = runtime.enter();
            forebay_ufs::open(&format!("s3://{bucket}"), &options)?
        };
        Ok(Bare { store, runtime })
    }

    /// MiB/s of getting one object into a file, in parallel ranges.
    pub(super) fn large(&self, key: &str, into: &Path) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let size = self.runtime.block_on(async {
            let object = self.store.stat(key.as_bytes()).await?;
            let size = object.fingerprint.size;
            let file = Arc::new(File::create(into)?);
            let parts = (0..size.div_ceil(PART)).map(|part| {
                let (store, object, file) = (self.store.clone(), object.clone(), Arc::clone(&file));
                let range = part * PART..size.min((part + 1) * PART);
                tokio::spawn(async move {
                    let mut offset = range.start;
                    let end = range.end;
                    let mut body = store
                        .read(&object.key, range, &object.fingerprint)
                        .await?
                        .bytes;
                    while let Some(piece) = body.try_next().await? {
                        file.write_all_at(&piece, offset)?;
                        offset += piece.len() as u64;
                    }
                    ensure!(offset == end, "the bare client got too few bytes");
                    anyhow::Ok(())
                })
            });
            // Tasks are spawned as the stream takes them, so few at a time.
            stream::iter(parts)
                .buffer_unordered(PARTS)
                .map(|joined| joined.context("a part was lost")?)
                .try_collect::<()>()
                .await?;
            anyhow::Ok(size)
        })?;
        Ok(size as f64 / begun.elapsed().as_secs_f64() / f64::from(1 << 20))
    }

    /// Objects per second of listing `prefix` and getting everything below it, `parallel` at a
    /// time; into files below `into`, or nowhere.
    pub(super) fn small(
        &self,
        prefix: &str,
        count: u64,
        parallel: usize,
        into: Option<&Path>,
    ) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let got = self.runtime.block_on(async {
            let objects: Vec<Object> = self
                .store
                .list(prefix.as_bytes(), Depth::Recursive)
                .map_ok(|page| page.objects)
                .try_concat()
                .await?;
            let got = objects.len() as u64;
            let gets = objects.into_iter().enumerate().map(|(index, object)| {
                let store = self.store.clone();
                let path = into.map(|into| into.join(index.to_string()));
                tokio::spawn(async move {
                    let range = 0..object.fingerprint.size;
                    let mut body = store
                        .read(&object.key, range, &object.fingerprint)
                        .await?
                        .bytes;
                    let file = path.map(File::create).transpose()?;
                    let mut offset = 0;
                    while let Some(piece) = body.try_next().await? {
                        if let Some(file) = &file {
                            file.write_all_at(&piece, offset)?;
                        }
                        offset += piece.len() as u64;
                    }
                    ensure!(
                        offset == object.fingerprint.size,
                        "the bare client got too few bytes"
                    );
                    anyhow::Ok(())
                })
            });
            stream::iter(gets)
                .buffer_unordered(parallel)
                .map(|joined| joined.context("an object was lost")?)
                .try_collect::<()>()
                .await?;
            anyhow::Ok(got)
        })?;
        ensure!(
            got == count,
            "the bare client found {got} of {count} objects"
        );
        Ok(got as f64 / begun.elapsed().as_secs_f64())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Nothing of it is running any more; do not wait for idle connections.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            std::mem::replace(&mut self.runtime, runtime).shutdown_timeout(Duration::from_secs(1));
        }
    }
}
