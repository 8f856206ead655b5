//! Forebay on a real Kubernetes cluster: a throw-away one of this machine, or one that is there.

mod bucket;
mod claims;
mod deletion;
mod edits;
mod examples;
mod faults;
mod kubectl;
mod locality;
mod masters;
mod node_loss;
mod outage;
mod reader;
pub mod scale;
mod secrets;
mod story;
mod tenants;
mod throw_away;
mod trial;
mod upgrade;
mod warmup;

pub use kubectl::Kubectl;
pub use throw_away::ThrowAway;
pub use trial::{SCENARIOS, Scenario, Trial};
