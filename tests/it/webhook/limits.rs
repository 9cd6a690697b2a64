//! Whatever is sent to the port, the API server is answered.

use super::caller::{JSON, head};
use super::{Webhook, review};
use crate::support::{PATIENCE, http, is_direct, peak_resident_bytes};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// The longest body that is taken.
const LONGEST: usize = 3 << 20;

#[test]
fn what_is_no_review_is_refused_and_the_next_is_answered() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let whole = review("replicaset").to_string();
    let half = &whole[..whole.len() / 2];
    let deep = "[".repeat(100_000);
    let many = format!("[{}0]", "0,".repeat(300_000));
    for (method, path, headers, body, status) in [
        ("POST", "/mutate", JSON, "no JSON", 400),
        ("POST", "/mutate", JSON, "", 400),
        ("POST", "/mutate", JSON, half, 400),
        ("POST", "/mutate", JSON, "{}", 400),
        ("POST", "/mutate", JSON, "null", 400),
        ("POST", "/mutate", JSON, deep.as_str(), 400),
        ("POST", "/mutate", JSON, many.as_str(), 400),
        ("POST", "/mutate", JSON, r#"{"kind": "AdmissionReview", "request": {}}"#, 400),
        ("POST", "/mutate", "Content-Type: text/plain\r\n", &whole, 415),
        ("POST", "/mutate", "", &whole, 415),
        ("POST", "/mutate", "Content-Type: application/json; charset=utf-8\r\n", &whole, 200),
        ("GET", "/mutate", "", "", 405),
        ("PUT", "/mutate", JSON, &whole, 405),
        ("POST", "/healthz", JSON, &whole, 405),
        ("GET", "/healthz", "", "", 200),
        ("GET", "/", "", "", 404),
        ("POST", "/mutate/", JSON, &whole, 404),
        ("GET", "/metrics", "", "", 404),
    ] {
        let mut connection = webhook.connect();
        let answer = connection.request(method, path, headers, body);
        let about = format!("{method} {path} {headers:?} {}", body.chars().take(30).collect::<String>());
        assert_eq!(answer.status, status, "{about}: {answer:?}");
        assert_eq!(connection.probe(), 200, "the connection goes on after {about}");
    }
    webhook.wait_for_lines("cannot answer what is no review", 10);
}

#[test]
fn large_bodies_have_a_limit() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let mut large = review("replicaset");
    let length = LONGEST - large.to_string().len() - 100;
    large["request"]["object"]["metadata"]["annotations"] = json!({"example.dev/notes": "x".repeat(length)});
    let answer = webhook.ask(&large);
    assert!(answer["response"]["patch"].is_string(), "what is large and right is injected");
    for body in [" ".repeat(LONGEST + 1), " ".repeat(LONGEST * 3)] {
        let mut connection = webhook.connect();
        // It may be refused before it has all come.
        let _ = connection.send(head("POST", "/mutate", JSON, body.len()).as_bytes());
        let _ = connection.send(body.as_bytes());
        let said = connection.rest();
        // The longest are not read to their end, so that the refusal may be lost.
        let may_be_lost = body.len() > 2 * LONGEST && said.is_empty();
        assert!(said.starts_with("HTTP/1.1 413 ") || may_be_lost, "{said}");
    }
    let mut chunked = webhook.connect();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = chunked
        .send(format!("POST /mutate HTTP/1.1\r\nHost: h\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    while sent.is_ok() {
        sent = chunked.send(chunk.as_bytes());
    }
    assert_eq!(webhook.connect().probe(), 200);
}

#[test]
fn large_bodies_fit_the_memory_that_the_manifest_gives() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let review = review("replicaset");
    let expected = webhook.ask(&review);
    // Nothing takes more memory for its length than small objects, of which there may be so many.
    let nested = "{\"\":".repeat(100) + "0" + &"}".repeat(100) + ",";
    let mut body = format!("[{}0]", nested.repeat(490));
    body.push_str(&" ".repeat(LONGEST - body.len()));
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..50).map(|_| scope.spawn(|| webhook.connect().post("/mutate", &body).status)).collect();
        asking.into_iter().map(|asking| asking.join().expect("it is answered")).collect()
    });
    // Those that had to wait for room too long are refused.
    assert!(statuses.contains(&400) && statuses.iter().all(|status| matches!(status, 400 | 408)), "{statuses:?}");
    assert_eq!(webhook.ask(&review), expected);
    let peak = peak_resident_bytes(webhook.child.id()) >> 20;
    println!("figures webhook memory: peak_mib={peak}");
    assert!(peak < 128, "{peak} MiB");
}

#[test]
fn a_connection_is_used_again() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let review = review("replicaset").to_string();
    let mut connection = webhook.connect();
    let first = connection.post("/mutate", &review);
    for _ in 0..20 {
        assert_eq!(connection.post("/mutate?timeout=10s", &review).body, first.body);
    }
}

#[test]
fn who_is_slow_is_cut_off() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let began = Instant::now();
    let mut half_head = webhook.connect();
    half_head.send(b"POST /mutate HTTP/1.1\r\nHost: loc").expect("it is taken");
    let mut half_body = webhook.connect();
    half_body.send(head("POST", "/mutate", JSON, 100).as_bytes()).expect("it is taken");
    half_body.send(b"{\"kind\"").expect("it is taken");
    let mut silent = webhook.connect();
    let mut no_handshake = http::connect(&webhook.address).expect("it is taken");
    // The first bytes of a handshake.
    no_handshake.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).expect("it is taken");
    assert!(half_body.rest().starts_with("HTTP/1.1 408 "), "a body has less time");
    assert_eq!((half_head.rest(), silent.rest()), (String::new(), String::new()));
    ended(&mut no_handshake);
    println!("figures webhook slow: cut_off_after_s={:.1}", began.elapsed().as_secs_f64());
    assert_eq!(webhook.connect().probe(), 200);
}

/// Waits until the other side has closed.
fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert!(error.kind() == std::io::ErrorKind::ConnectionReset, "nothing came for {PATIENCE:?}: {error}");
    }
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
}

#[test]
fn what_is_not_tls_is_not_answered() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    for bytes in [&b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"[..], &[0; 4096], b"\x16\x03\x01\xff\xff"] {
        let mut stream = http::connect(&webhook.address).expect("it is taken");
        stream.write_all(bytes).expect("it is taken");
        ended(&mut stream);
    }
    drop(http::connect(&webhook.address));
    assert_eq!(webhook.connect().probe(), 200);
}

#[test]
fn more_connections_than_there_may_be_keep_nobody_out() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let review = review("replicaset");
    let expected = webhook.ask(&review);
    let mut idle: Vec<_> = (0..400).map(|_| webhook.connect()).collect();
    assert_eq!(webhook.ask(&review), expected, "beside idle ones");
    let half: Vec<_> = (0..400).map(|_| http::connect(&webhook.address).expect("it is taken")).collect();
    assert_eq!(webhook.ask(&review), expected, "beside half handshakes");
    for connection in &mut idle {
        // Those that made room are gone already.
        let _ = connection.send(b"POST /mutate HTTP/1.1\r\n");
    }
    assert_eq!(webhook.ask(&review), expected, "beside half requests");
    drop(half);
    let asked: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..200).map(|_| scope.spawn(|| webhook.ask(&review))).collect();
        asking.into_iter().map(|asking| asking.join().expect("it is answered")).collect()
    });
    assert!(asked.iter().all(|answer| *answer == expected), "as many at once as an API server asks");
}

#[test]
fn pods_made_to_be_slow_are_not_looked_at_for_long() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let asked = |env: serde_json::Value, containers: usize| {
        let mut review = review("replicaset");
        let mut container = review["request"]["object"]["spec"]["containers"][0].clone();
        container["env"] = env;
        review["request"]["object"]["spec"]["containers"] = vec![container; containers].into();
        let answer = webhook.ask(&review);
        assert_eq!((&answer["response"]["allowed"], answer["response"].get("patch")), (&json!(true), None));
        answer["response"]["auditAnnotations"]["result"].as_str().expect("there is one").to_owned()
    };
    let named = |name: String, value: String| json!({"name": name, "value": value});
    let url = |of: usize| named("REDIS_URL".to_owned(), format!("redis://redis/$(V{of})"));
    // Each is twice the one before.
    let doubling = (1..60).map(|at| named(format!("V{at}"), format!("$(V{0})$(V{0})", at - 1)));
    assert!(asked(doubling.chain([url(59)]).collect(), 1).contains("composed of too much"));
    // Each is only the one before.
    let chain = (1..30_000).map(|at| named(format!("V{at}"), format!("$(V{})", at - 1)));
    assert!(
        asked(chain.chain([named("REDIS_URL".to_owned(), "$(V29999)".to_owned())]).collect(), 1)
            .contains("more than 1000 variables")
    );
    let chain = (1..999).map(|at| named(format!("V{at}"), format!("$(V{})", at - 1)));
    assert!(
        asked(chain.chain([named("REDIS_URL".to_owned(), "$(V998)".to_owned())]).collect(), 1)
            .contains("V1 refers to V0")
    );
    assert!(asked(json!([]), 1_000).contains("more than 100 containers"));
    let mut review = review("replicaset");
    review["request"]["object"]["metadata"]["annotations"] = json!({"outrigger.dev/env": "V,".repeat(100_000) + "W"});
    let result = webhook.ask(&review)["response"]["auditAnnotations"]["result"].to_string();
    assert!(result.contains("no container has V"), "{result}");
    let names: String = (0..1_000).map(|at| format!("V{at},")).collect();
    review["request"]["object"]["metadata"]["annotations"] = json!({"outrigger.dev/env": names});
    let result = webhook.ask(&review)["response"]["auditAnnotations"]["result"].to_string();
    assert!(result.contains("more than 20 variables"), "{result}");
}
