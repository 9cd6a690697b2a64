//! What has to reach a server that answers nothing else, because it runs a script: SCRIPT KILL, FUNCTION KILL, SHUTDOWN.

use super::PATIENCE;
use crate::support::{Client, Kind, Proxy, Server, command, is_direct, wait_until, words};

/// Gives a script a moment, then says BUSY.
const QUICKLY_BUSY: &[&str] = &["--lua-time-limit", "50"];

/// A client whose script never ends.
fn stuck(proxy: &Proxy, server: &Server, request: &[&[u8]]) -> Client {
    let mut client = proxy.connect();
    client.send(&command(request));
    wait_until("the server is busy", PATIENCE, || server.connect().ask("PING").starts_with(b"-BUSY "));
    client
}

#[test]
fn a_script_that_never_ends_is_killed() {
    for kind in Kind::ALL {
        let server = Server::start_with(kind, QUICKLY_BUSY);
        // All connections may be in use, and all may be stuck.
        let proxy = Proxy::start(&server, |flags| {
            flags.args(["--workers", "1", "--pool-size", "4"]);
        });
        let mut killer = proxy.connect();
        assert!(killer.ask("SCRIPT KILL").starts_with(b"-NOTBUSY "));
        let mut client = stuck(&proxy, &server, &[b"EVAL", b"while true do end", b"0"]);
        let mut others: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
        for other in &mut others {
            other.send(&words("WATCH k"));
        }
        // The server says BUSY until the breaker has heard it often enough.
        wait_until("the circuit is open", PATIENCE, || {
            let reply = killer.ask("INCR k");
            is_direct() || reply.starts_with(b"-UNAVAILABLE circuit open")
        });
        assert_eq!(killer.ask("SCRIPT KILL"), b"+OK\r\n", "{kind:?}");
        assert!(client.reply().starts_with(b"-"), "{kind:?}");
        wait_until("everybody is served again", PATIENCE, || killer.ask("INCR k").starts_with(b":"));
        if !is_direct() {
            let kills = |outcome: &str| {
                proxy.metric(&format!("outrigger_commands_total{{command=\"script\",outcome=\"{outcome}\"}}"))
            };
            assert_eq!([kills("ok"), kills("error_reply"), kills("local")], [Some(1.0), Some(1.0), None], "{kind:?}");
        }
    }
}

#[test]
fn a_function_that_never_ends_is_killed() {
    for kind in [Kind::Redis70, Kind::Valkey91] {
        let server = Server::start_with(kind, QUICKLY_BUSY);
        let proxy = Proxy::before(&server);
        let mut killer = proxy.connect();
        killer.hello3();
        let library = "#!lua name=l\nredis.register_function('f', function() while true do end end)";
        assert_eq!(killer.call(&[b"FUNCTION", b"LOAD", library.as_bytes()]), b"$1\r\nl\r\n");
        let mut client = stuck(&proxy, &server, &[b"FCALL", b"f", b"0"]);
        killer.send(&[words("FUNCTION KILL"), words("PING")].concat());
        assert_eq!(killer.reply(), b"+OK\r\n");
        assert_eq!(killer.reply(), b"+PONG\r\n", "in order");
        assert!(client.reply().starts_with(b"-"));
    }
}

#[test]
fn shutdown_looks_as_the_server_makes_it_look() {
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::before(&server);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.ask("SET k v"), b"+OK\r\n");
    assert!(client.ask("SHUTDOWN NONSENSE").starts_with(b"-ERR "));
    client.send(&words("SHUTDOWN NOSAVE"));
    assert_eq!(client.try_reply().expect("no error"), None, "it ends without a word");
    if is_direct() {
        return;
    }
    for (outcome, count) in [("ok", Some(1.0)), ("error_reply", Some(1.0)), ("local", None)] {
        let series = format!("outrigger_commands_total{{command=\"shutdown\",outcome=\"{outcome}\"}}");
        assert_eq!(proxy.metric(&series), count, "{outcome}");
    }
    wait_until("its neighbour reads as from an empty server", PATIENCE, || other.ask("GET k") == b"$-1\r\n");
    assert!(proxy.connect().ask("SCRIPT KILL").starts_with(b"-UNAVAILABLE "));
    proxy.assert_running();
}

#[test]
fn who_is_kept_apart_sends_nothing() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--breaker", "isolated"]);
    });
    assert!(proxy.connect().ask("SHUTDOWN NOSAVE").starts_with(b"-UNAVAILABLE circuit open"));
    assert_eq!(server.connect().ask("PING"), b"+PONG\r\n");
}
