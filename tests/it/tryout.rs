//! The try-out in `deploy/compose.yaml`: what can be shown of it without a container engine.
//!
//! docker-compose reads it, against the schema of the specification; the program takes the sidecar's environment; and its
//! application, Outrigger and Prometheus run as processes from the very files that are mounted, through an outage. Names of
//! services are replaced by addresses of this machine for that. The images of others, Grafana's among them, are not run.

use crate::observability::prometheus::Prometheus;
use crate::program::run_to_end;
use crate::support::{Kind, PATIENCE, Proxy, Server, dependency, is_direct, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// All of them.
const SERVICES: [&str; 6] = ["app", "grafana", "outrigger", "pod", "prometheus", "redis"];

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deployed(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// YAML as JSON.
fn yaml(text: &str) -> Value {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("text");
    fs::write(&path, text).expect("it can be written");
    let mut command = Command::new(dependency("PYTHON"));
    command.args(["-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"]).arg(&path);
    let (status, written) = run_to_end(&mut command, PATIENCE);
    assert!(status.success(), "{written}");
    serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"))
}

/// The services as they stand in the file.
fn services() -> Value {
    let services = &yaml(&read("compose.yaml"))["services"];
    let names: BTreeSet<_> = services.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, SERVICES.into());
    services.clone()
}

#[test]
fn docker_compose_takes_it() {
    let mut command = Command::new(dependency("DOCKER_COMPOSE"));
    // Each version writes it in another form, and all judge it by the specification.
    command.arg("-f").arg(deployed("compose.yaml")).args(["config", "--quiet"]);
    let (status, written) = run_to_end(&mut command, PATIENCE);
    assert!(status.success() && written.is_empty(), "{written}");
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a service mounts: files of ours, and where it sees them.
fn mounts(service: &Value) -> Vec<(PathBuf, String)> {
    let of = |mount: &str| {
        let [from, to, "ro"] = mount.split(':').collect::<Vec<_>>()[..] else { panic!("not read-only: {mount}") };
        (deployed(from.trim_start_matches("./")), to.to_owned())
    };
    texts(&service["volumes"]).into_iter().map(of).collect()
}

#[test]
fn each_service_may_little_and_is_pinned() {
    let services = services();
    for (name, service) in services.as_object().expect("they are a mapping") {
        let image = service["image"].as_str().unwrap_or_default();
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag"));
        assert!(tag.matches('.').count() >= 2, "{name}: {tag} is not one version");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        let user = service["user"].as_str().unwrap_or_default().split(':').next().unwrap_or_default();
        assert!(user.parse::<u32>().is_ok_and(|user| user > 0), "{name} is root, or nobody knows who: {user}");
        for memory in texts(&service["tmpfs"]) {
            assert!(memory.contains(&format!(":uid={user},")), "{name} cannot write to {memory}, which is root's");
        }
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} can be reached from other machines: {port}");
            assert!(!port.contains(":6379"), "the sidecar is the pod's own");
        }
        for (from, to) in mounts(service) {
            assert!(
                from.exists() && from.starts_with(deployed("")),
                "{name}: {to} is nothing of ours: {}",
                from.display()
            );
        }
    }
    for name in ["app", "outrigger"] {
        assert_eq!(services[name]["network_mode"], "service:pod", "{name} is not in the pod");
    }
}

/// A builder sets these by itself, but for those that are given a value: an image for another processor would hold the
/// wrong program.
#[test]
fn the_dockerfile_leaves_the_processor_to_the_builder() {
    let image = read("../Dockerfile");
    for name in ["BUILDPLATFORM", "TARGETARCH"] {
        let lines: Vec<_> = image.lines().filter(|line| line.starts_with(&format!("ARG {name}"))).collect();
        assert_eq!(lines, [format!("ARG {name}")]);
    }
}

#[test]
fn the_sidecar_is_what_the_dockerfile_builds() {
    if is_direct() {
        return;
    }
    let outrigger = &services()["outrigger"];
    let context = outrigger["build"].as_str().expect("it is built");
    let image = read(&format!("{context}/Dockerfile"));
    assert!(image.contains(&format!("USER {}\n", outrigger["user"].as_str().unwrap_or_default())));
    let test = texts(&outrigger["healthcheck"]["test"]);
    assert!(image.contains(&format!("ENTRYPOINT [\"{}\"]", test[1])), "{test:?}");
    let mounted = mounts(outrigger);
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let mut command = Command::new(&binary);
    command.arg("check").env_clear();
    for (name, value) in outrigger["environment"].as_object().expect("it has an environment") {
        let value = value.as_str().expect("a variable is text");
        let file = mounted.iter().find(|(_, to)| to == value).map(|(from, _)| from.display().to_string());
        // Redis' name is known within compose only.
        command.env(name, file.unwrap_or_else(|| value.replace("//redis:", "//127.0.0.1:")));
    }
    let (_, written) = run_to_end(&mut command, PATIENCE);
    assert!(written.starts_with("ok    configuration"), "{written}");
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut command = Command::new(binary);
    command.args(&test[2..]).env("OUTRIGGER_HTTP", proxy.http());
    wait_until("it is healthy as compose asks", PATIENCE, || run_to_end(&mut command, PATIENCE).0.success());
}

/// The application of the try-out, which writes what it sees; ended when dropped, with all that it has started.
struct App {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl App {
    fn start(url: &str) -> Self {
        let services = services();
        let command = texts(&services["app"]["command"]);
        let script = mounts(&services["app"]).into_iter().find(|(_, to)| to == command[1]).expect("it is mounted").0;
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let log = folder.path().join("log");
        let output = File::create(&log).expect("it can be made");
        let mut shell = Command::new(command[0]);
        shell.arg(script).env("REDIS_URL", url).process_group(0).stdin(Stdio::null());
        let child = shell.stdout(output.try_clone().expect("it can be shared")).stderr(output).spawn();
        Self { child: child.expect("there is a shell"), log, _folder: folder }
    }

    /// Waits until its latest lines say this.
    fn wait_to_see(&self, page: &str, greeting: &str) {
        let mut last = String::new();
        wait_until(&format!("the application sees {page}, and {greeting}"), PATIENCE * 2, || {
            let log = fs::read_to_string(&self.log).expect("it can be read");
            last = log.lines().last().unwrap_or_default().to_owned();
            last.contains(&format!("GET page:1 -> \"{page}\""))
                && last.contains(&format!("SET greeting -> \"{greeting}"))
        });
        println!("{last}");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[test]
fn what_it_is_made_of_lives_through_an_outage() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let app = App::start(&format!("redis://{}/0", proxy.address()));
    let mut config = read("compose/prometheus.yml").replace("pod:9379", &proxy.http());
    let mounted = mounts(&services()["prometheus"]);
    for (from, to) in &mounted {
        config = config.replace(to, &from.display().to_string());
    }
    assert!(!config.contains("/etc/prometheus"), "a file is named that is not mounted: {config}");
    let prometheus = Prometheus::configured(&config.replace("_interval: 5s", "_interval: 1s"));
    app.wait_to_see("hello", "OK");
    prometheus.wait_for(r#"outrigger_build_info{namespace="compose", job="outrigger", pod="app"}"#, PATIENCE);
    wait_until("all rules are evaluated", PATIENCE, || {
        let rules = prometheus.rules();
        rules.len() >= 10 && rules.iter().all(|health| health == "ok")
    });
    server.kill();
    app.wait_to_see("", "UNAVAILABLE ");
    prometheus.wait_for(r#"increase(outrigger_commands_total{outcome="degraded"}[1m]) > 0"#, PATIENCE);
    prometheus.wait_for(r#"outrigger_circuit_breaker_state{state="open", pod="app"} == 1"#, PATIENCE);
    server.start_again();
    // It caches anew: a page is there again once the load has written it.
    app.wait_to_see("hello", "OK");
}

#[test]
fn grafana_is_given_the_dashboard_with_its_source() {
    let grafana = &services()["grafana"];
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let data = folder.path().display().to_string();
    let mounted = mounts(grafana);
    let mut script = texts(&grafana["command"])[0].replace("$$", "$").replace("exec /run.sh", "true");
    for (from, to) in &mounted {
        script = script.replace(to, &from.display().to_string());
    }
    let (status, written) = run_to_end(
        Command::new("sh").args(["-ec", &script.replace("/var/lib/grafana", &data)]).stdin(Stdio::null()),
        PATIENCE,
    );
    assert!(status.success(), "{written}");
    let provider = &yaml(&read("grafana/provisioning/dashboards/outrigger.yaml"))["providers"][0];
    let path = provider["options"]["path"].as_str().expect("it says where").replace("/var/lib/grafana", &data);
    let text =
        fs::read_to_string(Path::new(&path).join("outrigger.json")).expect("the dashboard is where Grafana looks");
    let dashboard: Value = serde_json::from_str(&text).expect("it is still JSON");
    let source = &yaml(&read("grafana/provisioning/datasources/prometheus.yaml"))["datasources"][0];
    let mut uids = Vec::new();
    sources(&dashboard, &mut uids);
    // Grafana's own source of annotations has another.
    uids.retain(|uid| *uid != "-- Grafana --");
    assert!(uids.len() > 20, "{uids:?}");
    assert!(uids.iter().all(|uid| Some(*uid) == source["uid"].as_str()), "{uids:?}");
    assert!(!text.contains("${DS_"), "a source is left open");
    assert_eq!(source["url"], "http://prometheus:9090");
    let home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str().unwrap_or_default();
    assert!(Path::new(&home.replace("/var/lib/grafana", &data)).exists(), "{home} is not there");
}

/// The sources that are asked, wherever they stand.
fn sources<'json>(value: &'json Value, found: &mut Vec<&'json str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("datasource").and_then(|source| source["uid"].as_str()));
            members.values().for_each(|member| sources(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| sources(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
