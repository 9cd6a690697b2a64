//! The server goes away and comes back: clients are answered, kept, and served again.

use crate::support::{Client, Figures, Kind, Proxy, Server, is_direct, wait_until, words};
use std::time::{Duration, Instant};

/// The longest that service may take to return once the server answers.
const RECOVERY: Duration = Duration::from_secs(10);

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
            let reply = client.ask("INCR n");
            assert_eq!(reply[0], b'-', "{}", reply.escape_ascii());
            assert!(start.elapsed() < Duration::from_secs(5), "answered only after {:?}", start.elapsed());
            assert_eq!(client.ask("PING"), b"+PONG\r\n");
        }
        server.start_again();
        let start = Instant::now();
        for client in &mut clients {
            wait_until("the client is served again", RECOVERY, || client.ask("SET k v") == b"+OK\r\n");
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
    let proxy = Proxy::before(&server);
    let mut busy = proxy.connect();
    let mut behind = proxy.connect();
    assert_eq!(behind.ask("SET k v"), b"+OK\r\n");
    busy.send(&crate::support::command(&["EVAL", "while true do end", "0"]));
    wait_until_busy(&server);
    behind.send(&[words("INCR n"), words("ECHO local"), words("INCR n")].concat());
    server.kill();
    assert_eq!(busy.reply()[0], b'-');
    assert_eq!(behind.reply()[0], b'-');
    assert_eq!(behind.reply(), b"$5\r\nlocal\r\n");
    assert_eq!(behind.reply()[0], b'-');
    server.start_again();
    for client in [&mut busy, &mut behind] {
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
    assert_eq!(client.ask("INCR n")[0], b'-');
    server.start_again();
    wait_until("the client is served", RECOVERY, || client.ask("SET k v") == b"+OK\r\n");
}

/// Waits until the server runs a script and answers nobody.
fn wait_until_busy(server: &Server) {
    let mut admin: Client = server.connect();
    admin.set_patience(Duration::from_millis(200)).expect("a time limit can be set");
    wait_until("the script runs", Duration::from_secs(4), || admin.exchange(b"PING\r\n").is_err());
}
