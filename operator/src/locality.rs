//! Gives the API server the policy by which pods prefer nodes that hold what they mount; once, if it knows such policies.

use crate::{
    error::{Error, Result, is_missing},
    metrics::Metrics,
    plan::{
        locality::{GROUP, NAME, PLURALS, VERSIONS, objects},
        name::{DRIVER, MANAGED_BY, MANAGER, uid},
    },
};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, ValidationDirective},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// The first wait after a failure; twice as long after each …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_mins(5);

/// Tries until it is done, or cannot be done.
pub(crate) async fn install(client: Client, metrics: Arc<Metrics>) {
    let mut wait = RETRY_FIRST;
    loop {
        match try_install(&client, &metrics).await {
            Ok(Some(version)) => {
                tracing::info!(version, "pods prefer nodes that hold what they mount");
                return;
            }
            Ok(None) => {
                tracing::info!("pods go anywhere: the API server has no {}", PLURALS[0]);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "pods may go anywhere, wherever their data is; trying again");
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MOST);
    }
}

/// In which version of the API; none: it does not know them.
async fn try_install(client: &Client, metrics: &Metrics) -> Result<Option<&'static str>> {
    let Some(version) = version(client).await? else {
        return Ok(None);
    };
    let drivers: Api<CSIDriver> = Api::all(client.clone());
    let driver = drivers.get_metadata(DRIVER).await;
    let driver = driver.map_err(Error::api(format!("cannot read CSIDriver {DRIVER}")))?;
    for (object, plural) in objects(version, &uid(&driver)).iter().zip(PLURALS) {
        metrics.write("apply");
        apply(client, version, plural, object).await?;
    }
    Ok(Some(version))
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

/// Applies an object, unless somebody else has one of its name.
async fn apply(client: &Client, version: &str, plural: &str, object: &Value) -> Result<()> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let gvk = GroupVersionKind::gvk(GROUP, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let what = || format!("cannot apply {kind} {NAME}");
    let there = api.get_metadata_opt(NAME).await;
    let there = there.map_err(Error::api(what()))?;
    if there.is_some_and(|t| t.labels().get(MANAGED_BY).is_none_or(|by| by != MANAGER)) {
        return Err(Error::NameInUse(format!("{kind} {NAME}")));
    }
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(MANAGER).force()
    };
    let applied = api.patch(NAME, &params, &Patch::Apply(object)).await;
    applied.map(drop).map_err(Error::api(what()))
}
