//! Every path by every method, and what is said there.

use super::Setting;
use crate::outage::network::in_own_network;
use crate::support::http;
use crate::support::{Kind, PATIENCE, Proxy, Server, dependency, wait_until};
use std::process::Command;

const OPEN: [&str; 9] =
    ["/livez", "/liveness", "/readyz", "/readiness", "/startupz", "/startup", "/health", "/metrics", "/"];
const GUARDED: [&str; 3] = ["/health/detailed", "/health/redis", "/health/services"];
const ACTS: [&str; 3] = ["/breaker/isolate", "/breaker/release", "/quitquitquit"];

#[test]
fn what_is_open_is_answered_to_anybody() {
    let setting = Setting::new(|_| {});
    for path in OPEN {
        let answer = setting.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert!(!answer.body.is_empty(), "{path}");
    }
    assert_eq!(setting.get("/livez").body, "alive\n");
    assert_eq!(setting.get("/readyz").body, "ready\n");
    assert_eq!(setting.get("/startupz").body, "started\n");
    assert_eq!(setting.get("/health").json(), serde_json::json!({"status": "pass"}));
    assert_eq!(setting.get("/health").header("content-type"), Some("application/json"));
    let metrics = setting.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.body.contains("\noutrigger_ready 1\n"), "{}", metrics.body);
}

#[test]
fn head_has_no_body_and_other_methods_are_told_which_are_allowed() {
    let setting = Setting::new(|_| {});
    for path in OPEN {
        let (head, get) = (http::request(&setting.http, "HEAD", path, &[]), setting.get(path));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
            let answer = http::request(&setting.http, method, path, &[]);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    for path in ACTS {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let answer = setting.as_operator(method, path);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method} {path}");
        }
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    let setting = Setting::new(|_| {});
    for path in
        ["/health/", "/livez/x", "//", "/favicon.ico", "/LIVEZ", "/..", "/%2e%2e/etc/passwd", "/health/redis/x", "*"]
    {
        for method in ["GET", "POST"] {
            let answer = setting.as_operator(method, path);
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        }
    }
    // A query changes nothing where none is expected.
    assert_eq!(setting.status("/livez?verbose=1&for=3"), 200);
}

#[test]
fn the_details_say_how_it_is_without_credentials() {
    let setting = Setting::new(|flags| {
        flags.args(["--pool-size", "9", "--workers", "1"]);
    });
    let mut client = setting.client();
    client.ask("SET k v");
    let detailed = setting.get_as_operator("/health/detailed").json();
    assert_eq!(detailed["status"], "pass");
    assert_eq!(detailed["state"], "serving");
    assert_eq!(detailed["clients"], 1);
    assert_eq!(detailed["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(detailed["redis"]["breaker"]["state"], "closed");
    assert_eq!(detailed["redis"]["breaker"]["trips"], 0);
    assert_eq!(detailed["redis"]["link"], "up");
    assert_eq!(detailed["redis"]["address"], setting.server.address());
    assert_eq!(detailed["redis"]["server"]["kind"], "redis");
    assert!(detailed["redis"]["server"]["version"].as_str().is_some_and(|version| version.starts_with("7.0.")));
    assert_eq!(detailed["redis"]["pool"]["size"], 9);
    assert!(detailed["redis"]["pool"]["used"].as_u64().is_some_and(|used| used >= 1));
    assert_eq!(detailed["configuration"]["pool-size"], "9");
    assert_eq!(detailed["configuration"]["http"], "127.0.0.1:0");
    assert_eq!(detailed["services"]["phase"], "serving");
    let redis = setting.get_as_operator("/health/redis").json();
    assert_eq!((&redis["status"], &redis["breaker"]["state"]), (&"pass".into(), &"closed".into()));
    assert_eq!(setting.get_as_operator("/health/services").json()["phase"], "serving");
}

#[test]
fn leases_are_shown_by_their_cause() {
    let setting = Setting::new(|_| {});
    let mut client = setting.client();
    client.ask("WATCH k");
    let pool = setting.get_as_operator("/health/redis").json()["pool"]["leases"].clone();
    assert_eq!(pool["used"], 1);
    assert_eq!((&pool["by_cause"]["watch"], &pool["by_cause"]["blocking"]), (&1.into(), &0.into()));
}

#[test]
fn credentials_of_the_upstream_are_shown_nowhere() {
    let server = Server::start_with(Kind::Redis70, &["--requirepass", "hunter2"]);
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("token");
    std::fs::write(&file, "t").expect("the token can be written");
    let proxy = Proxy::toward(&format!("default:hunter2@{}", server.address()), |flags| {
        flags.arg("--admin-token-file").arg(&file);
    });
    let http = proxy.http();
    wait_until("Redis answers", PATIENCE, || http::get(&http, "/health").status == 200);
    for path in OPEN.iter().chain(&GUARDED) {
        let answer = http::request(&http, "GET", path, &["Authorization: Bearer t"]);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!format!("{answer:?}").contains("hunter2"), "{path}: {answer:?}");
    }
    let shown = http::request(&http, "GET", "/health/detailed", &["Authorization: Bearer t"]).json();
    assert_eq!(shown["configuration"]["upstream"], format!("redis://***@{}", server.address()));
    assert_eq!(proxy.logged("hunter2"), 0);
}

#[test]
fn the_page_tells_strangers_the_state_only() {
    let setting = Setting::new(|_| {});
    let neighbour = setting.get("/");
    assert!(neighbour.body.contains(">serving</h1>"), "{neighbour:?}");
    let told = setting.get("/status.json");
    assert!(told.body.contains("\"configuration\":") && told.body.contains("pool-size"), "{told:?}");
    assert!(neighbour.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    // What a browser asks under another name, or on behalf of another page, is no neighbour's.
    for strange in ["Host: evil.example", "Sec-Fetch-Site: cross-site", "Origin: http://evil.example"] {
        for path in ["/", "/status.json"] {
            let head = format!("GET {path} HTTP/1.0\r\n{strange}\r\n\r\n");
            let answer = http::raw(&setting.http, head.as_bytes()).expect("it is answered");
            assert!(answer.contains("serving") && !answer.contains("--pool-size"), "{strange} {path}: {answer}");
            assert!(!answer.contains("\"configuration\":"), "{strange} {path}: {answer}");
        }
    }
}

#[test]
fn the_port_can_be_switched_off() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--http", "off"]);
    });
    assert_eq!(proxy.connect().ask("PING"), b"+PONG\r\n");
    assert_eq!(proxy.logged("http listening"), 0);
}

#[test]
fn one_that_cannot_be_opened_ends_the_start_with_the_flag_and_the_remedy() {
    let server = Server::start(Kind::Redis70);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    let refused = |flags: [&str; 4]| {
        let refusal = Proxy::try_start(&server, |command| {
            command.args(flags);
        });
        let Err(refusal) = refusal else { panic!("it started with {flags:?}") };
        assert_eq!(refusal.status.code(), Some(1), "{}", refusal.log);
        assert_eq!(refusal.log.lines().filter(|line| line.contains("ERROR")).count(), 1, "{}", refusal.log);
        refusal.log
    };
    let log = refused(["--http", &address, "--workers", "1"]);
    assert!(log.contains(&address) && log.contains("--http (OUTRIGGER_HTTP)"), "{log}");
    let log = refused(["--http", "127.0.0.1:0", "--admin-token-file", "/nonexistent/token"]);
    assert!(
        log.contains("/nonexistent/token") && log.contains("--admin-token-file (OUTRIGGER_ADMIN_TOKEN_FILE)"),
        "{log}"
    );
}

/// A mesh hands on what comes from elsewhere as if it came from this machine, but to the pod's own address.
#[test]
fn a_loopback_peer_at_another_address_is_no_neighbour() {
    const POD: &str = "10.9.9.9";
    in_own_network(|| {
        let added = Command::new("ip").args(["address", "add", &format!("{POD}/32"), "dev", "lo"]).status();
        assert!(added.is_ok_and(|status| status.success()), "an address can be added");
        let server = Server::start(Kind::Redis70);
        let proxy = Proxy::start(&server, |flags| {
            flags.args(["--http", "[::]:9379"]);
        });
        wait_until("it serves", PATIENCE, || http::get("127.0.0.1:9379", "/readyz").status == 200);
        for (address, is_near) in [("127.0.0.1:9379", true), ("10.9.9.9:9379", false)] {
            let status = from("127.0.0.6", address);
            assert_eq!(status.contains("\"configuration\":"), is_near, "{address}: {status}");
        }
        drop(proxy);
    });
}

/// What `/status.json` tells a peer with that address.
fn from(peer: &str, address: &str) -> String {
    const ASK: &str = r#"
import socket, sys
peer, host, port = sys.argv[1:]
with socket.create_connection((host, int(port)), 20, (peer, 0)) as connection:
    connection.sendall(b"GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
    while part := connection.recv(65536):
        sys.stdout.buffer.write(part)
"#;
    let (host, port) = address.split_once(':').expect("an address and a port");
    let output =
        Command::new(dependency("PYTHON")).args(["-c", ASK, peer, host, port]).output().expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}
