//! Rules stay within what an API server spends on them.

use forebay_crds::crds;
use serde_json::Value;

/// The API server estimates the cost of a rule from the largest value that the schema allows: what a rule looks
/// at needs a bound.
#[test]
fn whatever_users_write_is_bounded() {
    fn walk(schema: &Value, path: &str, unbounded: &mut Vec<String>) {
        let bound = match schema["type"].as_str() {
            Some("array") => Some("maxItems"),
            Some("string") if schema.get("enum").is_none() => Some("maxLength"),
            Some("object") if schema.get("additionalProperties").is_some() => Some("maxProperties"),
            _ => None,
        };
        if bound.is_some_and(|bound| schema.get(bound).is_none()) {
            unbounded.push(path.to_owned());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), unbounded);
        }
        for below in ["items", "additionalProperties"] {
            if let Some(schema) = schema.get(below) {
                walk(schema, &format!("{path}[]"), unbounded);
            }
        }
    }
    let mut unbounded = Vec::new();
    for crd in crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        walk(spec, &crd.spec.names.kind, &mut unbounded);
    }
    assert!(unbounded.is_empty(), "{unbounded:?}");
}
