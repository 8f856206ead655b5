//! Generated: the interfaces of others.

/// CSI, version 1.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How a driver makes itself known to the kubelet.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
