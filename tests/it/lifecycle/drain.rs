//! SIGTERM, one client at a time: who is closed when, and with which words.

use super::{last_words, stop};
use crate::support::{Client, Kind, PATIENCE, Proxy, Server, alone, be_patient, is_direct, wait_until, words};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Redis in two protocols.
const PROTOCOLS: [u8; 2] = [2, 3];

/// What a client asks and is left with when the process ends: it is told the same by a server that is shut down.
const LEFT: &[&str] = &[
    "PING",
    "SUBSCRIBE c",
    "PSUBSCRIBE c*",
    "BLPOP q 0",
    "BLMOVE q r LEFT LEFT 0",
    "BZPOPMIN z 0",
    "XREAD BLOCK 0 STREAMS s $",
    "BLPOP q 0;GET k",
    "WAIT 1 0",
    "CLIENT TRACKING ON;GET k",
    "SUBSCRIBE c;BLPOP q 0",
];

/// So many of them block.
const BLOCKED: usize = 6;

#[test]
fn who_waits_or_listens_is_told_what_a_server_tells_that_shuts_down() {
    if is_direct() {
        return;
    }
    let session = (Kind::Redis70, ["--pool-size", "100", "--max-clients", "50", "--mode", "session"]);
    let multiplex = ["--pool-size", "40", "--max-clients", "50", "--mode", "multiplex"];
    for (kind, mode) in Kind::ALL.map(|kind| (kind, multiplex)).into_iter().chain([session]) {
        let (server, direct) = (Server::start(kind), Server::start(kind));
        let mut proxy = Proxy::patient(&server, |flags| {
            flags.args(mode);
        });
        let mut proxied = left(|| proxy.connect(), &server);
        let mut expected = left(|| direct.connect(), &direct);
        proxy.tell(Signal::TERM);
        direct.connect().send(b"SHUTDOWN NOSAVE\r\n");
        for ((name, client), (_, other)) in proxied.iter_mut().zip(&mut expected) {
            assert_eq!(last_words(client), last_words(other), "{name} on {}", kind.name());
        }
        assert_eq!(proxy.ended().code(), Some(0));
    }
}

/// A client for each of [`LEFT`] in each protocol, whose requests the server has.
fn left(connect: impl Fn() -> Client, server: &Server) -> Vec<(String, Client)> {
    let mut clients = Vec::new();
    for protocol in PROTOCOLS {
        for requests in LEFT {
            // In RESP2 there is nothing but subscriptions for who has one.
            let requests =
                if protocol == 2 { requests.split(";BLPOP q 0").next().unwrap_or(requests) } else { requests };
            let mut client = connect();
            if protocol == 3 {
                client.hello3();
            }
            requests.split(';').for_each(|request| client.send(&words(request)));
            clients.push((format!("{requests} in RESP{protocol}"), client));
        }
    }
    // Of those in RESP3 one blocks although it is subscribed.
    let due = PROTOCOLS.len() * BLOCKED + 1;
    wait_until("all are blocked", PATIENCE, || server.info_number("clients", "blocked_clients") == due as u64);
    let mut other = server.connect();
    wait_until("all are subscribed", PATIENCE, || other.ask("PUBLISH cc 1") != b":0\r\n");
    clients
}

#[test]
fn a_transaction_is_finished_and_then_its_client_is_closed() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--max-sigterm-delay", "60s"]);
    });
    let (mut idle, mut queues, mut watches) = (proxy.connect(), proxy.connect(), proxy.connect());
    let mut half = proxy.connect();
    assert_eq!(idle.ask("PING"), b"+PONG\r\n");
    assert_eq!(queues.pipeline(&[words("MULTI"), words("INCR a")]), [b"+OK\r\n".to_vec(), b"+QUEUED\r\n".to_vec()]);
    assert_eq!(watches.ask("WATCH b"), b"+OK\r\n");
    let (begins, goes_on) = (&words("INCR c")[..9], &words("INCR c")[9..]);
    half.send(begins);
    half.wait_until_read();
    stop(&proxy);
    assert_eq!(last_words(&mut idle), "");
    wait_until("nobody is taken in any more", PATIENCE, || Client::try_connect(proxy.address()).is_err());
    assert_eq!(queues.ask("EXEC"), b"*1\r\n:1\r\n");
    assert_eq!(last_words(&mut queues), "");
    let expected = [b"+OK\r\n".to_vec(), b"+QUEUED\r\n".to_vec(), b"*1\r\n:1\r\n".to_vec()];
    assert_eq!(watches.pipeline(&[words("MULTI"), words("INCR b"), words("EXEC")]), expected);
    assert_eq!(last_words(&mut watches), "");
    half.send(goes_on);
    assert_eq!(half.reply(), b":1\r\n");
    assert_eq!(last_words(&mut half), "");
    assert_eq!(proxy.ended().code(), Some(0));
    assert_eq!(server.connect().ask("MGET a b c"), b"*3\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n");
}

#[test]
fn after_the_last_call_who_is_in_the_midst_of_something_is_closed_too() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--max-sigterm-delay", "4s"]);
    });
    let (mut queues, mut half) = (proxy.connect(), proxy.connect());
    assert_eq!(queues.ask("MULTI"), b"+OK\r\n");
    half.send(b"*2\r\n$4\r\nINCR\r\n");
    half.wait_until_read();
    stop(&proxy);
    assert_eq!(last_words(&mut queues), "");
    assert_eq!(last_words(&mut half), "");
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn alone_the_end_comes_within_the_limit() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::start(&server, |flags| {
        flags.args(["--max-sigterm-delay", "3s"]);
    });
    let (mut queues, mut waits) = (proxy.connect(), proxy.connect());
    assert_eq!(queues.ask("MULTI"), b"+OK\r\n");
    // It does not read, and has too much to read to be let go.
    server.connect().call(&[b"SET", b"big", "x".repeat(8 << 20).as_bytes()]);
    waits.send(&words("GET big").repeat(6));
    wait_until("all is asked for", PATIENCE, || server.info_number("stats", "keyspace_hits") == 6);
    let begun = Instant::now();
    stop(&proxy);
    assert_eq!(last_words(&mut queues), "");
    // Half of the limit is for answers.
    assert!(begun.elapsed() > Duration::from_millis(1400), "{:?}", begun.elapsed());
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
}

#[test]
fn until_the_least_delay_has_passed_everybody_is_served() {
    if is_direct() {
        return;
    }
    for (again, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let server = Server::start(Kind::Redis70);
        let mut proxy = Proxy::patient(&server, |flags| {
            flags.args(["--min-sigterm-delay", "5m", "--max-sigterm-delay", "10m"]);
        });
        let mut early = proxy.connect();
        stop(&proxy);
        let mut late = proxy.connect();
        assert_eq!(late.ask("SET k v"), b"+OK\r\n");
        assert_eq!(early.ask("GET k"), b"$1\r\nv\r\n");
        // Told twice, it does not wait.
        proxy.tell(again);
        assert_eq!(proxy.ended().code(), Some(code));
    }
}

#[test]
fn who_does_not_read_is_not_waited_for_longer_than_the_limit() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--max-sigterm-delay", "2s"]);
    });
    let mut client = proxy.connect();
    server.connect().call(&[b"SET", b"big", "x".repeat(8 << 20).as_bytes()]);
    client.send(&words("GET big").repeat(6));
    wait_until("all is asked for", PATIENCE, || server.info_number("stats", "keyspace_hits") == 6);
    stop(&proxy);
    wait_until("it is cut off", PATIENCE, || proxy.logged(r#""cut_off":1"#) == 1);
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn a_large_reply_that_is_under_way_arrives_whole() {
    if is_direct() {
        return;
    }
    const LARGE: usize = 40 << 20;
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--max-sigterm-delay", "60s"]);
    });
    server.connect().call(&[b"SET", b"big", "x".repeat(LARGE).as_bytes()]);
    let mut client = proxy.connect();
    client.send(&words("GET big"));
    while client.fill().expect("it comes") == 0 {}
    stop(&proxy);
    assert_eq!(client.reply().len(), LARGE + b"$41943040\r\n\r\n".len());
    assert_eq!(last_words(&mut client), "");
    assert_eq!(proxy.ended().code(), Some(0));
}

#[test]
fn a_server_that_hangs_or_is_gone_does_not_hold_up_the_end() {
    if is_direct() {
        return;
    }
    for hangs in [true, false] {
        let mut server = Server::start(Kind::Redis70);
        let mut proxy = Proxy::start(&server, |flags| {
            flags.args(["--request-timeout", "1s", "--max-sigterm-delay", "60s"]);
        });
        let (mut writes, mut blocks, mut hears) = (proxy.connect(), proxy.connect(), proxy.connect());
        blocks.send(&words("BLPOP q 0"));
        wait_until("it blocks", PATIENCE, || server.info_number("clients", "blocked_clients") == 1);
        hears.ask("SUBSCRIBE c");
        assert_eq!(writes.ask("INCR a"), b":1\r\n");
        if hangs {
            server.freeze();
            writes.send(&words("INCR a"));
            writes.wait_until_read();
        } else {
            server.kill();
        }
        let begun = Instant::now();
        stop(&proxy);
        let told = last_words(&mut writes);
        assert_eq!(told.starts_with("-INDETERMINATE"), hangs, "{told}");
        last_words(&mut blocks);
        last_words(&mut hears);
        assert_eq!(proxy.ended().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        if hangs {
            server.thaw();
        }
    }
}

#[test]
fn a_socket_file_is_gone_as_soon_as_nobody_is_taken_in() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("redis.sock");
    let mut proxy = Proxy::start(&server, |flags| {
        be_patient(flags);
        flags.args(["--max-sigterm-delay", "60s", "--listen", &format!("unix:{}", path.display())]);
    });
    let mut client = proxy.connect();
    assert_eq!(client.ask("MULTI"), b"+OK\r\n");
    stop(&proxy);
    wait_until("the file is gone", PATIENCE, || !path.exists());
    assert_eq!(client.pipeline(&[words("SET k v"), words("EXEC")])[1], b"*1\r\n+OK\r\n");
    assert_eq!(last_words(&mut client), "");
    assert_eq!(proxy.ended().code(), Some(0));
}
