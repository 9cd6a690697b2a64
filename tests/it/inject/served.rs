//! Sidecars run as their manifests say, and applications that use the URL they are given.

use super::run;
use crate::support::http::get;
use crate::support::{Kind, PATIENCE, Server, dependency, is_direct, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};

/// An application that has a URL and nothing else.
const APP: &str = r#"
import sys, redis
client = redis.Redis.from_url(sys.argv[1])
client.set("from", sys.argv[2])
print(client.get("from").decode())
"#;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pod whose container has these variables, with the sidecar in it.
fn injected(env: &Value, annotations: &Value) -> Value {
    let container = json!({"name": "app", "image": "app:1", "env": env});
    let metadata = json!({"name": "p", "annotations": annotations});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}});
    serde_json::from_str(&run(&["inject"], &pod.to_string()).fine()).expect("it is JSON")
}

/// The environment of a container, as the kubelet makes it.
fn environment(container: &Value, secrets: &BTreeMap<&str, String>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::<String, String>::new();
    for entry in container["env"].as_array().expect("it has an environment") {
        let name = entry["name"].as_str().expect("it has a name").to_owned();
        let value = match entry.pointer("/valueFrom/secretKeyRef/key") {
            Some(key) => secrets[key.as_str().expect("it is text")].clone(),
            None => {
                let known = variables.iter();
                let value = entry["value"].as_str().expect("it has a value").to_owned();
                known.fold(value, |value, (name, known)| value.replace(&format!("$({name})"), known))
            }
        };
        variables.insert(name, value);
    }
    variables
}

/// A port that is free and so is the next, on both loopbacks; out of those that neither the system nor other tests choose.
fn free_pair() -> u16 {
    let is_free = |port: u16| ["127.0.0.1", "::1"].into_iter().all(|host| TcpListener::bind((host, port)).is_ok());
    let any = std::iter::repeat_with(|| fastrand::u16(10_000..20_000));
    any.take(1000).find(|port| is_free(*port) && is_free(port + 1)).expect("two ports are free")
}

/// Starts each sidecar of a pod, its HTTP port on the loopback only, and waits until its probes succeed.
fn start(pod: &Value, secrets: &BTreeMap<&str, String>) -> Vec<Ended> {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array()).flatten();
    let sidecars =
        lists.filter(|container| container["name"].as_str().is_some_and(|name| name.starts_with("outrigger")));
    let start_one = |sidecar: &Value| {
        let mut variables = environment(sidecar, secrets);
        let http = variables["OUTRIGGER_HTTP"].replace("[::]", "127.0.0.1");
        variables.insert("OUTRIGGER_HTTP".to_owned(), http.clone());
        variables.insert("OUTRIGGER_LOG".to_owned(), "warn".to_owned());
        let child = Command::new(&binary).env_clear().envs(variables).spawn().expect("it can be run");
        let child = Ended(child);
        for probe in ["startupProbe", "livenessProbe"] {
            let path = sidecar[probe]["httpGet"]["path"].as_str().expect("it has a path");
            wait_until("the probe succeeds", PATIENCE, || {
                TcpStream::connect(&http).is_ok() && get(&http, path).status == 200
            });
        }
        child
    };
    sidecars.map(start_one).collect()
}

/// The container of a pod that is the application's.
fn app(pod: &Value) -> &Value {
    let mut containers = pod["spec"]["containers"].as_array().expect("there are containers").iter();
    containers.find(|container| container["name"] == "app").expect("it is there")
}

/// Writes by an application with the variable's URL, and looks where the server has it.
fn write_and_look(pod: &Value, variable: &str, server: &Server, database: u32, password: &str) {
    let url = &environment(app(pod), &BTreeMap::new())[variable];
    assert!(url.starts_with("redis://127.0.0.1:"), "{url}");
    let output = Command::new(dependency("PYTHON")).args(["-c", APP, url, variable]).output().expect("it can be run");
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    let mut direct = server.connect();
    if !password.is_empty() {
        direct.ask(&format!("AUTH {password}"));
    }
    direct.select(database);
    let expected = format!("${}\r\n{variable}\r\n", variable.len());
    assert_eq!(String::from_utf8_lossy(&direct.ask("GET from")), expected, "{url}");
    direct.ask("DEL from");
}

/// Annotations that put the first sidecar where nobody else is.
fn elsewhere() -> Value {
    json!({"outrigger.dev/port": free_pair().to_string(), "outrigger.dev/http": format!("[::]:{}", free_pair())})
}

#[test]
fn a_literal_url_leads_to_the_same_data() {
    if is_direct() {
        return;
    }
    let server = Server::start_with(Kind::Redis70, &["--requirepass", "p@ss"]);
    for (database, path) in [(0, ""), (0, "/0"), (3, "/3"), (3, "/3?socket_timeout=5")] {
        let url = format!("redis://:p%40ss@{}{path}", server.address());
        let pod = injected(&json!([{"name": "REDIS_URL", "value": url}]), &elsewhere());
        let _sidecars = start(&pod, &BTreeMap::new());
        write_and_look(&pod, "REDIS_URL", &server, database, "p@ss");
    }
}

#[test]
fn a_secrets_url_leads_to_the_same_data() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let env = json!([{"name": "REDIS_URL", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}}]);
    for (database, path) in [(0, ""), (5, "/5")] {
        let secrets = BTreeMap::from([("url", format!("redis://{}{path}", server.address()))]);
        let pod = injected(&env, &elsewhere());
        let _sidecars = start(&pod, &secrets);
        write_and_look(&pod, "REDIS_URL", &server, database, "");
    }
}

/// All variables of a Secret, of which one is the URL; and a sidecar beside the others.
#[test]
fn a_url_out_of_many_leads_to_the_same_data_by_a_classic_sidecar_too() {
    if is_direct() {
        return;
    }
    let server = Server::start_with(Kind::Redis70, &["--requirepass", "secret"]);
    for kind in ["native", "classic"] {
        let mut annotations = elsewhere();
        annotations["outrigger.dev/sidecar"] = json!(kind);
        annotations["outrigger.dev/from"] = json!("secret/all");
        annotations["outrigger.dev/db"] = json!("3");
        let from = json!([{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "others"}}]);
        let container = json!({"name": "app", "image": "app:1", "envFrom": from});
        let metadata = json!({"name": "p", "annotations": annotations});
        let spec = json!({"containers": [container]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let pod: Value = serde_json::from_str(&run(&["inject"], &pod.to_string()).fine()).expect("it is JSON");
        assert_eq!(pod["spec"]["initContainers"].is_array(), kind == "native", "{pod}");
        let secrets = BTreeMap::from([("REDIS_URL", format!("redis://:secret@{}/3", server.address()))]);
        let _sidecars = start(&pod, &secrets);
        write_and_look(&pod, "REDIS_URL", &server, 3, "secret");
    }
}

#[test]
fn a_composed_url_leads_to_the_same_data() {
    if is_direct() {
        return;
    }
    let server = Server::start_with(Kind::Redis70, &["--requirepass", "secret"]);
    let (host, port) =
        server.address().split_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).expect("it has both");
    let env = json!([
        {"name": "HOST", "value": host},
        {"name": "REDIS_SECRET", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
        {"name": "REDIS_URL", "value": format!("redis://:$(REDIS_SECRET)@$(HOST):{port}/2")},
    ]);
    let secrets = BTreeMap::from([("password", "secret".to_owned())]);
    let pod = injected(&env, &elsewhere());
    let _sidecars = start(&pod, &secrets);
    let mut app = pod.clone();
    app["spec"]["containers"][0]["env"]
        .as_array_mut()
        .expect("it has one")
        .retain(|entry| entry["name"] == "REDIS_URL");
    write_and_look(&app, "REDIS_URL", &server, 2, "secret");
}

#[test]
fn each_upstream_has_its_sidecar() {
    if is_direct() {
        return;
    }
    let (cache, queue) = (Server::start(Kind::Redis70), Server::start(Kind::Valkey91));
    let env = json!([
        {"name": "CACHE_URL", "value": format!("redis://{}/0", cache.address())},
        {"name": "SESSION_URL", "value": format!("redis://{}/1", cache.address())},
        {"name": "QUEUE_URL", "value": format!("redis://{}", queue.address())},
    ]);
    let mut annotations = elsewhere();
    annotations["outrigger.dev/env"] = json!("CACHE_URL,SESSION_URL,QUEUE_URL");
    let pod = injected(&env, &annotations);
    assert_eq!(pod["spec"]["initContainers"].as_array().map(Vec::len), Some(2), "two of the three share one");
    let _sidecars = start(&pod, &BTreeMap::new());
    write_and_look(&pod, "CACHE_URL", &cache, 0, "");
    write_and_look(&pod, "SESSION_URL", &cache, 1, "");
    write_and_look(&pod, "QUEUE_URL", &queue, 0, "");
}
