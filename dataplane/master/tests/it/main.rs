//! A whole master over under stores in memory, asked over gRPC.

mod fixture;
mod jobs;
mod lookup;
mod scale;
mod start;
mod stores;
mod worker;
