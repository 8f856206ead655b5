//! What an API server does with an object before it stores it.

use forebay_crds::crds;
use kube::core::cel::{Validator, apply_defaults};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The schema of the kind of `object`.
pub(crate) fn schema(object: &Value) -> Value {
    let crd = crds()
        .into_iter()
        .find(|crd| object["kind"] == crd.spec.names.kind)
        .unwrap_or_else(|| panic!("no such kind: {object}"));
    let version = &crd.spec.versions[0];
    let api_version = format!("{}/{}", crd.spec.group, version.name);
    assert_eq!(object["apiVersion"], api_version.as_str());
    let schema = version.schema.as_ref().unwrap();
    serde_json::to_value(&schema.open_api_v3_schema).unwrap()
}

/// The object with its defaults, or what is wrong with it, each in a line: fields that nobody knows
/// (`kubectl apply` asks for that), the schema, keys of lists, and the rules, also those of an edit of `old`.
pub(crate) fn admit(object: &Value, old: Option<&Value>) -> Result<Value, Vec<String>> {
    let schema = schema(object);
    let mut wrong = Vec::new();
    unknown(&schema, object, "", &mut wrong);
    let object = apply_defaults(&schema, object);
    let validator = jsonschema::validator_for(&schema).unwrap();
    for error in validator.iter_errors(&object) {
        wrong.push(format!(
            "{}: {error}",
            dotted(&error.instance_path().to_string())
        ));
    }
    duplicates(&schema, &object, "", &mut wrong);
    // As in an API server, rules are for what has the right shape.
    if wrong.is_empty()
        && let Err(errors) = Validator::new().validate(&schema, &object, old)
    {
        for error in errors.as_slice() {
            wrong.push(error.to_string());
        }
    }
    if wrong.is_empty() {
        Ok(object)
    } else {
        Err(wrong)
    }
}

fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

fn join(path: &str, name: &str) -> String {
    let dot = if path.is_empty() { "" } else { "." };
    format!("{path}{dot}{name}")
}

fn each_below(
    schema: &Value,
    value: &Value,
    path: &str,
    mut visit: impl FnMut(&Value, &Value, &str),
) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let below = schema["properties"].get(name);
                let below = below.or_else(|| schema.get("additionalProperties"));
                if let Some(below) = below {
                    visit(below, field, &join(path, name));
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(&schema["items"], item, &format!("{path}[{index}]"));
            }
        }
        _ => {}
    }
}

fn unknown(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    if let Value::Object(fields) = value
        && schema.get("additionalProperties").is_none()
    {
        let nothing = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&nothing);
        for name in fields.keys() {
            let meta =
                path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
            if !meta && !known.contains_key(name) {
                wrong.push(format!("{}: unknown field", join(path, name)));
            }
        }
    }
    each_below(schema, value, path, |schema, value, path| {
        unknown(schema, value, path, wrong);
    });
}

fn duplicates(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    let kind = schema["x-kubernetes-list-type"].as_str();
    if let (Value::Array(items), Some("map" | "set")) = (value, kind) {
        let mut seen = BTreeSet::new();
        for item in items {
            let key = match schema["x-kubernetes-list-map-keys"].as_array() {
                Some(keys) => keys.iter().map(|k| &item[k.as_str().unwrap()]).collect(),
                None => vec![item],
            };
            let key = format!("{key:?}");
            if !seen.insert(key) {
                wrong.push(format!("{path}: duplicate value"));
            }
        }
    }
    each_below(schema, value, path, |schema, value, path| {
        duplicates(schema, value, path, wrong);
    });
}
