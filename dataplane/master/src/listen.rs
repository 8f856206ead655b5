//! Where gRPC is served: a TCP port, or a Unix socket that only its owner may use.

use forebay_service::config::ConfigError;
use forebay_types::Address;
use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// A bound listener.
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// The file is its owner's: of two listeners the first one.
    Unix(UnixListener, Option<SocketFile>),
}

impl Listener {
    /// Another listener on the same address; both take from one queue.
    pub(crate) fn twin(&self) -> io::Result<Listener> {
        Ok(match self {
            Listener::Tcp(listener) => {
                let twin = listener.as_fd().try_clone_to_owned()?;
                Listener::Tcp(TcpListener::from_std(twin.into())?)
            }
            Listener::Unix(listener, _) => {
                let twin = listener.as_fd().try_clone_to_owned()?;
                Listener::Unix(UnixListener::from_std(twin.into())?, None)
            }
        })
    }
}

/// Removes the socket when it is no longer served.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _ = fs::remove_file(&self.0);
    }
}

/// Binds; returns the address with the real port.
pub(crate) async fn bind(address: &Address) -> Result<(Listener, Address), ConfigError> {
    let refuse = |error: io::Error| ConfigError(explain(address, &error));
    match address {
        Address::Tcp(text) => {
            let listener = TcpListener::bind(text.as_str()).await.map_err(refuse)?;
            let port = listener.local_addr().map_err(refuse)?.port();
            let host = text
                .rsplit_once(':')
                .map_or(text.as_str(), |(host, _)| host);
            Ok((
                Listener::Tcp(listener),
                Address::Tcp(format!("{host}:{port}")),
            ))
        }
        Address::Unix(path) => {
            if UnixStream::connect(path).await.is_ok() {
                let in_use = io::Error::from(io::ErrorKind::AddrInUse);
                return Err(refuse(in_use));
            }
            let listener = bind_private(path).map_err(refuse)?;
            Ok((
                Listener::Unix(listener, Some(SocketFile(path.clone()))),
                address.clone(),
            ))
        }
    }
}

/// Binds under another name, restricts, and then moves into place (over the socket that a killed
/// process has left): nobody can connect before the permissions are set.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut draft = path.as_os_str().to_owned();
    draft.push("~");
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    let file = SocketFile(draft);
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600))?;
    fs::rename(&file.0, path)?;
    Ok(listener)
}

fn explain(address: &Address, error: &io::Error) -> String {
    let remedy = match (address, error.kind()) {
        (Address::Tcp(_), io::ErrorKind::AddrInUse) => {
            ": the port is in use: stop its owner, or choose another (0 picks a free one)"
        }
        (Address::Unix(_), io::ErrorKind::AddrInUse) => {
            ": another process serves there: stop it, or choose another path"
        }
        (_, io::ErrorKind::AddrNotAvailable) => ": no interface has this address",
        (Address::Unix(_), io::ErrorKind::NotFound) => ": make its directory first",
        (Address::Unix(_), io::ErrorKind::InvalidInput) => {
            ": the path of a Unix socket may have at most 107 bytes: choose a shorter one"
        }
        _ => return format!("cannot serve on {address}: {error}"),
    };
    format!("cannot serve on {address}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_real_port_is_told() {
        let (_listener, address) = bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(!address.to_string().ends_with(":0"));
        let error = bind(&address).await.err().unwrap().to_string();
        assert!(error.contains("in use"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_is_private_replaces_a_dead_one_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.clone());
        let (listener, _) = bind(&address).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = bind(&address).await.err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_explained() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let error = bind(&Address::Unix(path)).await.err().unwrap().to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }
}
