//! The sample of a `MutatingAdmissionPolicy` in `deploy/kubernetes/policy`: what it makes of a pod is what `outrigger inject` makes
//! of it, or it leaves the pod alone.
//!
//! `policy/evaluate.py` evaluates its expressions by an implementation of CEL that is neither ours nor Kubernetes', and says there
//! what it has to stand in for. No API server has run it.

use crate::program::run_to_end;
use crate::support::{dependency, is_direct};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Fewer pods of the corpus than this would show nothing.
const LEAST_SAME: usize = 15;

fn within(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A pod and what became of it.
struct Judged {
    file: String,
    pod: String,
    verdict: String,
}

/// What becomes of the pods of our own corpus and of that of `inject`, and what was said of the schemas.
fn judged() -> (Vec<Judged>, Vec<String>) {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let mut command = Command::new(dependency("PYTHON"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(within("tests/it/policy/evaluate.py"));
    command.arg(within("deploy/kubernetes/policy/policy.yaml")).arg(binary).arg(within("tests/it/policy/pods.yaml"));
    for entry in fs::read_dir(within("tests/it/inject/corpus")).expect("the corpus is there") {
        command.arg(entry.expect("it can be read").path());
    }
    // What `inject` refuses, as far as it is YAML.
    for refused in
        ["job-classic", "host-network", "optional", "password-beside", "pod-resources", "port-taken", "stopping"]
    {
        command.arg(within(&format!("tests/it/inject/refused/{refused}.yaml")));
    }
    let (status, written) = run_to_end(&mut command, Duration::from_mins(2));
    assert!(status.success(), "{written}");
    assert!(!written.contains("DIFFERENT"), "{written}");
    let (schemas, pods): (Vec<_>, Vec<_>) = written.lines().partition(|line| line.starts_with("Kubernetes "));
    let pods = pods.into_iter().map(|line| {
        let (pod, verdict) = line.split_once(": ").unwrap_or_else(|| panic!("not understood: {line}"));
        let (file, pod) = pod.split_once(' ').unwrap_or_else(|| panic!("not understood: {line}"));
        Judged { file: file.to_owned(), pod: pod.to_owned(), verdict: verdict.to_owned() }
    });
    (pods.collect(), schemas.into_iter().map(str::to_owned).collect())
}

#[test]
fn it_does_as_inject_or_nothing() {
    if is_direct() {
        return;
    }
    let (judged, schemas) = judged();
    assert_eq!(schemas.len(), 4, "{schemas:?}");
    let (ours, corpus): (Vec<_>, Vec<_>) = judged.iter().partition(|judged| judged.file == "pods.yaml");
    for Judged { pod, verdict, .. } in &ours {
        // Each is named after what is expected.
        assert!(pod.starts_with(verdict.trim_start_matches("left alone: ")), "{pod}: {verdict}");
    }
    let same = corpus.iter().filter(|judged| judged.verdict == "same").count();
    println!("{same} of {} pods of the corpus are the same, the others are left alone", corpus.len());
    assert!(same >= LEAST_SAME, "only {same} pods of the corpus are handled");
}

#[test]
fn each_of_its_conditions_is_tried() {
    if is_direct() {
        return;
    }
    let text = fs::read_to_string(within("deploy/kubernetes/policy/policy.yaml")).expect("it can be read");
    let (_, conditions) = text.split_once("matchConditions:").expect("it has conditions");
    let (conditions, _) = conditions.split_once("  variables:").expect("variables come after them");
    let conditions: BTreeSet<_> = conditions.lines().filter_map(|line| line.trim().strip_prefix("- name: ")).collect();
    assert!(conditions.len() > 5, "{conditions:?}");
    let (judged, _) = judged();
    let missed: BTreeSet<_> = judged.iter().filter_map(|judged| judged.verdict.strip_prefix("left alone: ")).collect();
    assert_eq!(missed, conditions, "of each condition there is a pod that does not meet it");
}
