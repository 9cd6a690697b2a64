//! `outrigger wait` and `outrigger healthcheck`, against proxies that are there, not there, or not yet.

use super::Setting;
use crate::program::run_to_end;
use crate::support::{Kind, PATIENCE, Proxy, Server, wait_until};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn outrigger(words: &[&str]) -> Command {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let mut command = Command::new(binary);
    command.args(words).env_clear().stdin(Stdio::null());
    command
}

/// Runs it, and says with which code it ended and what it wrote, which is one line.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let (status, output) = run_to_end(command, Duration::from_secs(60));
    assert_eq!(output.lines().count(), 1, "{command:?} wrote:\n{output}");
    (status.code(), output)
}

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

#[test]
fn wait_ends_once_it_has_started() {
    let setting = Setting::new(|_| {});
    assert_eq!(run(&mut outrigger(&["wait", "--http", &setting.http])), (Some(0), "started\n".to_owned()));
    assert_eq!(run(outrigger(&["wait"]).env("OUTRIGGER_HTTP", &setting.http)).0, Some(0));
    // One that listens everywhere is asked on the loopback.
    for everywhere in ["0.0.0.0", "[::]"] {
        let everywhere = setting.http.replace("127.0.0.1", everywhere);
        assert_eq!(run(&mut outrigger(&["wait", "--http", &everywhere])).0, Some(0));
    }
}

#[test]
fn wait_waits_for_one_that_is_not_there_yet() {
    let address = nowhere();
    let waiting = std::thread::spawn({
        let address = address.clone();
        move || run(&mut outrigger(&["wait", "--timeout", "50s", "--http", &address]))
    });
    // It asks in vain at least once: a listener that answers nothing sees it come.
    {
        let listener = TcpListener::bind(&address).expect("the port is still free");
        drop(listener.accept().expect("somebody comes"));
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--http", &address]);
    });
    assert_eq!(waiting.join().expect("it does not panic"), (Some(0), "started\n".to_owned()));
    drop(proxy);
}

#[test]
fn wait_gives_up_with_one_line_that_says_why() {
    let start = Instant::now();
    let (code, line) = run(&mut outrigger(&["wait", "--timeout", "500ms", "--http", &nowhere()]));
    assert_eq!(code, Some(1));
    assert!(line.starts_with("outrigger wait: not started within 500ms: cannot connect to 127.0.0.1:"), "{line}");
    assert!(start.elapsed() >= Duration::from_millis(300), "it did not wait");

    let mut server = Server::start(Kind::Redis70);
    server.kill();
    let proxy = Proxy::start(&server, |flags| {
        flags.arg("--startup-requires-upstream");
    });
    let (code, line) = run(&mut outrigger(&["wait", "--timeout", "500ms", "--http", &proxy.http()]));
    assert_eq!(code, Some(1));
    assert!(line.contains("/startupz answers 503") && line.contains("Redis was not reached yet"), "{line}");
}

#[test]
fn wait_is_not_kept_by_one_who_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = silent.local_addr().expect("it is bound").to_string();
    let (code, line) = run(&mut outrigger(&["wait", "--timeout", "500ms", "--http", &address]));
    assert_eq!(code, Some(1));
    assert!(line.contains("in time"), "{line}");
}

#[test]
fn healthcheck_says_how_it_is() {
    let mut setting = Setting::new(|_| {});
    let check = |words: &[&str]| run(&mut outrigger(&[&["healthcheck", "--http", &setting.http], words].concat()));
    assert_eq!(check(&[]), (Some(0), "{ \"status\": \"pass\" }\n".to_owned()));
    assert_eq!(check(&["--ready"]), (Some(0), "ready\n".to_owned()));
    assert_eq!(check(&["--live"]), (Some(0), "alive\n".to_owned()));
    setting.server.kill();
    wait_until("it is missed", PATIENCE, || setting.status("/health") == 503);
    let check = |words: &[&str]| run(&mut outrigger(&[&["healthcheck", "--http", &setting.http], words].concat()));
    let (code, line) = check(&[]);
    assert_eq!(code, Some(1));
    assert!(line.starts_with("outrigger healthcheck: ") && line.contains("503"), "{line}");
    assert_eq!((check(&["--ready"]).0, check(&["--live"]).0), (Some(0), Some(0)));
}

#[test]
fn healthcheck_of_nobody_fails() {
    let (code, line) = run(&mut outrigger(&["healthcheck", "--live", "--http", &nowhere()]));
    assert_eq!(code, Some(1));
    assert!(line.starts_with("outrigger healthcheck: cannot connect to 127.0.0.1:"), "{line}");
}

#[test]
fn a_port_that_is_off_or_no_address_is_a_mistake() {
    for (word, address) in [("wait", "off"), ("healthcheck", "off"), ("wait", "nonsense")] {
        let (code, line) = run(&mut outrigger(&[word, "--http", address]));
        assert_eq!(code, Some(64), "{line}");
        assert!(line.contains("--http (OUTRIGGER_HTTP)"), "{line}");
    }
}
