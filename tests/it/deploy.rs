//! `deploy/kubernetes`: every kustomization there is rendered by Kustomize, judged as a cluster would, and held against what
//! `outrigger inject` writes; and the example's pods are run through their lives.
//!
//! Kustomizations are found by looking, so that a new one is judged as soon as it is there.

mod cluster;
mod kubelet;
mod life;
mod probe;

use crate::inject::run;
use crate::program::run_to_end;
use crate::support::{dependency, is_direct};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The longest that rendering or judging may take; either takes seconds at most.
const LIMIT: Duration = Duration::from_mins(1);

/// Workloads of every kind, to add components to.
const WORKLOADS: &str = "tests/it/deploy/workloads";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every folder with a kustomization, below `deploy/kubernetes`.
fn kustomizations() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("deploy/kubernetes")]);
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).expect("the folder can be read").map(|entry| entry.expect("and its entries").path());
        let (within, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        folders.extend(within);
        let names = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
        if files.iter().any(|path| names.iter().any(|name| path.ends_with(name))) {
            found.push(folder);
        }
    }
    found.sort();
    found
}

fn is_component(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("kustomization.yaml")).unwrap_or_default();
    text.lines().any(|line| line == "kind: Component")
}

/// What Kustomize makes of a folder.
fn render(folder: &Path) -> String {
    let output = Command::new(dependency("KUSTOMIZE")).arg("build").arg(folder).output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "kustomize build {}: {said}", folder.display());
    String::from_utf8(output.stdout).expect("it writes UTF-8")
}

/// Python of this folder with arguments: what it prints.
fn python(script: &str, arguments: &[String]) -> String {
    let script = root().join("tests/it/deploy").join(script);
    let (status, written) = run_to_end(Command::new(dependency("PYTHON")).arg(script).args(arguments), LIMIT);
    assert!(status.success(), "{written}");
    written
}

/// The documents that a folder renders to; what Secrets hold is text.
fn documents(folder: &Path) -> Vec<Value> {
    let file = kept(&render(folder));
    let text = python("rendered.py", &["json".to_owned(), file.path().join("rendered.yaml").display().to_string()]);
    serde_json::from_str(&text).expect("it prints JSON")
}

/// A folder with this text in `rendered.yaml`.
fn kept(text: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    fs::write(folder.path().join("rendered.yaml"), text).expect("it can be written");
    folder
}

/// What is wrong with rendered manifests, and what was judged.
fn judge(rendered: &BTreeMap<String, String>) -> (Vec<String>, String) {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let mut arguments = vec!["judge".to_owned()];
    for (number, (name, text)) in rendered.iter().enumerate() {
        let path = folder.path().join(format!("{number}.yaml"));
        fs::write(&path, text).expect("it can be written");
        arguments.push(format!("{name}={}", path.display()));
    }
    let said = python("rendered.py", &arguments);
    let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
    let judged = lines.pop().expect("it says what it judged");
    assert!(judged.starts_with("judged "), "{said}");
    (lines, judged)
}

#[test]
fn every_kustomization_renders_to_what_a_cluster_would_take() {
    let (components, others): (Vec<_>, Vec<_>) = kustomizations().into_iter().partition(|folder| is_component(folder));
    let name = |folder: &PathBuf| folder.strip_prefix(root()).expect("it is ours").display().to_string();
    let rendered: BTreeMap<_, _> = others.iter().map(|folder| (name(folder), render(folder))).collect();
    assert!(rendered.len() >= 5 && components.len() >= 2, "they were not found: {others:?} {components:?}");
    let (wrong, judged) = judge(&rendered);
    println!("{judged}, of {}", rendered.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
    assert_eq!(wrong, [""; 0], "{}", wrong.join("\n"));
    // Components render to nothing by themselves: they are judged in what they are added to.
    let used: Vec<_> = others.iter().map(|folder| fs::read_to_string(folder.join("kustomization.yaml"))).collect();
    let unused = components.iter().filter(|folder| {
        let name = folder.file_name().expect("it has a name").to_string_lossy();
        !used.iter().flatten().any(|text| text.lines().any(|line| line.ends_with(&format!("/{name}"))))
    });
    let unused: Vec<_> = unused.collect();
    assert!(unused.is_empty(), "nothing adds {unused:?}");
}

#[test]
fn the_judge_sees_what_is_wrong() {
    let rendered = render(&root().join("deploy/kubernetes/example/podmonitor"));
    // What is planted, the first time that it fits, and what must be said of it.
    let planted = [
        ("  replicas: 2", "  replicas: two", "Deployment/web: Kubernetes"),
        ("  minAvailable: 1", "  minAvailble: 1", "PodDisruptionBudget/web: Kubernetes"),
        ("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n", "knows no PodDisruptionBudget of policy/v1beta1"),
        (
            "allowPrivilegeEscalation: false",
            "allowPrivilegeEscalation: true",
            "not restricted: allowPrivilegeEscalation",
        ),
        (
            "            drop:\n            - ALL",
            "            drop:\n            - NET_RAW",
            "not restricted: drop ALL",
        ),
        ("runAsNonRoot: true", "runAsNonRoot: false", "not restricted: runAsNonRoot"),
        ("runAsUser: 65532", "runAsUser: 0", "not restricted: runAsUser"),
        ("type: RuntimeDefault", "type: Unconfined", "not restricted: seccompProfile"),
        ("      enableServiceLinks: false\n", "      hostNetwork: true\n", "hostNetwork is on"),
        ("            port: outrigger-http", "            port: outrigger", "which is none of its ports"),
        ("          name: http\n", "          name: web\n", "Service/web: http is no port of the pods"),
        ("  - port: outrigger-http", "  - port: metrics", "PodMonitor/outrigger: metrics is no port"),
        ("              name: outrigger-upstream", "              name: upstream", "Secret upstream is not there"),
        ("            memory: 128Mi", "            memory: 16Mi", "more memory than its limit"),
        (
            "        - mountPath: /data\n          name: data",
            "        - mountPath: /data\n          name: dat",
            "no volume dat",
        ),
        ("          readOnly: true", "          subPath: password", "has a subPath"),
        ("enforce: restricted", "enforce: baseline", "Namespace/outrigger-example: it does not enforce"),
        (
            "    matchLabels:\n      app.kubernetes.io/name: redis",
            "    matchLabels: {a: b}",
            "its selector is not that of its pods",
        ),
        ("  selector:\n    app.kubernetes.io/name: redis", "  selector: {a: b}", "Service/redis: it selects no pod"),
        ("containerPort: 8080", "containerPort: 9379", "both have port 9379"),
    ];
    for (from, to, expected) in planted {
        let changed = rendered.replacen(from, to, 1);
        assert_ne!(changed, rendered, "`{from}` is not in\n{rendered}");
        let (wrong, _) = judge(&BTreeMap::from([("planted".to_owned(), changed)]));
        assert!(wrong.iter().any(|line| line.contains(expected)), "`{expected}` is not said of `{to}`: {wrong:#?}");
    }
}

#[test]
fn the_policies_let_through_what_is_needed_and_nothing_else() {
    const WEB: &str = "outrigger-example{app.kubernetes.io/name=web,redis-client=true}";
    const REPORT: &str = "outrigger-example{app.kubernetes.io/name=report,redis-client=true}";
    const REDIS: &str = "outrigger-example{app.kubernetes.io/name=redis}";
    const STRANGER: &str = "outrigger-example{app.kubernetes.io/name=stranger}";
    const PROMETHEUS: &str = "monitoring{app.kubernetes.io/name=prometheus}";
    const DNS: &str = "kube-system{k8s-app=kube-dns}";
    let flows = [
        (WEB, REDIS, "6379/TCP", true),
        (REPORT, REDIS, "6379/TCP", true),
        (STRANGER, REDIS, "6379/TCP", false),
        ("default{redis-client=true}", REDIS, "6379/TCP", false),
        ("elsewhere", REDIS, "6379/TCP", false),
        (WEB, REDIS, "22/TCP", false),
        (WEB, DNS, "53/UDP", true),
        (WEB, DNS, "53/TCP", true),
        (WEB, "169.254.20.10", "53/UDP", true),
        (WEB, "169.254.20.11", "53/UDP", false),
        (WEB, "elsewhere", "443/TCP", false),
        (WEB, "elsewhere", "6379/TCP", false),
        (REDIS, "elsewhere", "443/TCP", false),
        (REDIS, WEB, "8080/TCP", false),
        (PROMETHEUS, WEB, "9379/TCP", true),
        (PROMETHEUS, REDIS, "6379/TCP", false),
        (STRANGER, WEB, "9379/TCP", false),
        ("elsewhere", WEB, "9379/TCP", false),
        ("elsewhere", WEB, "8080/TCP", true),
        // Redis itself, past the sidecar.
        (PROMETHEUS, WEB, "6379/TCP", false),
    ];
    for example in ["native", "classic", "podmonitor"] {
        let folder = kept(&render(&root().join("deploy/kubernetes/example").join(example)));
        let mut arguments = vec![folder.path().join("rendered.yaml").display().to_string()];
        arguments.extend(flows.map(|(from, to, port, _)| format!("{from}>{to}:{port}")));
        let said = python("policies.py", &arguments);
        let expected: Vec<_> = flows.map(|(.., allowed)| if allowed { "yes" } else { "no" }).into();
        assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{example}: {arguments:#?}");
    }
}

/// Where a workload describes its pods.
fn pod_of(document: &Value) -> &Value {
    let spec = &document["spec"];
    [&spec["jobTemplate"]["spec"]["template"]["spec"], &spec["template"]["spec"]]
        .into_iter()
        .find(|spec| spec.is_object())
        .unwrap_or_else(|| panic!("it has no pods: {document}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn name_of(value: &Value) -> &str {
    let name = value.get("metadata").unwrap_or(value)["name"].as_str();
    name.unwrap_or_else(|| panic!("it has no name: {value}"))
}

#[test]
fn components_add_what_inject_adds() {
    if is_direct() {
        return;
    }
    let without = documents(&root().join(WORKLOADS).join("base"));
    for (variant, place, arguments) in [
        ("native", "initContainers", &["inject", "--image", "registry.example/outrigger:0.1.0"][..]),
        ("classic", "containers", &["inject", "--classic"]),
    ] {
        let with = documents(&root().join(WORKLOADS).join(variant));
        let mut added = BTreeMap::<String, usize>::new();
        for before in &without {
            let name = name_of(before);
            let after = with.iter().find(|document| name_of(document) == name).expect("it is still there");
            let asks = before["metadata"]["annotations"]["outrigger.dev/inject"] == "true";
            let completes = name.contains("job");
            if !asks || (variant == "classic" && completes) {
                assert_eq!(after, before, "{variant} {name} is left alone");
                continue;
            }
            let sidecar = assert_only_added(before, after, place);
            assert_eq!(without_order(sidecar), without_order(&injected(before, place, arguments)), "{variant} {name}");
            *added.entry(after["kind"].as_str().expect("it has a kind").to_owned()).or_default() += 1;
        }
        println!("figures component of {variant}: {added:?}");
        assert_eq!(added.len(), if variant == "native" { 6 } else { 4 }, "some kinds were left out: {added:?}");
        assert!(added.values().all(|count| *count == 4), "{added:?}");
    }
}

/// The first container of `place` after, beside which nothing has changed.
fn assert_only_added<'after>(before: &Value, after: &'after Value, place: &str) -> &'after Value {
    let (sidecar, others) = list(&pod_of(after)[place]).split_first().expect("there are containers");
    assert_eq!(sidecar["name"], "outrigger", "it is not the first of {}", name_of(after));
    assert_eq!(others, list(&pod_of(before)[place]), "{}", name_of(after));
    let rest = |document: &Value| {
        let mut pod = pod_of(document).clone();
        pod.as_object_mut().expect("it is an object").remove(place);
        pod
    };
    assert_eq!(rest(before), rest(after), "{}", name_of(after));
    sidecar
}

/// What `outrigger inject` adds to a workload.
fn injected(document: &Value, place: &str, arguments: &[&str]) -> Value {
    let mut text = document.to_string();
    // Says the same, and is refused.
    text = text.replace(r#","initContainers":null"#, "").replace(r#""initContainers":null,"#, "");
    let written: Value = serde_json::from_str(&run(arguments, &text).fine()).expect("it is JSON");
    let sidecar = list(&pod_of(&written)[place]).iter().find(|container| container["name"] == "outrigger");
    sidecar.expect("it was injected").clone()
}

/// A container with its variables in alphabetical order: none of ours refers to another.
fn without_order(container: &Value) -> Value {
    let mut container = container.clone();
    let env = container["env"].as_array_mut().expect("it has an environment");
    env.sort_by_key(|variable| variable["name"].to_string());
    container
}

/// The example has the very container that `inject` adds where the workload asks for the password's file.
#[test]
fn the_examples_have_what_inject_adds() {
    if is_direct() {
        return;
    }
    for (example, place, arguments) in
        [("native", "initContainers", &["inject"][..]), ("classic", "containers", &["inject", "--classic"])]
    {
        let documents = documents(&root().join("deploy/kubernetes/example").join(example));
        let with: Vec<_> = documents
            .iter()
            .filter(|document| document["metadata"]["annotations"]["outrigger.dev/inject"] == "true")
            .collect();
        assert_eq!(with.len(), if example == "native" { 2 } else { 1 }, "{with:?}");
        for document in with {
            let sidecar = list(&pod_of(document)[place])[0].clone();
            let mut before = document.clone();
            before["metadata"]["annotations"] = json!({
                "outrigger.dev/inject": "true",
                "outrigger.dev/volume-mounts": "outrigger-upstream:/run/secrets/outrigger",
                "outrigger.dev/upstream-password-file": "/run/secrets/outrigger/password",
            });
            let pod = ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec"]
                .into_iter()
                .find(|at| before.pointer(at).is_some());
            let pod = before.pointer_mut(pod.expect("it has pods")).expect("it was there");
            pod[place].as_array_mut().expect("it is a list").remove(0);
            let url = json!({"name": "REDIS_URL", "valueFrom": {"secretKeyRef": {"name": "outrigger-upstream", "key": "url"}}});
            pod["containers"][0]["env"] = json!([url]);
            assert_eq!(without_order(&sidecar), without_order(&injected(&before, place, arguments)), "{example}");
        }
    }
}
