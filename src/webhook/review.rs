//! What a question of the API server is answered: an AdmissionReview in, one out. It does no I/O.
//!
//! The answer is always that the pod may be made. What cannot be done rightly is left undone, and said.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::inject::{self, Defaults, Not, Patch};

/// What is understood.
const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Where a pod asks for a sidecar.
const ASKS: &str = "/metadata/annotations/outrigger.dev~1inject";

/// The API server cuts off longer warnings, in characters, and leaves out those beyond 4096 characters in all.
const LONGEST_WARNING: usize = 256;
const MOST_WARNINGS: usize = 15;

/// Longest text in the audit log, in characters.
const LONGEST_RESULT: usize = 1024;

/// Values that a review may have: they take far more memory than their text, and maps as much as four others.
const MOST_VALUES: usize = 200_000;
const MAP: usize = 4;

/// Longest names that a cluster has, in characters, so that what calls itself a pod does not fill the log.
const LONGEST_NAME: usize = 253;

/// A review that is answered.
#[derive(Debug)]
pub(super) struct Reviewed {
    /// The answer, as JSON.
    pub(super) answer: Vec<u8>,
    /// Where the pod is to be.
    pub(super) namespace: String,
    /// Its name, or how that begins.
    pub(super) pod: String,
    /// Nothing comes of it.
    pub(super) dry_run: bool,
    /// What is to be done.
    pub(super) outcome: Outcome,
}

/// What is to be done to a pod, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It gets its sidecar.
    Injected(String),
    /// None is wanted.
    Left(String),
    /// It would need one, and starts without.
    Failed(String),
}

/// Answers a review. `opt_in`: pods have to ask for a sidecar.
///
/// # Errors
/// It is none, so that it cannot be answered.
pub(super) fn review(body: &[u8], defaults: &Defaults, opt_in: bool) -> Result<Reviewed, String> {
    let weight = |byte: &u8| match byte {
        b'{' => MAP,
        b',' | b'[' => 1,
        _ => 0,
    };
    if body.iter().map(weight).sum::<usize>() > MOST_VALUES {
        return Err("it has too many parts".to_owned());
    }
    let review: Value = serde_json::from_slice(body).map_err(|error| format!("it is no JSON: {error}"))?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/kind") != KIND {
        return Err(format!("it is no {KIND}"));
    }
    let uid = review.pointer("/request/uid").and_then(Value::as_str).ok_or("it has no request with a uid")?;
    let decided = decide(&review, defaults, opt_in);
    let mut response = json!({"uid": uid, "allowed": true});
    let mut warnings = Vec::new();
    let outcome = match decided {
        Ok(Patch { operations, said, warnings: more }) => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(operations.to_string()));
            warnings = more;
            Outcome::Injected(clipped(&said, LONGEST_RESULT))
        }
        Err(Not::Wanted(reason)) => Outcome::Left(clipped(&reason, LONGEST_RESULT)),
        Err(Not::Possible(reason)) => {
            warnings.push(format!("it starts without a sidecar: {reason}"));
            Outcome::Failed(clipped(&reason, LONGEST_RESULT))
        }
    };
    let name = [text("/request/object/metadata/name"), text("/request/object/metadata/generateName")];
    let pod = name.into_iter().find(|name| !name.is_empty()).unwrap_or("(without name)");
    if !warnings.is_empty() {
        let shown = warnings.iter().take(MOST_WARNINGS);
        response["warnings"] =
            shown.map(|warning| clipped(&format!("outrigger: {pod}: {warning}"), LONGEST_WARNING)).collect();
    }
    response["auditAnnotations"] = json!({"result": clipped(&outcome.to_string(), LONGEST_RESULT)});
    let answer = json!({"apiVersion": text("/apiVersion"), "kind": KIND, "response": response});
    Ok(Reviewed {
        answer: answer.to_string().into_bytes(),
        namespace: clipped(text("/request/namespace"), LONGEST_NAME),
        pod: clipped(pod, LONGEST_NAME),
        dry_run: review.pointer("/request/dryRun").and_then(Value::as_bool).unwrap_or_default(),
        outcome,
    })
}

fn decide(review: &Value, defaults: &Defaults, opt_in: bool) -> Result<Patch, Not> {
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/apiVersion") != VERSION {
        let problem = format!("the API server asks in `{}`: have it ask in {VERSION}", text("/apiVersion"));
        return Err(Not::Possible(problem));
    }
    let is_pod = (text("/request/kind/group"), text("/request/kind/kind")) == ("", "Pod");
    if !is_pod || !text("/request/subResource").is_empty() {
        return Err(Not::Wanted("it is no pod".to_owned()));
    }
    if text("/request/operation") != "CREATE" {
        return Err(Not::Wanted("it is there already".to_owned()));
    }
    let pod = review.pointer("/request/object").filter(|pod| pod.is_object());
    let pod = pod.ok_or_else(|| Not::Possible("the review has no pod".to_owned()))?;
    if opt_in && pod.pointer(ASKS).is_none_or(|asks| asks != "true") {
        return Err(Not::Wanted("it does not say outrigger.dev/inject: \"true\"".to_owned()));
    }
    inject::patch(pod, defaults)
}

/// So much of a text as may be shown, on one line.
fn clipped(text: &str, longest: usize) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    if text.chars().count() <= longest {
        return text.chars().map(plain).collect();
    }
    text.chars().take(longest - 1).map(plain).chain(['…']).collect()
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Injected(said) => write!(f, "injected: {said}"),
            Self::Left(reason) => write!(f, "left alone: {reason}"),
            Self::Failed(reason) => write!(f, "not injected: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults { native: true, image: "outrigger:1".to_owned(), variables: vec!["REDIS_URL".to_owned()], from: None }
    }

    fn question() -> Value {
        json!({
            "apiVersion": VERSION,
            "kind": KIND,
            "request": {
                "uid": "u",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": "shop",
                "operation": "CREATE",
                "object": {
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-"},
                    "spec": {"containers": [{"name": "app", "env": [{"name": "REDIS_URL", "value": "redis://redis"}]}]},
                },
            },
        })
    }

    /// The answer's response, and what was decided.
    fn answered(question: &Value) -> (Value, Outcome) {
        let reviewed = review(question.to_string().as_bytes(), &defaults(), false).expect("it is answered");
        let answer: Value = serde_json::from_slice(&reviewed.answer).expect("it is JSON");
        assert_eq!((&answer["kind"], &answer["apiVersion"]), (&question["kind"], &question["apiVersion"]));
        assert_eq!(answer["response"]["uid"], question["request"]["uid"]);
        assert_eq!(answer["response"]["allowed"], true);
        (answer["response"].clone(), reviewed.outcome)
    }

    #[test]
    fn a_pod_gets_a_patch() {
        let (response, outcome) = answered(&question());
        let patch = STANDARD.decode(response["patch"].as_str().expect("there is one")).expect("it is in base64");
        assert!(patch.starts_with(b"[{"), "{patch:?}");
        assert_eq!((&response["patchType"], &response["warnings"]), (&json!("JSONPatch"), &Value::Null));
        assert_eq!(outcome, Outcome::Injected("REDIS_URL of app -> 127.0.0.1:6379 -> redis".to_owned()));
    }

    #[test]
    fn what_is_no_new_pod_is_let_through() {
        for (pointer, value) in [
            ("/request/operation", json!("UPDATE")),
            ("/request/kind/kind", json!("Deployment")),
            ("/request/kind/group", json!("example.dev")),
            ("/request/object/kind", json!("Deployment")),
        ] {
            let mut question = question();
            *question.pointer_mut(pointer).expect("it is there") = value;
            let (response, outcome) = answered(&question);
            assert!(matches!(outcome, Outcome::Left(_)), "{pointer}: {outcome:?}");
            assert_eq!((&response["patch"], &response["warnings"]), (&Value::Null, &Value::Null), "{pointer}");
        }
    }

    #[test]
    fn what_is_wrong_is_let_through_with_a_warning() {
        let long = format!("redis://h/{}", "x\n".repeat(1000));
        for (pointer, value) in [
            ("/apiVersion", json!("admission.k8s.io/v1beta1")),
            ("/request/object", Value::Null),
            ("/request/object/spec/containers/0/env/0/value", json!("rediss://redis")),
            ("/request/object/metadata", json!({"name": "a\nb".repeat(200), "annotations": {"outrigger.dev/x": ""}})),
            ("/request/object/spec/containers/0/env/0/value", json!(long)),
        ] {
            let mut question = question();
            *question.pointer_mut(pointer).expect("it is there") = value;
            let (response, outcome) = answered(&question);
            assert!(matches!(outcome, Outcome::Failed(_)), "{pointer}: {outcome:?}");
            let warning = response["warnings"][0].as_str().expect("there is one");
            assert!(warning.chars().count() <= LONGEST_WARNING && !warning.contains('\n'), "{warning:?}");
            assert_eq!(response["patch"], Value::Null, "{pointer}");
        }
    }

    #[test]
    fn what_is_no_review_cannot_be_answered() {
        let refused = |body: &[u8]| review(body, &defaults(), false).expect_err("it is none");
        assert!(refused(b"{\"kind\": ").starts_with("it is no JSON"));
        assert_eq!(refused(b"{}"), "it is no AdmissionReview");
        assert_eq!(refused(br#"{"kind": "AdmissionReview", "request": {"uid": 1}}"#), "it has no request with a uid");
        let maps = "{\"\":".repeat(100) + "0" + &"}".repeat(100) + ",";
        for many in ["0,".repeat(MOST_VALUES), maps.repeat(MOST_VALUES / MAP / 100)] {
            assert_eq!(refused(format!("[{many}0]").as_bytes()), "it has too many parts");
        }
        let deep = "[".repeat(100_000);
        assert!(refused(deep.as_bytes()).contains("recursion limit"));
    }
}
