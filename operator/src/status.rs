//! Status and finalizers of our own kinds.

use crate::{
    error::{Error, Result, is_missing},
    metrics::Metrics,
    plan::name::{FINALIZER, Key, MANAGER, uid},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt::Debug, sync::Arc};

/// Writes them.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) client: Client,
    pub(crate) metrics: Arc<Metrics>,
}

impl Own {
    /// Adds our finalizer or takes it away, unless it is so.
    pub(crate) async fn finalizer<K>(&self, object: &K, wanted: bool) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        let has = object.finalizers().iter().any(|f| f == FINALIZER);
        if has == wanted {
            return Ok(());
        }
        let finalizers: &[&str] = if wanted { &[FINALIZER] } else { &[] };
        // The uid: another object of the name is not meant.
        let metadata = json!({"finalizers": finalizers, "uid": uid(object)});
        self.patch(object, "finalizer", metadata, None).await
    }

    /// Writes a status, unless it says the same already.
    pub(crate) async fn status<K, S: Serialize>(
        &self,
        object: &K,
        before: Option<&S>,
        status: &S,
    ) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        let value = |status| serde_json::to_value(status).unwrap_or_default();
        let status = value(status);
        if before.map(value).as_ref() == Some(&status) {
            return Ok(());
        }
        let metadata = json!({"uid": uid(object)});
        self.patch(object, "status", metadata, Some(status)).await
    }

    async fn patch<K>(
        &self,
        object: &K,
        what: &'static str,
        mut metadata: Value,
        status: Option<Value>,
    ) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        let key = Key::of(object);
        metadata["name"] = json!(key.name);
        metadata["namespace"] = json!(key.namespace);
        let mut body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": metadata,
        });
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::apply(MANAGER).force();
        self.metrics.write(what);
        let written = match status {
            Some(status) => {
                body["status"] = status;
                api.patch_status(&key.name, &params, &Patch::Apply(&body))
                    .await
            }
            None => api.patch(&key.name, &params, &Patch::Apply(&body)).await,
        };
        match written {
            // It has gone meanwhile.
            Err(error) if is_missing(&error) || crate::error::has_code(&error, 409) => Ok(()),
            Err(error) => {
                let kind = K::kind(&());
                Err(Error::api(format!(
                    "cannot write the {what} of {kind} {key}"
                ))(error))
            }
            Ok(_) => Ok(()),
        }
    }
}
