//! The token: right, wrong, absent, replaced; and shown nowhere.

use super::{Setting, TOKEN};
use crate::support::http::request;
use crate::support::{Kind, PATIENCE, Proxy, Server, wait_until};
use rustix::process::Signal;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const GUARDED: [(&str, &str); 5] = [
    ("GET", "/health/detailed"),
    ("GET", "/health/redis"),
    ("GET", "/health/services"),
    ("POST", "/breaker/isolate"),
    ("POST", "/quitquitquit"),
];

#[test]
fn who_has_it_not_is_refused() {
    let mut setting = Setting::new(|_| {});
    let wrong = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer wrong".to_owned(),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", &TOKEN[1..]),
        format!("Bearer {}", TOKEN.to_uppercase()),
        format!("Basic {TOKEN}"),
        TOKEN.to_owned(),
    ];
    for (method, path) in GUARDED {
        for value in &wrong {
            let answer = request(&setting.http, method, path, &[&format!("Authorization: {value}")]);
            assert_eq!(answer.status, 401, "{method} {path} with {value:?}");
            assert!(answer.header("www-authenticate").is_some_and(|scheme| scheme.starts_with("Bearer")), "{answer:?}");
            assert!(!format!("{answer:?}").contains(TOKEN));
        }
        assert_eq!(request(&setting.http, method, path, &[]).status, 401, "{method} {path} without any");
        // It does not count elsewhere.
        let query = format!("{path}?token={TOKEN}&access_token={TOKEN}");
        assert_eq!(request(&setting.http, method, &query, &[&format!("Cookie: token={TOKEN}")]).status, 401);
    }
    let attempts = GUARDED.len() * (wrong.len() + 2);
    assert_eq!(setting.metric("outrigger_http_refused_tokens_total"), attempts as u64);
    setting.proxy.assert_running();
    assert_eq!(setting.client().ask("PING"), b"+PONG\r\n");
    for path in ["/metrics", "/", "/health/detailed"] {
        assert!(!format!("{:?}", setting.get_as_operator(path)).contains(TOKEN), "{path}");
    }
    assert_eq!(setting.proxy.logged(TOKEN), 0);
}

#[test]
fn who_has_it_is_let_in() {
    let setting = Setting::new(|_| {});
    for (method, path) in GUARDED.iter().filter(|(method, _)| *method == "GET") {
        assert_eq!(setting.as_operator(method, path).status, 200, "{path}");
        let answer = request(&setting.http, method, path, &[&format!("authorization: bearer {TOKEN}")]);
        assert_eq!(answer.status, 200, "the scheme's case does not matter");
    }
}

#[test]
fn without_one_there_is_nothing_to_open() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    for (method, path) in GUARDED {
        for header in ["Authorization: Bearer x", "Authorization: Bearer ", "X: y"] {
            let answer = request(&proxy.http(), method, path, &[header]);
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
}

#[test]
fn a_new_one_takes_the_place_of_the_old() {
    let setting = Setting::new(|_| {});
    assert_eq!(setting.get_as_operator("/health/services").status, 200);
    setting.write_token("another-one");
    setting.proxy.tell(Signal::HUP);
    let as_new = || request(&setting.http, "GET", "/health/services", &["Authorization: Bearer another-one"]).status;
    wait_until("the new token is known", PATIENCE, || as_new() == 200);
    assert_eq!(setting.get_as_operator("/health/services").status, 401, "the old one is not any more");
    // While there is none, the last one holds.
    setting.write_token("");
    setting.proxy.tell(Signal::HUP);
    wait_until("that is noticed", PATIENCE, || setting.proxy.logged("all stays as it was") == 1);
    assert_eq!(as_new(), 200);
    assert_eq!(setting.proxy.logged("another-one"), 0);
    let reloads =
        |result| format!("outrigger_secret_reloads_total{{result=\"{result}\",secret=\"admin-token-file\"}} 1\n");
    let metrics = setting.get("/metrics").body;
    assert!(metrics.contains(&reloads("ok")) && metrics.contains(&reloads("failed")), "{metrics}");
}

#[test]
fn a_file_that_does_not_answer_holds_up_nobody() {
    let setting = Setting::new(|_| {});
    // Whoever opens a pipe to read it waits until somebody writes to it: as a file on a mount that is dead.
    let pipe = setting.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|made| made.success()), "a pipe can be made");
    fs::rename(pipe, setting.folder.path().join("token")).expect("it can take the token's place");
    setting.proxy.tell(Signal::HUP);
    for _ in 0..20 {
        assert_eq!(request(&setting.http, "GET", "/health/services", &["Authorization: Bearer x"]).status, 401);
        assert_eq!(setting.status("/livez"), 200);
        assert_eq!(setting.get_as_operator("/health/services").status, 200, "the last one holds");
    }
}

#[test]
fn a_wrong_one_is_refused_slowly_and_holds_up_nobody() {
    let setting = Setting::new(|_| {});
    let address = setting.http.clone();
    let guessing: Vec<_> = (0..20)
        .map(|number| {
            let address = address.clone();
            thread::spawn(move || {
                let start = Instant::now();
                let header = format!("Authorization: Bearer guess{number}");
                assert_eq!(request(&address, "GET", "/health/detailed", &[&header]).status, 401);
                start.elapsed()
            })
        })
        .collect();
    assert_eq!(setting.status("/livez"), 200);
    for guess in guessing {
        assert!(guess.join().expect("it does not panic") >= Duration::from_millis(100));
    }
}
