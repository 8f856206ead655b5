//! S3 and everything compatible with it.

mod credential;
mod encode;
mod endpoint;
mod fault;
mod http;
mod list;
mod plan;
mod profile;
mod request;
mod sign;
mod split;
mod store;
mod xml;

pub(crate) use store::open;
