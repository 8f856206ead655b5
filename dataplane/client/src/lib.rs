//! The client of masters and workers: connections, placement, the metadata cache, and readers.
//! Used by the FUSE host, the workers (to reach each other), and the command line.
//!
//! Layers, lowest first: [`channel`] (connections), [`call`] (error mapping), [`calls`] (many over one
//! stream), [`master`] (the way to the leader, retry) and [`worker`] (typed stubs), [`session`] (changes,
//! once each), [`topology`] (who is there), then [`namespace`] (metadata with leases), [`reader`] (bytes
//! from other nodes) and [`socket`] (the worker of this node).
//!
//! It holds no policy of the cache and never writes a file's bytes.

pub mod call;
pub mod calls;
mod changes;
pub mod channel;
pub mod error;
mod flight;
pub mod local;
pub mod master;
mod metacache;
mod mounts;
pub mod namespace;
pub mod placement;
mod pulse;
pub mod reader;
pub mod seqpacket;
mod sequence;
pub mod session;
pub mod socket;
pub mod topology;
mod voter;
mod watch;
mod window;
pub mod worker;

pub use calls::Calls;
pub use error::{Error, Result};
pub use local::{Ensured, LeaseId, LocalFile, LocalWorker};
pub use master::Master;
pub use namespace::{Invalidation, Leased, Listing, Namespace};
pub use reader::{ReadAhead, RemoteReader};
pub use session::{Access, Session, SetAttr};
pub use socket::SocketWorker;
pub use topology::{Topology, TopologyCache, WorkerInfo};
pub use voter::Voter;
pub use watch::HEARTBEAT;
pub use worker::WorkerPool;
