//! Whether an object still says what is wanted.

use serde_json::Value;

/// Whether `seen` says all of `wanted`. It may say more: what others own, and what the API server adds.
pub fn says(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::Object(seen), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| match seen.get(name) {
                Some(seen) => says(seen, wanted),
                // The API server leaves out what is empty.
                None => wanted.as_str() == Some(""),
            })
        }
        (Value::Array(seen), Value::Array(wanted)) => {
            let mut pairs = seen.iter().zip(wanted);
            seen.len() == wanted.len() && pairs.all(|(seen, wanted)| says(seen, wanted))
        }
        (seen, wanted) => seen == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_no_drift_and_what_they_change_is() {
        let wanted = json!({"a": {"b": "1"}, "list": [{"c": 2}], "none": ""});
        let more = json!({"a": {"b": "1", "x": 9}, "list": [{"c": 2, "d": 3}], "status": {}});
        assert!(says(&more, &wanted));
        for changed in [
            json!({"a": {"b": "2"}, "list": [{"c": 2}]}),
            json!({"a": {"b": "1"}, "list": [{"c": 2}, {"c": 3}]}),
            json!({"a": {"b": "1"}, "list": []}),
            json!({"a": {"b": "1"}}),
            json!({"a": {"b": "1"}, "list": [{"c": 2}], "none": "x"}),
        ] {
            assert!(!says(&changed, &wanted), "{changed}");
        }
    }
}
