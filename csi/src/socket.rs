//! Unix sockets that are private from their first moment, in place of a dead predecessor's.

use forebay_service::{Shutdown, config::ConfigError};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{net::UnixListener, time::sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Router;

/// How long shutdown waits for calls that are being answered.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Serves `router` at `path` until shutdown, and removes the socket then.
pub fn serve(path: &Path, router: Router, shutdown: &Shutdown) -> Result<(), ConfigError> {
    let listener = bind(path).map_err(|error| {
        ConfigError(format!(
            "cannot listen on {}: {error}: give a path in a directory that this user may write",
            path.display()
        ))
    })?;
    let path = path.to_owned();
    shutdown.spawn_graceful(|token| async move {
        let stop = token.clone().cancelled_owned();
        let incoming = UnixListenerStream::new(listener);
        let served = router.serve_with_incoming_shutdown(incoming, stop);
        let too_late = async {
            token.cancelled().await;
            // Nobody new from here on.
            let _ = fs::remove_file(&path);
            sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::error!(%error, "the gRPC server failed");
            },
            () = too_late => {}
        }
        let _ = fs::remove_file(&path);
    });
    Ok(())
}

/// Under a hidden name first: others see it when its mode is set, and the kubelet, which watches
/// one of the directories, sees it appear once.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(dir)?;
    let hidden: PathBuf = dir.join(format!(".{}", name.to_string_lossy()));
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}
