//! The API as an API server sees it.

mod api_server;
mod cases;
mod cost;
mod definitions;
mod documents;
mod examples;
mod options;
mod status;
