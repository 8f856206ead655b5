//! Under stores in the tree of a Dataset.

use crate::{
    SyncPolicy,
    mount_option::{self, Form},
    schema,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An under store at a path of the Dataset's tree. Its bytes stay there; Forebay caches them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = mount_option::known("s3"),
    validation = mount_option::known("gs"),
    validation = mount_option::known("az"),
    validation = Rule::new("has(self.secretRef) != (has(self.options) && 'anonymous' in self.options && self.options['anonymous'] == 'true')")
        .message("say how the store is entered: by secretRef, or by option anonymous: \"true\" if the bucket is public"),
)]
pub struct Mount {
    /// Where it is in the Dataset's tree: an absolute path such as `/models/llama`. A mount may lie inside
    /// another one and covers what is there. Default: `/`.
    #[serde(default = "root")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new(r"self == '/' || (self.matches('^(/[^/]+)+$') && !self.matches('/[.][.]?(/|$)'))")
        .message("an absolute path without . and .., such as / or /models/llama"))]
    pub path: String,
    /// The under store: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. What follows the
    /// bucket is taken literally. Changed: the path shows the new store, and what was cached of the old one is
    /// dropped; a file that is open is never a mixture of both.
    #[schemars(length(max = 1280))]
    #[x_kube(validation = Rule::new(r"self.matches('^(s3|gs|az)://[A-Za-z0-9._-]{1,255}(/[^?]*)?$')")
        .message("s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, without user, password and '?'"))]
    pub uri: String,
    /// How the store is spoken to, such as `{endpoint: "http://minio.default:9000", pathStyle: "true"}`; all values
    /// are texts. No credentials. Known are: `endpoint` (URL of the service), `region`, `pathStyle`, `anonymous`
    /// (`"true"`: unsigned requests, for public buckets), `account` (az), `connectTimeout`, `requestTimeout`,
    /// `idleTimeout`, `connections`, `listParallel`, `retries`, `retryBudget`; docs/options.md has what each
    /// means and its default (there they are written `path_style`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "values")]
    #[x_kube(
        validation = mount_option::well_formed(Form::Text),
        validation = mount_option::well_formed(Form::Url),
        validation = mount_option::well_formed(Form::Boolean),
        validation = mount_option::well_formed(Form::Number),
        validation = mount_option::well_formed(Form::Time),
    )]
    pub options: BTreeMap<String, String>,
    /// A Secret of the Dataset's namespace with the credentials. Its keys are named like environment variables:
    /// for s3 `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`), for gs
    /// `GOOGLE_SERVICE_ACCOUNT_KEY`, for az `AZURE_STORAGE_ACCOUNT_KEY`. When it changes, the new credentials are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// When names, sizes and contents are compared with the store again: `never`, `always` (before every
    /// answer), or on the first touch after a time such as `500ms`, `30s`, `5m`, `12h`. Default: 60s.
    #[serde(default = "minute")]
    pub sync: SyncPolicy,
}

fn values(_: &mut SchemaGenerator) -> Schema {
    schema::texts(1024)
}

fn root() -> String {
    "/".to_owned()
}

fn minute() -> SyncPolicy {
    SyncPolicy::Interval("60s".parse().expect("a time"))
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
