//! `--mode session`: each client has a connection of its own, for its life.

use super::{PATIENCE, named};
use crate::support::{Kind, Proxy, Server, is_direct, wait_until, words};

fn proxy_before(server: &Server) -> Proxy {
    Proxy::start(server, |flags| {
        flags.args(["--mode", "session", "--workers", "1", "--max-clients", "20", "--pool-size", "22"]);
    })
}

#[test]
fn each_client_has_its_own_connection_as_long_as_it_stays() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = proxy_before(&server);
    let mut clients: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.ask(&format!("CLIENT SETNAME mine-{number}"));
        assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    }
    assert_eq!(named(&server, "name=mine-").len(), 20);
    for client in &mut clients {
        assert_eq!(client.ask("GET k"), b"$1\r\nv\r\n");
    }
    assert_eq!(named(&server, "name=mine-").len(), 20, "the same ones");
    clients.truncate(5);
    wait_until("theirs are closed", PATIENCE, || named(&server, "name=mine-").len() == 5);
    assert_eq!(clients[0].ask("RESET"), b"+RESET\r\n");
    wait_until("RESET closes one", PATIENCE, || named(&server, "name=mine-").len() == 4);
    assert_eq!(clients[0].ask("GET k"), b"$1\r\nv\r\n");
}

#[test]
fn everything_works_as_directly() {
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = proxy_before(&server);
        let (mut client, mut other) = (proxy.connect(), proxy.connect());
        for request in ["MULTI", "INCR n", "EXEC"] {
            other.send(&words(request));
        }
        assert_eq!([other.reply(), other.reply(), other.reply()].concat(), b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
        client.send(&["WATCH n", "MULTI", "INCR n", "EXEC", "SELECT 3", "GET n", "SELECT 0"].map(words).concat());
        let replies: Vec<u8> = (0..7).flat_map(|_| client.reply()).collect();
        assert_eq!(replies, b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n+OK\r\n$-1\r\n+OK\r\n");
        client.send(&words("BLPOP l 0"));
        wait_until("it is blocked", PATIENCE, || super::blocked(&server) == 1);
        assert_eq!(other.ask("RPUSH l x"), b":1\r\n");
        assert_eq!(client.reply(), b"*2\r\n$1\r\nl\r\n$1\r\nx\r\n");
        assert_eq!(client.ask("SUBSCRIBE c"), b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        assert_eq!(other.ask("PUBLISH c m"), b":1\r\n");
        assert_eq!(client.reply(), b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    }
}

#[test]
fn who_loses_its_connection_is_told_and_gets_another() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = proxy_before(&server);
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    assert_eq!(client.ask("MULTI"), b"+OK\r\n");
    assert_eq!(client.ask("SET k w"), b"+QUEUED\r\n");
    server.kill();
    let aborted = |reply: Vec<u8>| {
        assert!(reply.starts_with(b"-EXECABORT ") || reply.starts_with(b"-UNAVAILABLE "), "{}", reply.escape_ascii());
    };
    wait_until("its connection is gone", PATIENCE, || proxy.logged("lost a leased upstream connection") > 0);
    aborted(client.ask("EXEC"));
    assert_eq!(client.ask("GET k"), b"$-1\r\n", "as from an empty server");
    assert_eq!(client.ask("MULTI"), b"+OK\r\n");
    assert_eq!(client.ask("GET k"), b"+QUEUED\r\n");
    aborted(client.ask("EXEC"));
    server.start_again();
    wait_until("it is served again", PATIENCE, || client.ask("SET k x") == b"+OK\r\n");
    assert_eq!(client.ask("GET k"), b"$1\r\nx\r\n");
}
