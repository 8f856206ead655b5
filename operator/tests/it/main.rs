//! The operator against a real API server, real controllers, and a real master; all on loopback.
//!
//! Needs etcd, kubectl, openssl, and the binaries of Kubernetes in `$KUBERNETES_BIN` (default
//! `~/.cache/forebay/kubernetes`); and `forebay` in `$FOREBAY_BIN`. `make e2e` has them ready; other runs leave these tests out.
#![expect(
    clippy::disallowed_methods,
    reason = "binaries are found by the environment"
)]
#![expect(clippy::unwrap_used, reason = "what a test does not expect fails it")]

mod api_server;
mod locality;
mod master;
mod process;
mod s3;
mod story;
