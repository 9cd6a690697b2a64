//! The manifests in `deploy/kubernetes/webhook`: a cluster would take them, and they fit the program.

use super::{Webhook, binary};
use crate::inject::judge;
use crate::support::is_direct;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/webhook")
}

fn manifest(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_cluster_would_take_the_manifests() {
    let names = ["base/namespace.yaml", "base/webhook.yaml", "base/configuration.yaml", "certificate.yaml"];
    let paths: Vec<_> = names.iter().map(|name| folder().join(name).display().to_string()).collect();
    assert_eq!(judge(&paths), "");
}

#[test]
fn the_manifests_fit_the_program() {
    if is_direct() {
        return;
    }
    let help = Command::new(binary()).args(["webhook", "--help"]).output().expect("the program can be run");
    let help = String::from_utf8(help.stdout).expect("it is UTF-8");
    let (deployment, configuration) = (manifest("base/webhook.yaml"), manifest("base/configuration.yaml"));
    let variables: Vec<_> = deployment.split("name: ").filter(|rest| rest.starts_with("OUTRIGGER_")).collect();
    assert_eq!(variables.len(), 3);
    for variable in variables {
        let name = variable.lines().next().expect("it has a name");
        assert!(help.contains(&format!("[env: {name}=")), "{name} is no variable of the webhook");
    }
    assert!(help.contains("[default: [::]:8443]") && deployment.contains("containerPort: 8443"));
    // What the API server and the kubelet ask for is there.
    let webhook = Webhook::start();
    let path = configuration.split("path: ").nth(1).and_then(|rest| rest.lines().next()).expect("there is one");
    assert_eq!(webhook.connect().post(path, "{}").status, 400, "it is no review, but the path is right");
    for probe in deployment.split(" path: /").skip(1) {
        let path = format!("/{}", probe.lines().next().expect("there is one"));
        assert_eq!(webhook.connect().request("GET", &path, "", "").status, 200, "{path}");
    }
    let host = "outrigger-webhook.outrigger-system.svc";
    assert!(manifest("certificate.yaml").contains(&format!("- {host}\n")), "the API server asks {host}");
    let image = manifest("base/kustomization.yaml");
    assert!(image.contains(&format!("newTag: {}\n", env!("CARGO_PKG_VERSION"))), "the image has this version");
}
