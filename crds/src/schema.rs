//! Pieces of schemas that several types share.

use kube::core::Rule;
use schemars::{Schema, json_schema};

/// A text of at most `max_length` bytes that the API server checks by a CEL rule: unlike a pattern, a
/// rule answers in words.
pub(crate) fn text(max_length: u32, rule: &str, message: &str) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": max_length,
        "x-kubernetes-validations": [Rule::new(rule).message(message)],
    })
}

/// At most 16 texts by name, none longer than `max_length` bytes.
pub(crate) fn texts(max_length: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": max_length},
    })
}
