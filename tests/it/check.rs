//! `outrigger check`, and what the program says of flags and variables that are wrong.

use crate::program::run_to_end;
use crate::support::{Kind, PATIENCE, Proxy, Server, is_direct};
use std::process::Command;

/// What the program prints with these arguments and variables, and its exit code.
fn said(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let mut command = Command::new(binary);
    command.args(arguments).envs(variables.iter().copied());
    let (status, text) = run_to_end(&mut command, PATIENCE);
    (status.code(), text)
}

/// What `check` finds out about a server, asked as `user:password@` if one is named.
fn findings(server: &Server, user: &str, more: &[&str]) -> (Option<i32>, String) {
    let url = format!("redis://{user}{}", server.address());
    // The usual ports may be somebody else's here.
    let apart = ["check", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--upstream", &url];
    said(&[&apart, more].concat(), &[])
}

#[test]
fn all_secrets_are_read() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    for flag in ["--admin-token-file", "--password-file", "--upstream-password-file"] {
        let (code, text) = findings(&server, "", &[flag, "/nonexistent/secret"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.starts_with(&format!("FAIL  {flag} (OUTRIGGER_")) && text.contains("/nonexistent/secret"),
            "{text}"
        );
    }
}

#[test]
fn rights_that_are_missing_are_warned_of() {
    if is_direct() {
        return;
    }
    for kind in [Kind::Redis70, Kind::Valkey91] {
        let server = Server::start(kind);
        let (_, text) = findings(&server, "", &[]);
        assert!(!text.contains("WARN"), "{text}");
        for (rights, warning) in [
            ("-client|kill", "WARN  the server refuses CLIENT KILL, so a write whose time ran out may still run later"),
            ("-client|info", "WARN  the server refuses CLIENT INFO, so a write whose time ran out may still run later"),
            ("-client|unblock", "WARN  the server refuses CLIENT UNBLOCK, so clients that block cannot take turns"),
            ("-config", "WARN  the server refuses CONFIG GET, so it is not known whether it closes idle connections"),
            ("-info", "WARN  the server refuses INFO, so its version and role are not known"),
        ] {
            server.connect().ask(&format!("ACL SETUSER app reset on >pw ~* &* +@all {rights}"));
            let (code, text) = findings(&server, "app:pw@", &[]);
            assert_eq!(code, Some(0), "{text}");
            let warnings: Vec<_> = text.lines().filter(|line| line.starts_with("WARN")).collect();
            assert!(matches!(warnings[..], [line] if line.starts_with(warning) && line.contains("NOPERM")), "{text}");
            assert!(!text.contains("unknown"), "{text}");
        }
    }
}

#[test]
fn a_timeout_of_the_server_is_warned_of_whatever_its_size() {
    if is_direct() {
        return;
    }
    for seconds in ["5", "300"] {
        let server = Server::start_with(Kind::Redis70, &["--timeout", seconds]);
        let (code, text) = findings(&server, "", &[]);
        let warning = format!("WARN  the server closes connections idle for {seconds} s (`timeout`): ");
        assert!(code == Some(0) && text.contains(&warning), "{text}");
    }
}

#[test]
fn an_address_that_is_taken_is_warned_of() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let url = format!("redis://{}", server.address());
    let other = server.address();
    for (listen, http, flag) in [
        (proxy.address(), "127.0.0.1:0", "--listen (OUTRIGGER_LISTEN)"),
        ("127.0.0.1:0", &other, "--http (OUTRIGGER_HTTP)"),
    ] {
        let (code, text) = said(&["check", "--listen", listen, "--http", http, "--upstream", &url], &[]);
        assert_eq!(code, Some(0), "{text}");
        let warnings: Vec<_> = text.lines().filter(|line| line.starts_with("WARN  cannot listen on")).collect();
        assert!(matches!(warnings[..], [line] if line.contains(flag)), "{text}");
    }
    // Where it runs already, they are its own.
    let http = proxy.http();
    let (code, text) = said(&["check", "--listen", proxy.address(), "--http", &http, "--upstream", &url], &[]);
    assert!(code == Some(0) && !text.contains("WARN"), "{text}");
    assert!(text.contains(&format!("ok    a proxy is alive at {http}")), "{text}");
}

#[test]
fn a_wrong_value_is_named_with_its_variable_if_there_is_one() {
    if is_direct() {
        return;
    }
    let (code, text) = said(&["--upstream", "redis://localhost"], &[("OUTRIGGER_POOL_SIZE", "abc")]);
    assert_eq!(code, Some(64), "{text}");
    for part in ["'--pool-size <N>'", "give a whole number", "OUTRIGGER_POOL_SIZE"] {
        assert!(text.contains(part), "{text}");
    }
    let (code, text) = said(&["wait", "--timeout", "30"], &[]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("'--timeout <TIME>'") && !text.contains("OUTRIGGER_"), "{text}");
    let (_, text) = said(&["wait", "--http", "nowhere"], &[]);
    assert!(text.contains("--http (OUTRIGGER_HTTP)"), "{text}");

    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "outrigger=nonsense").expect("it can be written");
    let path = file.path().to_str().expect("a plain path");
    let (code, text) = said(&["--upstream", "redis://localhost", "--log-level-file", path], &[]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("--log-level-file (OUTRIGGER_LOG_LEVEL_FILE): `outrigger=nonsense`"), "{text}");
    let (_, text) = said(&["--upstream", "redis://localhost", "--log", "outrigger=nonsense"], &[]);
    assert!(text.contains("--log (OUTRIGGER_LOG): `outrigger=nonsense`"), "{text}");
}
