//! What an operator may switch on and off, and what is remembered of a Redis that is away.

use crate::support::{Client, Kind, PATIENCE, Proxy, Scripted, Server, http, is_direct, wait_until};
use std::time::{Duration, Instant};

const NIL: &[u8] = b"$-1\r\n";

fn is_unavailable(reply: &[u8]) -> bool {
    reply.starts_with(b"-UNAVAILABLE ") && reply.ends_with(b", command not sent\r\n")
}

/// Asks until the answer is such.
fn wait_for_answer(client: &mut Client, request: &str, is_such: impl Fn(&[u8]) -> bool) {
    wait_until(&format!("{request} is answered as it should be"), PATIENCE, || is_such(&client.ask(request)));
}

#[test]
fn the_strict_port_gives_errors_where_the_other_gives_empty_answers() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--listen", "127.0.0.1:0", "--listen-strict", "127.0.0.1:0"]);
    });
    let [ordinary, strict] = proxy.addresses() else { panic!("it listens twice") };
    let (mut ordinary, mut strict) = (Client::connect(ordinary), Client::connect(strict));
    assert_eq!(ordinary.ask("SET k v"), b"+OK\r\n");
    assert_eq!(strict.ask("GET k"), b"$1\r\nv\r\n");
    for series in ["outrigger_downstream_connections", "outrigger_downstream_connections_total"] {
        let of = |listener: &str| proxy.metric(&format!("{series}{{listener=\"{listener}\"}}"));
        assert_eq!([of("ordinary"), of("strict")], [Some(1.0); 2], "{series}");
    }
    server.kill();
    wait_for_answer(&mut ordinary, "GET k", |reply| reply == NIL);
    wait_for_answer(&mut strict, "GET k", is_unavailable);
    assert_eq!(ordinary.ask("GET k"), NIL, "the other port is as it was");
    assert_eq!(strict.ask("PING"), b"+PONG\r\n");
}

#[test]
fn isolated_the_proxy_never_dials() {
    if is_direct() {
        return;
    }
    let upstream = Scripted::start();
    let proxy = Proxy::toward(&upstream.address(), |flags| {
        flags.args(["--breaker", "isolated"]);
    });
    let mut client = proxy.connect();
    let start = Instant::now();
    wait_until("two seconds have passed", PATIENCE, || {
        assert_eq!(client.ask("GET k"), NIL);
        assert!(is_unavailable(&client.ask("INCR n")));
        start.elapsed() > Duration::from_secs(2)
    });
    assert_eq!(upstream.dials(), 0);
}

#[test]
fn with_the_breaker_disabled_reads_are_degraded_all_the_same_and_service_returns() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--breaker", "disabled"]);
    });
    let mut client = proxy.connect();
    assert_eq!(client.ask("INCR n"), b":1\r\n");
    server.kill();
    let start = Instant::now();
    wait_until("two seconds have passed", PATIENCE, || {
        assert_eq!(client.ask("GET k"), NIL);
        start.elapsed() > Duration::from_secs(2)
    });
    assert_eq!(proxy.logged(r#""state":"open""#), 0);
    server.start_again();
    wait_for_answer(&mut client, "INCR n", |reply| reply == b":1\r\n");
}

#[test]
fn with_early_recovery_off_nobody_dials_while_the_breaker_is_open() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--breaker-early-recovery=false"]);
    });
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    server.kill();
    wait_until("the breaker is open", PATIENCE, || client.ask("GET k") == NIL && proxy.logged(r#""state":"open""#) > 0);
    let opened = Instant::now();
    server.start_again();
    wait_for_answer(&mut client, "SET k v", |reply| reply == b"+OK\r\n");
    // It stays open for a second at first, give or take a tenth.
    assert!(opened.elapsed() > Duration::from_millis(500), "served after {:?}", opened.elapsed());
    wait_until("the breaker is closed, as at the first contact", PATIENCE, || proxy.logged(r#""state":"closed""#) == 2);
}

#[test]
fn what_redis_said_of_itself_is_remembered_while_it_is_away() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Valkey91);
    let version = server.info("server").remove("valkey_version").expect("it says its version");
    let proxy = Proxy::before(&server);
    let (mut resp2, mut resp3) = (proxy.connect(), proxy.connect());
    resp3.hello3();
    let said = [resp2.ask("COMMAND"), resp3.ask("COMMAND")];
    assert!(said.iter().all(|list| list.len() > 10_000), "a list of all commands");
    // Its reply is kept behind the client's own.
    for client in [&mut resp2, &mut resp3] {
        assert_eq!(client.ask("GET k").first(), client.ask("GET k").first());
    }
    server.kill();
    wait_for_answer(&mut resp2, "INCR n", is_unavailable);
    assert!(resp2.ask("COMMAND") == said[0], "COMMAND in RESP2");
    assert!(resp3.ask("COMMAND") == said[1], "COMMAND in RESP3");
    for client in [&mut resp2, &mut resp3] {
        let told = String::from_utf8_lossy(&client.ask("INFO")).into_owned();
        assert!(told.contains(&version), "{told} says nothing of {version}");
    }
}

#[test]
fn isolated_at_the_start_says_so_and_nothing_has_failed() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "t").expect("it can be written");
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--breaker", "isolated", "--connect-timeout", "100ms"]).arg("--admin-token-file").arg(&token);
    });
    assert_eq!(proxy.logged("isolated from Redis from the start by --breaker isolated"), 1);
    let http = proxy.http();
    let start = Instant::now();
    wait_until("more than the connect timeout has passed", PATIENCE, || start.elapsed() > Duration::from_secs(1));
    assert_eq!(proxy.logged("not up yet"), 0);
    let answer = http::request(&http, "POST", "/breaker/release", &["Authorization: Bearer t"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = proxy.connect();
    wait_for_answer(&mut client, "SET k v", |reply| reply == b"+OK\r\n");
    wait_until("that is told", PATIENCE, || proxy.logged("Redis serves again") == 1);
    assert!(proxy.logged("the isolation is over, and Redis is looked for") >= 1);
}
