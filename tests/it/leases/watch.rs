//! Transactions that watch keys.

use super::{LEASES, PATIENCE, assert_none_is_lost, one_worker, watching};
use crate::support::{Client, Kind, Server, is_direct, wait_until, words};
use std::thread;
use std::time::{Duration, Instant};

/// Adds 1 to a counter the way clients of Redis do it; tries until it succeeds.
fn increment(client: &mut Client) {
    loop {
        // On a busy machine somebody may wait for a second in vain, and the transaction after that is refused.
        if client.ask("WATCH counter") != b"+OK\r\n" {
            continue;
        }
        let seen = client.frame("GET counter").as_text().parse::<u64>().unwrap_or(0);
        assert_eq!(client.ask("MULTI"), b"+OK\r\n");
        assert_eq!(client.ask(&format!("SET counter {}", seen + 1)), b"+QUEUED\r\n");
        match client.ask("EXEC").as_slice() {
            b"*1\r\n+OK\r\n" => return,
            b"*-1\r\n" | b"_\r\n" => {}
            aborted if aborted.starts_with(b"-EXECABORT ") => {}
            other => panic!("EXEC was answered {}", other.escape_ascii()),
        }
    }
}

#[test]
fn no_increment_of_many_clients_is_lost() {
    const CLIENTS: usize = 40;
    const EACH: usize = 10;
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = one_worker(&server);
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let mut client = proxy.connect();
                scope.spawn(move || {
                    if number % 2 == 1 {
                        client.hello3();
                    }
                    (0..EACH).for_each(|_| increment(&mut client));
                });
            }
        });
        assert_eq!(server.connect().frame("GET counter").as_text(), (CLIENTS * EACH).to_string());
        assert_none_is_lost(&proxy, &server);
    }
}

#[test]
fn who_finds_no_lease_is_told_after_a_second_and_served_when_there_is_one() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut holders = watching(&proxy, LEASES);
    let mut late = proxy.connect();
    let start = Instant::now();
    let reply = late.ask("WATCH w");
    assert!(reply.starts_with(b"-UNAVAILABLE "), "{}", reply.escape_ascii());
    assert!((Duration::from_millis(800)..Duration::from_secs(4)).contains(&start.elapsed()), "{:?}", start.elapsed());
    // Others are served meanwhile, and it is when somebody leaves.
    assert_eq!(late.ask("SET other 1"), b"+OK\r\n");
    late.send(b"WATCH w\r\n");
    holders.pop();
    assert_eq!(late.reply(), b"+OK\r\n");
}

#[test]
fn what_ends_a_watch_gives_the_lease_back() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    // More clients than leases, none of which leaves.
    let mut clients: Vec<_> = (0..2 * LEASES).map(|_| proxy.connect()).collect();
    let ends: [&[&str]; 6] = [
        &["UNWATCH"],
        &["MULTI", "EXEC"],
        &["MULTI", "DISCARD x", "DISCARD"],
        &["RESET"],
        &["MULTI", "NOSUCH", "EXEC"],
        &["MULTI", "PING", "CLIENT GETNAME", "EXEC"],
    ];
    for end in ends {
        for client in &mut clients {
            assert_eq!(client.ask("WATCH w"), b"+OK\r\n");
            end.iter().for_each(|request| drop(client.ask(request)));
        }
    }
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn who_leaves_with_a_transaction_open_leaves_nothing_behind() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    for round in 0..30 {
        let mut client = proxy.connect();
        assert_eq!(client.ask("WATCH w"), b"+OK\r\n");
        if round % 3 > 0 {
            assert_eq!(client.ask("MULTI"), b"+OK\r\n");
            assert_eq!(client.ask("SET w left"), b"+QUEUED\r\n");
        }
        if round % 2 == 0 {
            client.reset();
        }
    }
    assert_eq!(proxy.connect().ask("GET w"), b"$-1\r\n");
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn a_client_goes_on_in_the_database_that_its_transaction_has_chosen() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let (mut moved, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.ask("SET other 1"), b"+OK\r\n");
    let replies = moved.pipeline(&["MULTI", "SELECT 3", "SET k 3", "EXEC"].map(words));
    assert_eq!(replies[3], b"*2\r\n+OK\r\n+OK\r\n");
    assert_eq!(moved.ask("GET k"), b"$1\r\n3\r\n");
    assert_eq!(other.ask("GET k"), b"$-1\r\n");
    assert_eq!(server.connect().ask("CLIENT KILL TYPE normal SKIPME yes").first(), Some(&b':'));
    wait_until("the others go on", PATIENCE, || other.ask("GET other") == b"$1\r\n1\r\n");
    assert_eq!(moved.ask("GET k"), b"$1\r\n3\r\n");
    assert_eq!(moved.ask("SELECT 0"), b"+OK\r\n");
    assert_eq!(moved.ask("GET k"), b"$-1\r\n");
    // Nothing of it is left on a connection that others use.
    assert_eq!(moved.pipeline(&["MULTI", "SELECT 3", "CLIENT SETNAME it", "EXEC"].map(words)).len(), 4);
    for client in [&mut other, &mut moved] {
        let database = client.frame("CLIENT INFO").as_text();
        let replies = client.pipeline(&["WATCH k", "GET k", "UNWATCH"].map(words));
        let expected: &[u8] = if database.contains(" db=3 ") { b"$1\r\n3\r\n" } else { b"$-1\r\n" };
        assert_eq!(replies[1], expected, "{database}");
    }
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn a_watch_whose_connection_is_lost_ends_in_execabort() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let kill = || assert_eq!(server.connect().ask("CLIENT KILL TYPE normal SKIPME yes").first(), Some(&b':'));
    let mut client = proxy.connect();
    let (abort, ok) = (b"-EXECABORT Transaction discarded because of previous errors.\r\n", b"+OK\r\n");
    assert_eq!(client.ask("SET other 1"), ok);
    assert_eq!(client.ask("WATCH w"), ok);
    kill();
    wait_until("it is noticed", PATIENCE, || proxy.logged("lost a leased upstream connection") == 1);
    assert_eq!(client.ask("MULTI"), ok);
    assert_eq!(client.ask("SET w unwatched"), b"+QUEUED\r\n");
    assert_eq!(client.ask("EXEC"), abort);
    // And in the middle of it.
    assert_eq!(client.ask("WATCH w"), ok);
    assert_eq!(client.ask("MULTI"), ok);
    assert_eq!(client.ask("SET w unwatched"), b"+QUEUED\r\n");
    kill();
    wait_until("it is noticed", PATIENCE, || proxy.logged("lost a leased upstream connection") == 2);
    client.ask("SET w unwatched");
    assert_eq!(client.ask("EXEC"), abort);
    assert_eq!(client.ask("GET w"), b"$-1\r\n");
    // The next one is as ever, as soon as there is a connection.
    wait_until("it is served", PATIENCE, || client.ask("SET other 1") == ok);
    increment(&mut client);
    assert_none_is_lost(&proxy, &server);
}

/// After a WATCH that was refused the next transaction is, also if it comes in one piece with another WATCH.
#[test]
fn a_refused_watch_ends_a_pipelined_transaction_in_order() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    for ends in ["EXEC", "DISCARD"] {
        let held = watching(&proxy, LEASES);
        let mut client = proxy.connect();
        assert!(client.ask("WATCH a").starts_with(b"-UNAVAILABLE "));
        drop(held);
        wait_until("there are leases again", PATIENCE, || proxy.connect().ask("WATCH a") == b"+OK\r\n");
        client.send(&["WATCH b", "MULTI", "SET k v", ends, "GET k", "PING"].map(words).concat());
        assert_eq!(client.reply(), b"+OK\r\n");
        assert_eq!(client.reply(), b"+OK\r\n");
        assert_eq!(client.reply(), b"+QUEUED\r\n");
        let end = client.reply();
        assert!(if ends == "EXEC" { end.starts_with(b"-EXECABORT ") } else { end == b"+OK\r\n" });
        assert_eq!(client.reply(), b"$-1\r\n");
        assert_eq!(client.reply(), b"+PONG\r\n");
    }
}
