//! The server goes away and comes back: clients are answered, kept, and served again.

use crate::support::{Figures, Kind, Proxy, Server, is_direct, wait_until, words};
use std::time::{Duration, Instant};

/// The longest that service may take to return once the server answers.
const RECOVERY: Duration = Duration::from_secs(10);

/// The longest that an answer may take where dials are refused at once, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

const NIL: &[u8] = b"$-1\r\n";

#[test]
fn clients_outlive_the_server() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let mut clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(&format!("SET k{number} v")), b"+OK\r\n");
    }
    for round in 0..2 {
        server.kill();
        for client in &mut clients {
            let start = Instant::now();
            let replies = ["GET k", "INCR n", "GET k", "INCR n", "PING"].map(|request| client.ask(request));
            assert!(start.elapsed() < AT_ONCE, "answered only after {:?}", start.elapsed());
            // The server is gone, and so is the connection when the first read was answered: nothing was sent.
            assert_eq!(replies[0], NIL);
            assert_not_sent(&replies[1]);
            assert_eq!(replies[2], NIL);
            assert_not_sent(&replies[3]);
            assert_eq!(replies[4], b"+PONG\r\n");
        }
        server.start_again();
        let start = Instant::now();
        for client in &mut clients {
            wait_until("the client is served again", RECOVERY, || {
                let reply = client.ask("SET k v");
                assert!(reply == b"+OK\r\n" || is_not_sent(&reply), "{}", reply.escape_ascii());
                reply == b"+OK\r\n"
            });
            assert_eq!(client.ask("GET k"), b"$1\r\nv\r\n");
        }
        let mut figures = Figures::of(&format!("outage {round}"));
        figures.add("recovery_ms", start.elapsed().as_millis());
        figures.add("connections_since", server.info_number("stats", "total_connections_received"));
    }
    proxy.assert_running();
}

#[test]
fn requests_in_flight_are_answered_when_the_server_dies() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1"]);
    });
    let mut busy = proxy.connect();
    let mut behind = proxy.connect();
    let mut reading = proxy.connect();
    assert_eq!(behind.ask("SET k v"), b"+OK\r\n");
    busy.send(&crate::support::command(&["EVAL", "while true do end", "0"]));
    server.wait_until_busy();
    behind.send(&[words("INCR n"), words("ECHO local"), words("INCR n")].concat());
    reading.send(&[words("GET k"), words("ECHO local"), words("GET k")].concat());
    // When the one worker has answered the second of these, it has sent what it found readable before the first.
    let mut bystander = proxy.connect();
    for _ in 0..2 {
        assert_eq!(bystander.ask("PING"), b"+PONG\r\n");
    }
    server.kill();
    assert_may_have_run(&busy.reply());
    assert_may_have_run(&behind.reply());
    assert_eq!(behind.reply(), b"$5\r\nlocal\r\n");
    assert_may_have_run(&behind.reply());
    assert_eq!(reading.reply(), NIL);
    assert_eq!(reading.reply(), b"$5\r\nlocal\r\n");
    assert_eq!(reading.reply(), NIL);
    server.start_again();
    for client in [&mut busy, &mut behind, &mut reading] {
        wait_until("the client is served again", RECOVERY, || client.ask("SET k v") == b"+OK\r\n");
    }
}

#[test]
fn a_proxy_that_starts_before_its_server_answers() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Valkey91);
    server.kill();
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    assert_eq!(client.ask("PING"), b"+PONG\r\n");
    assert_eq!(client.ask("GET k"), NIL);
    assert_not_sent(&client.ask("INCR n"));
    server.start_again();
    wait_until("the client is served", RECOVERY, || client.ask("SET k v") == b"+OK\r\n");
    assert_eq!(client.ask("INCR n"), b":1\r\n", "what was not sent has not run");
}

fn is_not_sent(reply: &[u8]) -> bool {
    reply.starts_with(b"-UNAVAILABLE ") && reply.ends_with(b", command not sent\r\n")
}

fn assert_not_sent(reply: &[u8]) {
    assert!(is_not_sent(reply), "{}", reply.escape_ascii());
}

fn assert_may_have_run(reply: &[u8]) {
    let is_so = reply.starts_with(b"-INDETERMINATE ") && reply.ends_with(b", the command may have run\r\n");
    assert!(is_so, "{}", reply.escape_ascii());
}
