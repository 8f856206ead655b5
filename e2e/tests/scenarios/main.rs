//! The built `forebay` against a real S3 server, through real mounts. Needs `/dev/fuse` and the
//! right to mount.

mod bad_input;
mod command_line;
mod killed;
mod odd_keys;
mod overwritten;
mod playground;
mod reading;
mod store_faults;
mod world;
