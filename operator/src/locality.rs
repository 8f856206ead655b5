//! Has the API server tell pods which nodes hold what they mount: by a policy if it knows such policies, else by the webhook. It is
//! looked at once.

use crate::{
    error::{Error, Result, is_missing},
    metrics::Metrics,
    placements::Placements,
    plan::{
        locality::{GROUP, NAME, PLURALS, VERSIONS, objects},
        name::{DRIVER, MANAGED_BY, MANAGER, uid},
        webhook::{SERVICE, configuration, endpoints, server_name},
    },
    webhook::{Serving, Webhook},
};
use forebay_service::Shutdown;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Service,
    discovery::v1::EndpointSlice, storage::v1::CSIDriver,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, ValidationDirective},
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// The first wait after a failure; twice as long after each …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_mins(5);

/// What it takes.
pub(crate) struct Locality {
    pub(crate) client: Client,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) placements: Arc<Placements>,
    /// Where the operator runs.
    pub(crate) namespace: String,
    /// Where the webhook would be served, and by which address the API server would reach it.
    pub(crate) webhook: SocketAddr,
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) shutdown: Shutdown,
}

impl Locality {
    /// Tries until it is done, or cannot be done.
    pub(crate) async fn install(self) {
        if let Some(version) = patiently(|| self.policy()).await {
            tracing::info!(version, "pods prefer nodes that hold what they mount");
            return;
        }
        let Some(ip) = self.pod_ip else {
            let none = PLURALS[0];
            tracing::info!(
                "pods go anywhere: the API server has no {none}, and no --pod-ip says where it could ask"
            );
            return;
        };
        let webhook = Webhook::new(Arc::clone(&self.placements), Arc::clone(&self.metrics));
        let name = || server_name(&self.namespace);
        let serving = patiently(|| webhook.serve(self.webhook, name(), &self.shutdown)).await;
        let address = SocketAddr::new(ip, serving.address.port());
        patiently(|| self.announce(address, &serving)).await;
        tracing::info!(%address, "pods prefer nodes that hold what they mount: the API server asks");
    }

    /// By a policy, in which version of the API; none: it does not know them.
    async fn policy(&self) -> Result<Option<&'static str>> {
        let Some(version) = version(&self.client).await? else {
            return Ok(None);
        };
        let driver = self.driver().await?;
        for (object, plural) in objects(version, &driver).iter().zip(PLURALS) {
            let kind = object["kind"].as_str().unwrap_or_default();
            let gvk = GroupVersionKind::gvk(GROUP, version, kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let api = Api::all_with(self.client.clone(), &resource);
            self.apply(&api, object).await?;
        }
        self.retire().await?;
        Ok(Some(version))
    }

    /// Says where the webhook is, then has the API server ask there.
    async fn announce(&self, address: SocketAddr, serving: &Serving) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = services.get_metadata(SERVICE).await;
        let service = service.map_err(Error::api(format!("cannot read Service {SERVICE}")))?;
        let resource = ApiResource::erase::<EndpointSlice>(&());
        let api = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let slice = endpoints(&self.namespace, &uid(&service), address);
        self.apply(&api, &slice).await?;
        let driver = self.driver().await?;
        let resource = ApiResource::erase::<MutatingWebhookConfiguration>(&());
        let api = Api::all_with(self.client.clone(), &resource);
        let configuration = configuration(&self.namespace, &serving.ca, &driver);
        self.apply(&api, &configuration).await
    }

    /// An API server that has policies since an upgrade asks no more.
    async fn retire(&self) -> Result<()> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let what = || format!("cannot delete MutatingWebhookConfiguration {NAME}");
        let there = api.get_metadata_opt(NAME).await;
        let there = there.map_err(Error::api(what()))?;
        let Some(there) = there.filter(|there| is_ours(&there.metadata)) else {
            return Ok(());
        };
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid(&there)),
            resource_version: None,
        });
        self.metrics.write("delete");
        match api.delete(NAME, &params).await {
            Err(error) if !is_missing(&error) => Err(Error::api(what())(error)),
            _ => Ok(()),
        }
    }

    /// The uid of what everything here goes with, but the EndpointSlice.
    async fn driver(&self) -> Result<String> {
        let drivers: Api<CSIDriver> = Api::all(self.client.clone());
        let driver = drivers.get_metadata(DRIVER).await;
        let driver = driver.map_err(Error::api(format!("cannot read CSIDriver {DRIVER}")))?;
        Ok(uid(&driver))
    }

    /// Applies an object, unless somebody else has one of its name.
    async fn apply(&self, api: &Api<DynamicObject>, object: &Value) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let what = || format!("cannot apply {kind} {name}");
        let there = api.get_metadata_opt(&name).await;
        let there = there.map_err(Error::api(what()))?;
        if there.is_some_and(|there| !is_ours(&there.metadata)) {
            return Err(Error::NameInUse(format!("{kind} {name}")));
        }
        let params = PatchParams {
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply(MANAGER).force()
        };
        self.metrics.write("apply");
        let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
        applied.map(drop).map_err(Error::api(what()))
    }
}

/// Tries until it is done.
async fn patiently<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> T {
    let mut wait = RETRY_FIRST;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                tracing::warn!(%error, "pods may go anywhere, wherever their data is; trying again");
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MOST);
    }
}

fn is_ours(there: &ObjectMeta) -> bool {
    let labels = there.labels.as_ref();
    labels.is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
}

async fn version(client: &Client) -> Result<Option<&'static str>> {
    for version in VERSIONS {
        let group = format!("{GROUP}/{version}");
        match client.list_api_group_resources(&group).await {
            Ok(list)
                if PLURALS
                    .iter()
                    .all(|p| list.resources.iter().any(|r| r.name == *p)) =>
            {
                return Ok(Some(version));
            }
            Err(error) if !is_missing(&error) => {
                return Err(Error::api(format!("cannot ask for {group}"))(error));
            }
            _ => {}
        }
    }
    Ok(None)
}
