//! etcd, kube-apiserver and some controllers, as a cluster has them; no nodes.

use crate::process::{Process, kubernetes, port, run};
use kube::{Client, Config, config::AuthInfo};
use std::{path::PathBuf, process::Command, time::Duration};
use tempfile::TempDir;

/// Controllers that the operator counts on.
const CONTROLLERS: &str = "garbage-collector-controller,persistentvolume-binder-controller,\
    persistentvolumeclaim-protection-controller,persistentvolume-protection-controller,statefulset-controller,\
    daemonset-controller,namespace-controller";

/// An API server with our definitions and roles.
pub(crate) struct ApiServer {
    _processes: Vec<Process>,
    pub(crate) dir: TempDir,
    url: String,
}

impl ApiServer {
    /// Starts it, and installs `manifests/default`.
    pub(crate) async fn start() -> ApiServer {
        // From 1.36 on that is so without being said.
        ApiServer::start_with(&[
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        ])
        .await
    }

    /// One without MutatingAdmissionPolicies. No proxy leads to Services: it goes to their endpoints itself.
    pub(crate) async fn start_without_policies() -> ApiServer {
        ApiServer::start_with(&[
            "--feature-gates=MutatingAdmissionPolicy=false",
            "--enable-aggregator-routing=true",
        ])
        .await
    }

    async fn start_with(flags: &[&str]) -> ApiServer {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        let [etcd, peer, secure, kcm] = [port(), port(), port(), port()];
        let etcd = format!("http://127.0.0.1:{etcd}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut processes = vec![Process::start(
            dir.path(),
            "etcd",
            Command::new("etcd")
                .args([
                    "--data-dir",
                    path("etcd").to_str().unwrap(),
                    "--unsafe-no-fsync",
                ])
                .args([
                    "--listen-client-urls",
                    &etcd,
                    "--advertise-client-urls",
                    &etcd,
                ])
                .args([
                    "--listen-peer-urls",
                    &peer,
                    "--initial-advertise-peer-urls",
                    &peer,
                ])
                .args(["--initial-cluster", &format!("default={peer}")]),
        )];
        let key = path("sa.key");
        run(Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048"));
        let tokens = "admin,admin,1,system:masters\nalice,alice,3\n\
            operator,system:serviceaccount:forebay-system:forebay-operator,2,\"system:serviceaccounts,system:authenticated\"\n";
        std::fs::write(path("tokens.csv"), tokens).unwrap();
        let url = format!("https://127.0.0.1:{secure}");
        let key = key.to_str().unwrap();
        processes.push(Process::start(
            dir.path(),
            "kube-apiserver",
            Command::new(kubernetes("kube-apiserver"))
                .args([
                    "--etcd-servers",
                    &etcd,
                    "--secure-port",
                    &secure.to_string(),
                ])
                .args([
                    "--bind-address",
                    "127.0.0.1",
                    "--cert-dir",
                    path("certs").to_str().unwrap(),
                ])
                .args(["--token-auth-file", path("tokens.csv").to_str().unwrap()])
                .args(["--authorization-mode", "RBAC", "--allow-privileged"])
                .args(["--service-account-issuer", "https://kubernetes.default.svc"])
                .args([
                    "--service-account-key-file",
                    key,
                    "--service-account-signing-key-file",
                    key,
                ])
                .args(["--disable-admission-plugins", "ServiceAccount"])
                .args(["--service-cluster-ip-range", "10.96.0.0/16"])
                .args(flags),
        ));
        let server = ApiServer {
            _processes: Vec::new(),
            dir,
            url,
        };
        server.ready().await;
        let kubeconfig = server.kubeconfig("admin");
        let path = server.dir.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).unwrap();
        // Before the controllers begin: the garbage collector learns of new kinds only every half a minute.
        server.kubectl(&["apply", "--server-side", "-k", "../manifests/default"]);
        processes.push(Process::start(
            server.dir.path(),
            "kube-controller-manager",
            Command::new(kubernetes("kube-controller-manager"))
                .arg("--kubeconfig")
                .arg(&path)
                .args(["--leader-elect=false", "--controllers", CONTROLLERS])
                .args([
                    "--bind-address",
                    "127.0.0.1",
                    "--secure-port",
                    &kcm.to_string(),
                ])
                .args(["--kube-api-qps", "300", "--kube-api-burst", "600"]),
        ));
        ApiServer {
            _processes: processes,
            ..server
        }
    }

    /// kubectl, as an administrator.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let kubeconfig = self.dir.path().join("kubeconfig");
        run(Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(args))
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        let file = self.dir.path().join("manifest.yaml");
        std::fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// A client with one of the tokens.
    pub(crate) fn client(&self, token: &str) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        Client::try_from(config).unwrap()
    }

    fn kubeconfig(&self, token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: \"{}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.url
        )
    }

    async fn ready(&self) {
        let client = self.client("admin");
        for _ in 0..600 {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            if client.request_text(request).await.is_ok() {
                return;
            }
            // Nothing tells when a server begins to listen.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no API server: see {}", self.dir.path().display());
    }
}
