//! Starting: what cannot start says so in one line, and leaves nothing behind; what can wait is waited for by nobody.

use crate::support::{Kind, PATIENCE, Proxy, Server, is_direct, wait_until, words};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Starts a proxy that cannot, and returns what it complained of; it must be one line, and the exit code 1.
fn complaint(server: &Server, options: impl FnOnce(&mut Command)) -> String {
    let refusal = Proxy::try_start(server, options).err().expect("it cannot start");
    assert_eq!(refusal.status.code(), Some(1), "{}", refusal.log);
    // What had started meanwhile may have said so.
    let complaints: Vec<_> = refusal.log.lines().filter(|line| !line.contains(r#""level":"INFO""#)).collect();
    assert_eq!(complaints.len(), 1, "{}", refusal.log);
    complaints.concat()
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
}

#[test]
fn what_is_critical_and_fails_says_in_one_line_how_to_mend_it() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("redis.sock");
    let unix = format!("unix:{}", socket.display());
    let said = complaint(&server, |flags| {
        flags.args(["--listen", &unix, "--listen", &server.address()]);
    });
    assert_says(&said, &[&server.address(), "Address already in use", "choose another", "--listen (OUTRIGGER_LISTEN)"]);
    assert!(!socket.exists(), "what was bound before is undone");
    let said = complaint(&server, |flags| {
        flags.args(["--listen-strict", &server.address()]);
    });
    assert_says(&said, &["--listen-strict (OUTRIGGER_LISTEN_STRICT)"]);
    let said = complaint(&server, |flags| {
        flags.args(["--listen", "unix:/nonexistent/redis.sock"]);
    });
    assert_says(&said, &["unix:/nonexistent/redis.sock", "No such file", "--listen (OUTRIGGER_LISTEN)"]);
    let said = complaint(&server, |flags| {
        flags.args(["--http", &server.address()]);
    });
    assert_says(&said, &[&server.address(), "Address already in use", "--http (OUTRIGGER_HTTP)"]);
    let said = complaint(&server, |flags| {
        flags.args(["--admin-token-file", "/nonexistent/token"]);
    });
    assert_says(&said, &["/nonexistent/token", "No such file", "--admin-token-file (OUTRIGGER_ADMIN_TOKEN_FILE)"]);
}

#[test]
fn secrets_that_cannot_be_had_are_named() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let empty = folder.path().join("empty");
    fs::write(&empty, "\n").expect("it can be written");
    let missing = folder.path().join("missing");
    // As silent as the mount of a server that is gone.
    let silent = folder.path().join("silent");
    assert!(Command::new("mkfifo").arg(&silent).status().is_ok_and(|made| made.success()), "a pipe can be made");
    for (flag, variable) in [
        ("--admin-token-file", "OUTRIGGER_ADMIN_TOKEN_FILE"),
        ("--password-file", "OUTRIGGER_PASSWORD_FILE"),
        ("--upstream-password-file", "OUTRIGGER_UPSTREAM_PASSWORD_FILE"),
    ] {
        let with = |file: &Path| {
            complaint(&server, |flags| {
                flags.arg(flag).arg(file);
            })
        };
        assert_says(&with(&missing), &[flag, variable, "cannot read", "missing", "name a file"]);
        assert_says(&with(&empty), &[flag, variable, "is empty", "write the secret"]);
        assert_says(&with(&silent), &[flag, variable, "cannot read", "silent", "no answer within 5s"]);
    }
    let said = complaint(&server, |flags| {
        flags.arg("--log-level-file").arg(&missing);
    });
    assert_says(&said, &["--log-level-file (OUTRIGGER_LOG_LEVEL_FILE)", "cannot read", "name a file"]);
}

#[test]
fn without_redis_it_serves_and_says_when_redis_is_there() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    server.kill();
    let mut proxy = Proxy::start(&server, |flags| {
        flags.args(["--connect-timeout", "200ms"]);
    });
    let mut client = proxy.connect();
    assert_eq!(client.ask("PING"), b"+PONG\r\n");
    wait_until("it has started", PATIENCE, || proxy.logged(r#""message":"started""#) == 1);
    assert_eq!(proxy.logged("upstream not yet"), 1);
    wait_until("that is told", PATIENCE, || proxy.logged("not up yet") == 1);
    server.start_again();
    wait_until("Redis is reached", PATIENCE, || proxy.logged(r#""message":"up at last","component":"upstream""#) == 1);
    wait_until("it serves", PATIENCE, || client.ask("SET k v") == b"+OK\r\n");
    proxy.tell(Signal::INT);
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn the_start_is_told_of_with_what_it_took() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    wait_until("it has started", PATIENCE, || proxy.logged(r#""message":"started""#) == 1);
    for component in ["config ", "secrets ", "listeners ", "workers ", "accept "] {
        assert_eq!(proxy.logged(component), 1, "{component}");
    }
    assert_eq!(proxy.connect().pipeline(&[words("PING")]), [b"+PONG\r\n"]);
}
