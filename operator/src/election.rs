//! The Lease: of several operators one acts.

use crate::{
    clock,
    error::{Error, Result, has_code},
    plan::{
        lease::{Candidate, GIVE_UP, RENEW, Step},
        name::{Key, MANAGER},
    },
};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A lease that this process wants, or holds.
pub(crate) struct Election {
    api: Api<Lease>,
    key: Key,
    candidate: Candidate,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, identity: &str) -> Election {
        Election {
            api: Api::namespaced(client, namespace),
            key: Key::new(namespace, MANAGER),
            candidate: Candidate::new(identity),
        }
    }

    /// Resolves when this one holds the lease.
    pub(crate) async fn win(&mut self) {
        loop {
            match self.step().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot take part in the election"),
            }
            sleep(RENEW.unsigned_abs() / 2).await;
        }
    }

    /// Renews the lease; resolves when it is lost: whoever acts stops at once.
    pub(crate) async fn keep(&mut self) {
        let give_up = GIVE_UP.unsigned_abs();
        let mut renewed = Instant::now();
        loop {
            sleep(
                RENEW
                    .unsigned_abs()
                    .min(give_up.saturating_sub(renewed.elapsed())),
            )
            .await;
            let begun = Instant::now();
            let left = give_up.saturating_sub(renewed.elapsed());
            match timeout(left.max(Duration::from_millis(1)), self.step()).await {
                Ok(Ok(true)) => renewed = begun,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => {}
            }
            if renewed.elapsed() >= give_up {
                return;
            }
        }
    }

    /// Lets it go, so that the next one need not wait.
    pub(crate) async fn release(&mut self) {
        let released = async {
            let lease = self.read().await?;
            let free = lease
                .as_ref()
                .and_then(|l| self.candidate.released(l.spec.as_ref()?));
            match free {
                Some(free) => self.write(lease, free).await.map(|_| ()),
                None => Ok(()),
            }
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the lease is not released: it runs out");
        }
    }

    /// Whether this one holds it now.
    async fn step(&mut self) -> Result<bool> {
        let lease = self.read().await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        match self.candidate.step(spec, clock::now()) {
            Step::Wait => Ok(false),
            Step::Write(spec) => self.write(lease, spec).await,
        }
    }

    async fn read(&self) -> Result<Option<Lease>> {
        let lease = self.api.get_opt(&self.key.name).await;
        lease.map_err(Error::api(format!("cannot read Lease {}", self.key)))
    }

    /// False: somebody was faster.
    async fn write(&self, before: Option<Lease>, spec: LeaseSpec) -> Result<bool> {
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let spec = Some(spec);
        let written = if let Some(lease) = before {
            let lease = Lease { spec, ..lease };
            self.api.replace(&self.key.name, &params, &lease).await
        } else {
            let metadata = ObjectMeta {
                name: Some(self.key.name.clone()),
                ..ObjectMeta::default()
            };
            self.api.create(&params, &Lease { metadata, spec }).await
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if has_code(&error, 409) => Ok(false),
            Err(error) => Err(Error::api(format!("cannot write Lease {}", self.key))(
                error,
            )),
        }
    }
}
