//! The built `forebay` against a real S3 server, through real mounts. Needs `/dev/fuse` and the
//! right to mount.

#![expect(
    clippy::unwrap_used,
    reason = "a scenario that cannot go on has failed; the lint spares test functions, not what they share"
)]

mod backup;
mod bad_input;
mod chaos;
mod command_line;
mod fleet;
mod format;
mod full_disk;
mod killed;
mod node;
mod odd_keys;
mod overwritten;
mod playground;
mod quorum;
mod reading;
mod store_faults;
mod world;
