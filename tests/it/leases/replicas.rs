//! WAIT: how many replicas have what its client wrote.

use super::{PATIENCE, assert_none_is_lost, one_worker};
use crate::support::{Client, Kind, Proxy, Server, is_direct, wait_until, words};
use std::time::{Duration, Instant};

/// A replica of `server` that is in step with it.
fn replica_of(server: &Server, kind: Kind) -> Server {
    let address = server.address();
    let (host, port) = address.split_once(':').expect("host and port");
    let replica = Server::start_with(kind, &["--replicaof", host, port]);
    wait_until("the replica is in step", PATIENCE, || {
        replica.info("replication").get("master_link_status").is_some_and(|status| status == "up")
            && server.info_number("replication", "connected_slaves") == 1
            && server.info("replication").get("slave0").is_some_and(|slave| slave.contains("state=online"))
    });
    replica
}

/// Writes and waits for one replica to have it; what WAIT said, and how long it took.
fn write_and_wait(client: &mut Client, millis: u32) -> (String, Duration) {
    assert_eq!(client.ask("INCR written").first(), Some(&b':'));
    let start = Instant::now();
    (client.frame(&format!("WAIT 1 {millis}")).as_text(), start.elapsed())
}

#[test]
fn wait_counts_the_replicas_that_have_it() {
    for kind in Kind::ALL {
        let server = Server::start_with(kind, &["--repl-diskless-sync-delay", "0"]);
        let replica = replica_of(&server, kind);
        let proxy = one_worker(&server);
        let mut client = proxy.connect();
        for _ in 0..5 {
            assert_eq!(write_and_wait(&mut client, 10_000).0, "1", "{}", kind.name());
        }
        // What others do on the shared connections makes no difference.
        replica.freeze();
        let (count, took) = write_and_wait(&mut client, 300);
        assert_eq!(count, "0", "{}: the replica is frozen", kind.name());
        assert!(took >= Duration::from_millis(250), "{took:?}");
        replica.thaw();
        assert_eq!(write_and_wait(&mut client, 10_000).0, "1", "{}: it goes on", kind.name());
        assert_none_is_lost(&proxy, &server);
    }
}

#[test]
fn wait_says_that_nobody_knows_once_a_connection_was_lost() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET k 1"), b"+OK\r\n");
    assert_eq!(server.connect().ask("CLIENT KILL TYPE normal SKIPME yes").first(), Some(&b':'));
    wait_until("it is noticed", PATIENCE, || {
        proxy.logged("the upstream ended an idle connection") + proxy.logged("lost an upstream connection") > 0
    });
    let reply = client.ask("WAIT 0 100");
    assert!(reply.starts_with(b"-INDETERMINATE "), "{}", reply.escape_ascii());
    let waits = "outrigger_commands_total{command=\"wait\",outcome=\"indeterminate\"}";
    assert_eq!(proxy.metric(waits), Some(1.0));
    wait_until("it is connected again", PATIENCE, || client.ask("SET k 2") == b"+OK\r\n");
    assert_eq!(client.ask("WAIT 0 100"), b":0\r\n");
}

/// Its connection was a lane's: those who still wait there are answered, whatever becomes of who waits for replicas.
#[test]
fn who_dies_while_it_waits_for_replicas_takes_nobody_with_it() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let (mut waiting, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(waiting.ask("SET k v"), b"+OK\r\n");
    assert_eq!(other.ask("GET k"), b"$1\r\nv\r\n");
    server.freeze();
    other.send(&words("GET k"));
    other.wait_until_read();
    waiting.send(&words("WAIT 1 0"));
    waiting.wait_until_read();
    waiting.reset();
    server.thaw();
    let reply = other.reply();
    assert!(reply == b"$1\r\nv\r\n" || reply == b"$-1\r\n", "{}", reply.escape_ascii());
    wait_until("it is served again", PATIENCE, || other.ask("GET k") == b"$1\r\nv\r\n");
}
