//! The API as an API server sees it.

#![expect(clippy::unwrap_used, reason = "what a test does not expect fails it")]

mod api_server;
mod cases;
mod cost;
mod definitions;
mod documents;
mod examples;
mod manifests;
mod options;
mod status;
