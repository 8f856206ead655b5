//! The master's services on one connection.

use crate::{
    Calls, Result,
    call::retrying,
    channel::{MAX_MESSAGE, connect},
};
use forebay_proto::v1::{
    admin_client::AdminClient, metadata_client::MetadataClient, registry_client::RegistryClient,
};
use forebay_types::Address;
use std::future::Future;
use tonic::{Status, transport::Channel};

/// A connection to the master; cheap to clone.
#[derive(Clone, Debug)]
pub struct Master {
    address: Address,
    channel: Channel,
    calls: Calls,
}

impl Master {
    /// A master that is connected to on first use. Must be called within a tokio runtime.
    pub fn new(address: &Address) -> Master {
        let channel = connect(address);
        Master {
            address: address.clone(),
            calls: Calls::new(channel.clone()),
            channel,
        }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Questions about single inodes, and changes ([`crate::Session`] numbers them).
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The rest of the namespace: sessions, listings, invalidations.
    pub fn metadata(&self) -> MetadataClient<Channel> {
        MetadataClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Workers and topology.
    pub fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What a person asks for.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Makes a call that may be repeated, with retry of transient failures.
    pub async fn retrying<T, F, Fut>(&self, what: &str, call: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = std::result::Result<T, Status>>,
    {
        retrying(&self.address, what, call).await
    }
}
