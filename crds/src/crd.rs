//! The definitions that a Kubernetes cluster installs.

use crate::{CacheCluster, Dataset, WarmupPolicy};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// The definition of every kind.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![CacheCluster::crd(), Dataset::crd(), WarmupPolicy::crd()];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|s| s.open_api_v3_schema.as_mut()) {
            suit(schema);
        }
    }
    crds
}

/// What is right for Rust and not for Kubernetes: null is no value (the API server drops it, and a
/// default takes its place), unsigned formats are unknown to it, and a description has one line for
/// each paragraph.
fn suit(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.format.take_if(|format| format.starts_with("uint"));
    if let Some(text) = &mut schema.description {
        *text = text
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " "))
            .collect::<Vec<_>>()
            .join("\n\n");
    }
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, property)| suit(property));
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        suit(values);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        suit(item);
    }
}
