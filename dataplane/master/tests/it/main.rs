//! A whole master over under stores in memory, asked over gRPC.

#![expect(clippy::unwrap_used, reason = "what a test does not expect fails it")]

mod fixture;
mod jobs;
mod lookup;
mod quorum;
mod registry;
mod scale;
mod scratch;
mod start;
mod stores;
mod usage;
mod warmups;
mod worker;
