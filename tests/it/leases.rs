//! Connections that clients have for themselves: that they get one when they need it, keep it no longer, and that nobody
//! else pays for it.

mod big;
mod blocking;
mod control;
mod dedicated;
mod ghosts;
mod leaks;
mod replicas;
mod tracking;
mod watch;

use crate::support::{Client, Kind, Proxy, Server, is_direct, others, wait_until};
use std::time::Duration;

/// Longer than anything here may take on a busy machine, and far less than for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// The leases of a pool of 20 and one worker, and those of them that may block.
const LEASES: usize = 18;
const BLOCKING: usize = 14;

/// One worker, so that the figures above hold.
fn one_worker(server: &Server) -> Proxy {
    Proxy::start(server, |flags| {
        flags.args(["--workers", "1"]);
    })
}

/// Clients that the server says are blocked.
fn blocked(server: &Server) -> usize {
    usize::try_from(server.info_number("clients", "blocked_clients")).expect("a small number")
}

fn wait_until_blocked(server: &Server, count: usize) {
    wait_until("so many clients are blocked", PATIENCE, || blocked(server) == count);
}

/// So many clients that hold a lease each, if there are as many.
fn watching(proxy: &Proxy, count: usize) -> Vec<Client> {
    let watching = (0..count).map(|_| {
        let mut client = proxy.connect();
        assert_eq!(client.ask("WATCH w"), b"+OK\r\n");
        client
    });
    watching.collect()
}

/// All leases can be had at once, so none is held by anybody who is gone; and the server knows of no more connections than
/// there may be.
fn assert_none_is_lost(proxy: &Proxy, server: &Server) {
    if is_direct() {
        return;
    }
    drop(watching(proxy, LEASES));
    // Those of the test itself have no name.
    let connections: Vec<String> =
        others(&mut server.connect()).into_iter().filter(|line| !line.contains(" name= ")).collect();
    assert!(connections.len() <= 20, "{} connections:\n{}", connections.len(), connections.join("\n"));
}

/// What the server says of the connections whose name contains this.
fn named(server: &Server, name: &str) -> Vec<String> {
    others(&mut server.connect()).into_iter().filter(|line| line.contains(name)).collect()
}

#[test]
fn a_client_sees_all_commands_until_it_says_reset() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let (mut monitor, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(monitor.ask("MONITOR"), b"+OK\r\n");
    let large = "x".repeat(100_000);
    for value in ["1", &large, "2"] {
        assert_eq!(other.ask(&format!("SET seen {value}")), b"+OK\r\n");
        let mut line = Vec::new();
        // The proxy's own handshakes are seen as well.
        wait_until("it is seen", PATIENCE, || {
            line = monitor.reply();
            line.windows(12).any(|words| words == b"\"SET\" \"seen\"")
        });
        assert!(
            line.starts_with(b"+") && line.ends_with(format!("\"{value}\"\r\n").as_bytes()),
            "{}",
            line.escape_ascii()
        );
    }
    monitor.send(b"RESET\r\n");
    // What others do in this moment may come before.
    wait_until("it is reset", PATIENCE, || monitor.reply() == b"+RESET\r\n");
    assert_eq!(other.ask("SET seen 3"), b"+OK\r\n");
    assert_eq!(monitor.ask("GET seen"), b"$1\r\n3\r\n");
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn a_monitor_whose_connection_is_lost_is_closed() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut monitor = proxy.connect();
    assert_eq!(monitor.ask("SET k 1"), b"+OK\r\n");
    assert_eq!(monitor.ask("MONITOR"), b"+OK\r\n");
    assert_eq!(server.connect().ask("CLIENT KILL TYPE normal SKIPME yes").first(), Some(&b':'));
    assert!(monitor.rest_however_closed().is_ok());
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn what_redis_does_not_know_keeps_no_connection() {
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let (proxy, mut direct) = (one_worker(&server), server.connect());
        let mut clients: Vec<_> = (0..2 * LEASES).map(|_| proxy.connect()).collect();
        for request in ["NOSUCH a b", "CLIENT NOSUCH x", "SCRIPT NOSUCH"] {
            let expected = direct.ask(request);
            for client in &mut clients {
                assert_eq!(client.ask(request), expected, "{request} on {}", kind.name());
            }
        }
        assert_none_is_lost(&proxy, &server);
    }
}

#[test]
fn keys_that_are_tracked_are_told_of_and_other_replies_come_in_order() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let (mut tracker, mut other) = (proxy.connect(), proxy.connect());
    tracker.hello3();
    assert_eq!(tracker.ask("CLIENT TRACKING ON"), b"+OK\r\n");
    for round in 0..20 {
        let value = format!("$1\r\n{}\r\n", round % 10);
        assert_eq!(other.ask(&format!("SET tracked {}", round % 10)), b"+OK\r\n");
        assert_eq!(tracker.ask("GET tracked"), value.as_bytes());
        assert_eq!(other.ask("SET tracked changed"), b"+OK\r\n");
        assert_eq!(tracker.reply(), b">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\ntracked\r\n");
        assert_eq!(tracker.ask("PING"), b"+PONG\r\n");
    }
    tracker.select(3);
    assert_eq!(tracker.ask("SET here 1"), b"+OK\r\n");
    assert_eq!(other.ask("GET here"), b"$-1\r\n");
    drop(tracker);
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn the_server_shows_a_lease_by_its_clients_name() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut worker = proxy.connect();
    assert_eq!(worker.ask("CLIENT SETNAME worker-1"), b"+OK\r\n");
    worker.send(b"BLPOP jobs 0\r\n");
    wait_until_blocked(&server, 1);
    assert_eq!(named(&server, "name=worker-1 ").len(), 1);
    assert_eq!(server.connect().ask("RPUSH jobs 1"), b":1\r\n");
    assert_eq!(worker.reply(), b"*2\r\n$4\r\njobs\r\n$1\r\n1\r\n");
    if is_direct() {
        return;
    }
    wait_until("the name is gone with the lease", PATIENCE, || named(&server, "name=worker-1 ").is_empty());
    let mut other = proxy.connect();
    other.send(b"BLPOP jobs 0\r\n");
    wait_until_blocked(&server, 1);
    assert_eq!(named(&server, "name=worker-1 ").len(), 0);
}

#[test]
fn what_is_for_replicas_is_refused() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut client = proxy.connect();
    for request in ["SYNC", "PSYNC ? -1", "REPLCONF listening-port 1"] {
        let reply = String::from_utf8(client.ask(request)).expect("text");
        assert!(reply.starts_with("-ERR '") && reply.contains("is not for clients"), "{reply}");
    }
}
