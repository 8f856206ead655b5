//! The operator against a real API server, real controllers, and a real master; all on loopback.
//!
//! Needs etcd, kubectl, openssl, and the binaries of Kubernetes in `$FOREBAY_KUBERNETES` (default
//! `~/.cache/forebay/kubernetes`); and `forebay` in `$FOREBAY_BIN`. Without them, tests are ignored.

mod api_server;
mod master;
mod process;
mod s3;
mod story;
