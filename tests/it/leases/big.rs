//! Requests over a megabyte: each takes a connection of its own, and nobody waits behind it.

use super::{PATIENCE, assert_none_is_lost, one_worker};
use crate::support::{Kind, Proxy, Server, is_direct, wait_until};
use std::thread;

const LARGE: usize = 3 << 20;

#[test]
fn what_is_large_arrives_whole_beside_everything_else() {
    let server = Server::start(Kind::Redis70);
    // Two leases for eight clients.
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--workers", "1", "--pool-size", "4"]);
    });
    thread::scope(|scope| {
        for number in 0..8_u8 {
            let mut client = proxy.connect();
            scope.spawn(move || {
                if number % 2 == 1 {
                    client.hello3();
                }
                let key = format!("large-{number}");
                let value = vec![b'a' + number; LARGE + usize::from(number)];
                for round in 0..5 {
                    assert!(client.call(&[b"INCR", b"rounds"]).starts_with(b":"), "round {round}");
                    wait_until("there is a connection for it", PATIENCE, || {
                        let reply = client.call(&[b"SET", key.as_bytes(), &value]);
                        assert!(reply == b"+OK\r\n" || reply.starts_with(b"-UNAVAILABLE all connections"));
                        reply == b"+OK\r\n"
                    });
                    assert_eq!(client.frame(&format!("GET {key}")).text, value);
                }
            });
        }
    });
    assert_eq!(server.connect().ask("GET rounds"), b"$2\r\n40\r\n");
}

#[test]
fn its_connection_is_given_back() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let value = vec![b'x'; LARGE];
    let mut clients: Vec<_> = (0..30).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.call(&[b"SET", b"k", &value]), b"+OK\r\n");
    }
    let ours = super::named(&server, "outrigger:").len();
    assert!(ours <= 3 || is_direct(), "{ours} connections for one at a time");
    assert_none_is_lost(&proxy, &server);
}

/// It is answered like any other read.
#[test]
fn a_large_read_is_answered_while_the_server_is_away() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut client = proxy.connect();
    let keys: Vec<String> = (0..60_000).map(|number| format!("a-key-of-some-length-{number}")).collect();
    let request: Vec<&[u8]> = [b"MGET".as_slice()].into_iter().chain(keys.iter().map(String::as_bytes)).collect();
    let nothing = [b"*60000\r\n".as_slice(), &b"$-1\r\n".repeat(keys.len())].concat();
    assert_eq!(client.call(&request), nothing);
    server.kill();
    assert!(client.call(&request) == nothing && client.call(&request) == nothing);
}
