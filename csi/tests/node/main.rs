//! The driver as the kubelet sees it: the real program, over its sockets, with real mounts, beside
//! a FUSE host that is made up.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; the lint spares test functions, not what they share"
)]

mod containers;
mod fake_host;
mod fuse_fs;
mod lifecycle;
mod namespace;
mod refusals;
mod restart;
mod sanity;
mod stand_in;
mod world;
