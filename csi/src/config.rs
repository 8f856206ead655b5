//! Settings of the driver.

use forebay_service::config::ConfigError;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Settings of the driver.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsiConfig {
    /// Name of the node, as Kubernetes has it.
    pub node_name: String,
    /// Unix socket where CSI is served.
    #[serde(default = "endpoint")]
    pub endpoint: PathBuf,
    /// The same socket as the kubelet sees it, where that is another path.
    #[serde(default)]
    pub kubelet_endpoint: Option<PathBuf>,
    /// The directory where the kubelet looks for plugins.
    #[serde(default = "registration_dir")]
    pub registration_dir: PathBuf,
    /// Unix socket of the FUSE host.
    #[serde(default = "host_socket")]
    pub host_socket: PathBuf,
    /// Holds a directory for every cluster that has a worker on this node, with the worker's socket.
    #[serde(default = "sockets_dir")]
    pub sockets_dir: PathBuf,
    /// What the kubelet has asked for is kept here; must outlive the container.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// Where `/metrics`, `/healthz`, `/readyz` are served; absent: nowhere.
    #[serde(default)]
    pub http: Option<SocketAddr>,
}

fn endpoint() -> PathBuf {
    "/var/lib/kubelet/plugins/csi.forebay.io/csi.sock".into()
}

fn registration_dir() -> PathBuf {
    "/var/lib/kubelet/plugins_registry".into()
}

fn host_socket() -> PathBuf {
    "/run/forebay/host.sock".into()
}

fn sockets_dir() -> PathBuf {
    "/run/forebay".into()
}

fn state_dir() -> PathBuf {
    "/var/lib/kubelet/plugins/csi.forebay.io/state".into()
}

impl CsiConfig {
    /// Refuses what serde lets through.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.node_name.is_empty() {
            return Err(ConfigError(
                "key 'node_name' is empty: give the name of the node (spec.nodeName of the pod)"
                    .to_owned(),
            ));
        }
        let paths = [
            ("endpoint", &self.endpoint),
            ("kubelet_endpoint", self.seen_by_kubelet()),
            ("registration_dir", &self.registration_dir),
            ("host_socket", &self.host_socket),
            ("sockets_dir", &self.sockets_dir),
            ("state_dir", &self.state_dir),
        ];
        for (key, path) in paths {
            if !path.is_absolute() || path.to_str().is_none() {
                return Err(ConfigError(format!(
                    "key '{key}': '{}' is no absolute path in UTF-8",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// The socket's path for the kubelet.
    pub fn seen_by_kubelet(&self) -> &PathBuf {
        self.kubelet_endpoint.as_ref().unwrap_or(&self.endpoint)
    }

    /// The socket where the driver makes itself known.
    pub fn registration_socket(&self, driver: &str) -> PathBuf {
        // The kubelet names the path, with its slashes escaped, as the authority of its calls (kubernetes issue 109081), and h2
        // refuses an escape in a host's name. Before an '@' is user information, where it may be.
        Path::new(&self.registration_dir).join(format!("{driver}@registration.sock"))
    }
}
