//! The cases in `tests/cases`: each file has a good object first; every other document changes it (a JSON merge
//! patch) and says what comes of that:
//!
//! - `refused: REASON`: such an object cannot be created, for this reason alone;
//! - `refusedEdit: REASON`: it can be created, but the good object cannot be turned into it;
//! - `accepted: WHY`: both can be done.

use crate::{
    api_server::admit,
    documents::{documents, files},
};
use serde_json::Value;

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
    let created = admit(&object, None).map(drop);
    let edited = admit(&object, Some(&old)).map(drop);
    let refused = |reason: Value| Err(vec![reason.as_str().unwrap().to_owned()]);
    let expected = match verdicts {
        [Some(reason), None, None] => (refused(reason.clone()), refused(reason)),
        [None, Some(reason), None] => (Ok(()), refused(reason)),
        [None, None, Some(_)] => (Ok(()), Ok(())),
        _ => return Err("give one of refused, refusedEdit and accepted".to_owned()),
    };
    if (&created, &edited) == (&expected.0, &expected.1) {
        Ok(())
    } else {
        Err(format!("created: {created:?}\n   edited: {edited:?}"))
    }
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
