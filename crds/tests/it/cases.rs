//! The cases in `tests/cases`: each file has a good object first; every other document changes it (a JSON merge
//! patch) and says what comes of that:
//!
//! - `refused: REASON`: such an object cannot be created, for this reason alone, nor can the good object be turned
//!   into it;
//! - `refusedEdit: REASON`: it can be created, but the good object cannot be turned into it;
//! - `accepted: WHY`: both can be done.

use crate::{
    api_server::{admit, schema},
    documents::{documents, files},
};
use serde_json::Value;
use std::collections::BTreeSet;

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(name);
                } else {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn run(good: &Value, case: &Value) -> Result<(), String> {
    let mut patch = case.clone();
    let fields = patch.as_object_mut().unwrap();
    let verdicts = ["refused", "refusedEdit", "accepted"].map(|verdict| fields.remove(verdict));
    let mut object = good.clone();
    merge(&mut object, &patch);
    let old = admit(good, None).expect("the first document is good");
    let wrong = |old| admit(&object, old).err().unwrap_or_default();
    let (created, edited) = (wrong(None), wrong(Some(&old)));
    let text = |reason: &Value| reason.as_str().unwrap().to_owned();
    let right = match &verdicts {
        [Some(reason), None, None] => created == [text(reason)] && edited.contains(&text(reason)),
        [None, Some(reason), None] => created.is_empty() && edited == [text(reason)],
        [None, None, Some(_)] => created.is_empty() && edited.is_empty(),
        _ => return Err("give one of refused, refusedEdit and accepted".to_owned()),
    };
    if right {
        return Ok(());
    }
    Err(format!("created: {created:?}\n   edited: {edited:?}"))
}

#[test]
fn objects_are_accepted_or_refused_in_words() {
    let mut wrong = Vec::new();
    for file in files("tests/cases") {
        let mut documents = documents(&file).into_iter();
        let good = documents.next().unwrap();
        assert!(documents.len() > 0, "{}: no cases", file.display());
        for case in documents {
            if let Err(why) = run(&good, &case) {
                wrong.push(format!("{}: {case}\n  {why}", file.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_rule_has_a_case() {
    fn messages(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                for rule in schema["x-kubernetes-validations"]
                    .as_array()
                    .into_iter()
                    .flatten()
                {
                    found.insert(rule["message"].as_str().unwrap().to_owned());
                }
                fields.values().for_each(|field| messages(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| messages(item, found)),
            _ => {}
        }
    }
    let mut uncovered = BTreeSet::new();
    let mut reasons = Vec::new();
    for file in files("tests/cases") {
        let documents = documents(&file);
        messages(&schema(&documents[0]), &mut uncovered);
        for case in documents {
            let reason = case.get("refused").or_else(|| case.get("refusedEdit"));
            reasons.extend(reason.and_then(Value::as_str).map(str::to_owned));
        }
    }
    uncovered.retain(|message| !reasons.iter().any(|reason| reason.ends_with(message)));
    assert!(uncovered.is_empty(), "no case for {uncovered:#?}");
}
