//! `forebay fs cat`.

use super::walk::{attr, resolve};
use crate::{cluster::Target, failure::Failure};
use forebay_client::{ReadAhead, RemoteReader};
use forebay_proto::v1::OpenFileRequest;
use forebay_types::FileRef;
use std::io::Write;

/// Bytes asked for at a time.
const CHUNK: u64 = 4 << 20;
/// Read-ahead.
const BUDGET: u64 = 64 << 20;

/// Streams the file from the workers to standard output.
pub(crate) async fn run(target: &Target) -> Result<(), Failure> {
    let it = attr(resolve(target).await?.attr)?;
    if it.directory {
        return Err(Failure::run(format!("{}: is a directory", target.shown())));
    }
    let file = target
        .master
        .retrying("open", || {
            let calls = target.master.calls();
            async move { calls.open_file(OpenFileRequest { ino: it.ino }).await }
        })
        .await?;
    let file =
        FileRef::try_from(file).map_err(|status| Failure::run(status.message().to_owned()))?;
    let reader = RemoteReader::new(target.master.addresses(), &ReadAhead::new(BUDGET));
    let mut out = std::io::stdout().lock();
    let mut offset = 0;
    while offset < file.size() {
        let end = (offset + CHUNK).min(file.size());
        let bytes = reader.read(&file, offset..end).await?;
        if bytes.is_empty() {
            return Err(Failure::run(format!(
                "{}: ends at byte {offset} instead of {}",
                target.shown(),
                file.size()
            )));
        }
        offset += bytes.len() as u64;
        out.write_all(&bytes)?;
    }
    out.flush()?;
    Ok(())
}
