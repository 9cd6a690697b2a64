//! Pods in, patched pods out: the same as `inject` makes of them.

use super::{Webhook, review};
use crate::inject::{files, folder, judge, run};
use crate::support::{dependency, is_direct};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A review about a pod, as one that was recorded.
fn about(pod: &Value) -> Value {
    let mut review = review("replicaset");
    review["request"]["object"] = pod.clone();
    review
}

/// The object with the answer's patch, applied by an implementation that is not ours; nothing if there is none.
fn patched(object: &Value, answer: &Value) -> Option<Value> {
    let response = &answer["response"];
    let patch = response.get("patch")?.as_str().expect("it is a string");
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = STANDARD.decode(patch).expect("it is in base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("it is a patch");
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).expect("it can be applied");
    Some(object)
}

/// What `inject` makes of a pod; else why it does nothing, and whether that is meant.
fn injected(pod: &Value) -> Result<Value, (String, bool)> {
    let written = run(&["inject", "--image", super::IMAGE], &pod.to_string());
    let reason = |mark: &str| {
        let line = written.said.lines().find_map(|line| line.split_once(mark));
        line.map(|(_, reason)| reason.to_owned())
    };
    if let Some(reason) = reason(": refused: ") {
        return Err((reason, false));
    }
    if let Some(reason) = reason(": left alone: ") {
        return Err((reason, true));
    }
    assert_eq!(written.code, Some(0), "{}", written.said);
    Ok(serde_json::from_str(&written.manifest).expect("it is JSON"))
}

/// Asks about a pod, and holds the answer against what `inject` does; returns the patched pod, if it was patched.
fn compared(webhook: &Webhook, review: &Value, name: &str) -> Option<Value> {
    let answer = webhook.ask(review);
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&review["request"]["uid"], &json!(true)), "{name}");
    assert_eq!((&answer["kind"], &answer["apiVersion"]), (&review["kind"], &review["apiVersion"]), "{name}");
    let object = &review["request"]["object"];
    let patched = patched(object, &answer);
    let result = response["auditAnnotations"]["result"].as_str().expect("there is a result");
    let warnings = response.get("warnings").cloned().unwrap_or_default();
    match injected(object) {
        Ok(expected) => {
            assert_eq!(patched.as_ref(), Some(&expected), "{name}: {answer}");
            assert!(result.starts_with("injected: "), "{name}: {result}");
        }
        Err((reason, meant)) => {
            let word = if meant { "left alone" } else { "not injected" };
            assert_eq!((patched.as_ref(), result), (None, format!("{word}: {reason}").as_str()), "{name}");
            let told: String = reason.chars().take(150).collect();
            let warned = warnings[0].as_str().is_some_and(|warning| warning.contains(&told));
            assert!(warnings.is_null() == meant && warned != meant, "{name}: {warnings} for {reason}");
        }
    }
    patched
}

/// The pods of the manifests in a folder of the tests of `inject`, with the files' names.
fn pods(name: &str) -> Vec<(String, Value)> {
    let names = files(name).into_keys().filter(|name| !name.ends_with(".said"));
    let mut command = Command::new(dependency("PYTHON"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/webhook/pods.py"));
    let output = command.args(names.map(|file| folder(name).join(file))).output().expect("Python can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("it writes UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("a name and a pod")).collect()
}

#[test]
fn every_pod_of_the_corpus_becomes_what_inject_makes_of_it() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut paths = Vec::new();
    let (corpus, refused) = (pods("corpus"), pods("refused"));
    assert!(corpus.len() >= 40 && refused.len() >= 20, "there is nothing to compare");
    for (name, pod) in corpus.iter().chain(&refused) {
        let Some(patched) = compared(&webhook, &about(pod), name) else { continue };
        // Among those that are refused as manifests are some that no cluster would take, for other reasons.
        if refused.iter().any(|(other, _)| other == name) {
            continue;
        }
        let path = directory.path().join(format!("{}-{name}", paths.len()));
        fs::write(&path, patched.to_string()).expect("it can be written");
        paths.push(path.display().to_string());
    }
    println!("figures webhook corpus: pods={} refused={} patched={}", corpus.len(), refused.len(), paths.len());
    assert!(paths.len() >= 35, "hardly any was injected");
    assert_eq!(judge(&paths), "");
}

#[test]
fn what_inject_has_done_is_left_alone() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let has_sidecar = |pod: &Value| pod.pointer("/metadata/annotations/outrigger.dev~1undo").is_some();
    let golden: Vec<_> = pods("golden").into_iter().filter(|(_, pod)| has_sidecar(pod)).collect();
    assert!(golden.len() >= 40, "there is nothing to leave alone");
    for (name, pod) in golden {
        let answer = webhook.ask(&about(&pod));
        assert_eq!(answer["response"]["auditAnnotations"]["result"], "left alone: it has its sidecar", "{name}");
        assert_eq!((&answer["response"]["patch"], &answer["response"]["warnings"]), (&Value::Null, &Value::Null));
    }
}

/// A webhook that comes later has taken the variable away, or copied annotations of a pod that has a sidecar.
#[test]
fn what_others_have_made_of_it_since_is_told_truly() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let mut review = review("replicaset");
    let mut pod = injected(&review["request"]["object"]).expect("it is injected");
    for container in pod["spec"]["containers"].as_array_mut().expect("there are some") {
        container["env"] = json!([]);
    }
    review["request"]["object"] = pod.clone();
    let response = webhook.ask(&review)["response"].clone();
    assert_eq!(response["auditAnnotations"]["result"], "left alone: it has its sidecar");
    assert_eq!(response["warnings"], Value::Null, "it does have one");
    pod["spec"]["initContainers"] = json!([]);
    pod["metadata"]["annotations"]["outrigger.dev/undo"] = json!("{}");
    review["request"]["object"] = pod;
    let response = webhook.ask(&review)["response"].clone();
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    let warning = response["warnings"][0].as_str().expect("there is one");
    assert!(warning.contains("it says that it was injected, and has no sidecar"), "{warning}");
}

#[test]
fn pods_of_controllers_get_their_sidecar() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    for (name, url) in [
        ("replicaset", "redis://127.0.0.1:6379"),
        ("job", "redis://127.0.0.1:6379/3"),
        ("statefulset", "redis://127.0.0.1:6379/2"),
    ] {
        let review = review(name);
        let patched = compared(&webhook, &review, name).unwrap_or_else(|| panic!("{name} was not injected"));
        let spec = &patched["spec"];
        let sidecar = &spec["initContainers"][0];
        assert_eq!((&sidecar["name"], &sidecar["image"]), (&json!("outrigger"), &json!(super::IMAGE)), "{name}");
        let variables = spec["containers"][0]["env"].as_array().expect("there are some");
        let moved = variables.iter().find(|variable| variable["name"] == "REDIS_URL").expect("it is there");
        assert_eq!(moved, &json!({"name": "REDIS_URL", "value": url}), "{name}");
        // What the API server and the controller have put into it is as it was.
        for kept in ["volumes", "tolerations", "serviceAccountName", "priority"] {
            assert_eq!(spec[kept], review["request"]["object"]["spec"][kept], "{name}: {kept}");
        }
        assert_eq!(
            spec["containers"][0]["volumeMounts"], review["request"]["object"]["spec"]["containers"][0]["volumeMounts"],
            "{name}"
        );
        // Asked again, as after another webhook, it has nothing to add.
        assert_eq!(webhook.ask(&about(&patched))["response"]["patch"], Value::Null, "{name}");
    }
    webhook.wait_for_lines("pod injected", 3);
    let line = webhook.line(r#""message":"pod injected","namespace":"shop","pod":"queue-0""#);
    assert_eq!((&line["namespace"], &line["dry_run"]), (&json!("shop"), &json!(false)));
    assert_eq!(
        line["what"],
        "REDIS_URL of queue -> 127.0.0.1:6379 -> redis.data.svc:6379"
            .replace("queue ->", "queue, REDIS_URL of migrate ->")
    );
    webhook.wait_for_lines("\"why\":\"it has its sidecar\"", 3);
    assert_eq!(webhook.logged("web-6b7f9c8d5-"), 2);
}

#[test]
fn who_declines_or_has_nothing_to_move_is_left_alone() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let left = [
        ("declined", "outrigger.dev/inject is \"false\""),
        ("without", "no container has REDIS_URL"),
        ("deployment", "it is no pod"),
    ];
    for (name, reason) in left {
        let review = review(name);
        let answer = webhook.ask(&review);
        let expected = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {
                "uid": review["request"]["uid"], "allowed": true,
                "auditAnnotations": {"result": format!("left alone: {reason}")},
            },
        });
        assert_eq!(answer, expected, "{name}");
    }
    webhook.wait_for_lines("pod left alone", 3);
    let mut update = review("replicaset");
    update["request"]["operation"] = json!("UPDATE");
    update["request"]["oldObject"] = update["request"]["object"].clone();
    assert_eq!(webhook.ask(&update)["response"]["patch"], Value::Null, "a pod that is there cannot get a container");
    let mut exec = review("replicaset");
    exec["request"]["subResource"] = json!("ephemeralcontainers");
    assert_eq!(webhook.ask(&exec)["response"]["patch"], Value::Null);
    let mut mirror = review("replicaset");
    mirror["request"]["object"]["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(webhook.ask(&mirror)["response"]["patch"], Value::Null, "nodes would not take it");
}

#[test]
fn what_cannot_be_done_is_a_warning_and_no_password_is_said() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let answer = webhook.ask(&review("refused"));
    let response = &answer["response"];
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    let warning = response["warnings"][0].as_str().expect("there is one");
    assert!(warning.starts_with("outrigger: tls-7d9c5b8f6-: it starts without a sidecar: "), "{warning}");
    assert!(warning.contains("TLS (rediss://)"), "{warning}");
    webhook.wait_for("pod not injected: it starts without a sidecar");
    let mut written_out = review("refused");
    let url = "/request/object/spec/containers/0/env/0/value";
    *written_out.pointer_mut(url).expect("it is there") = json!("redis://web:hidden@redis.example:6380");
    let answer = webhook.ask(&written_out);
    let warning = answer["response"]["warnings"][0].as_str().expect("there is one");
    assert!(warning.contains("the password in REDIS_URL is written out"), "{warning}");
    webhook.wait_for("pod injected");
    assert_eq!(webhook.logged("hidden"), 0, "{:?}", webhook.lines());
}

#[test]
fn a_dry_run_is_answered_alike_and_told_apart() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let real = review("replicaset");
    let mut dry = real.clone();
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(webhook.ask(&dry), webhook.ask(&real));
    webhook.wait_for_lines("pod injected", 2);
    webhook.wait_for("\"dry_run\":true");
}

#[test]
fn where_pods_have_to_ask_only_those_that_do_are_injected() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::with(super::Identity::new(), |command| {
        command.arg("--opt-in");
    });
    let mut pod = review("replicaset")["request"]["object"].clone();
    for asks in ["", "false", "yes"] {
        pod["metadata"]["annotations"]["outrigger.dev/inject"] = json!(asks);
        let response = webhook.ask(&about(&pod))["response"].clone();
        assert_eq!((&response["patch"], &response["warnings"]), (&Value::Null, &Value::Null), "{asks}");
        let reason = "left alone: it does not say outrigger.dev/inject: \"true\"";
        assert_eq!(response["auditAnnotations"]["result"], reason);
    }
    pod["metadata"]["annotations"]["outrigger.dev/inject"] = json!("true");
    assert!(compared(&webhook, &about(&pod), "one that asks").is_some());
}

#[test]
fn flags_say_what_is_injected() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::with(super::Identity::new(), |command| {
        command.env("OUTRIGGER_CLASSIC", "true").env("OUTRIGGER_ENV", "CACHE_URL,REDIS_URL");
        command.args(["--from", "secret/settings"]);
    });
    let mut pod = review("replicaset")["request"]["object"].clone();
    let container = &mut pod["spec"]["containers"][0];
    container["env"][1]["name"] = json!("CACHE_URL");
    container["envFrom"] = json!([{"secretRef": {"name": "settings"}}]);
    let answer = webhook.ask(&about(&pod));
    let patched = patched(&pod, &answer).expect("it is injected");
    let flags =
        ["inject", "--image", super::IMAGE, "--classic", "--env", "CACHE_URL,REDIS_URL", "--from", "secret/settings"];
    let expected: Value = serde_json::from_str(&run(&flags, &pod.to_string()).manifest).expect("it is JSON");
    assert_eq!(patched, expected);
    let names: Vec<_> = patched["spec"]["containers"].as_array().expect("a list").iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["outrigger", "outrigger-2", "web"]);
}
