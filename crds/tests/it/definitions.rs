//! The checked-in definitions are those of the types.

use forebay_crds::crds;
use std::{env, fs};

#[test]
fn the_checked_in_definitions_are_those_of_the_types() {
    let mut drifted = Vec::new();
    for crd in crds() {
        let path = format!("yaml/{}.yaml", crd.spec.names.plural);
        let head = "# Generated from the types in crds/src: UPDATE_CRDS=1 cargo test -p forebay-crds writes it again.\n";
        let text = format!("{head}{}", serde_saphyr::to_string(&crd).unwrap());
        if env::var_os("UPDATE_CRDS").is_some() {
            fs::write(&path, text).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != text {
            drifted.push(path);
        }
    }
    assert!(
        drifted.is_empty(),
        "{drifted:?} differ from the types: run UPDATE_CRDS=1 cargo test -p forebay-crds"
    );
}

#[test]
fn every_field_is_explained() {
    fn walk(schema: &serde_json::Value, path: &str, silent: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                if property["description"]
                    .as_str()
                    .is_none_or(|text| text.len() < 9)
                {
                    silent.push(path.clone());
                }
                walk(property, &path, silent);
            }
        }
        for below in ["items", "additionalProperties"] {
            if let Some(schema) = schema.get(below) {
                walk(schema, path, silent);
            }
        }
    }
    let mut silent = Vec::new();
    for crd in crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        walk(
            &schema["openAPIV3Schema"],
            &crd.spec.names.kind,
            &mut silent,
        );
    }
    assert!(silent.is_empty(), "no description: {silent:?}");
}
