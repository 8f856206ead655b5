//! The gRPC interface: generated types, and their conversions to and from `forebay-types`.

pub mod convert;

/// Version 1 of the interface.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("forebay.v1");
}
