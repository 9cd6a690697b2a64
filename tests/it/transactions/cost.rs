//! What transactions cost: no connections, and memory only while they are open.

use super::transact;
use crate::support::{
    Client, Figures, Kind, PATIENCE, Proxy, Server, alone, is_direct, resident_bytes, wait_until, words,
};
use std::thread;
use std::time::{Duration, Instant};

/// Clients that make transactions at once.
const CLIENTS: usize = 50;

/// Transactions of them together, where nobody says how many.
const TRANSACTIONS: usize = 10_000;

/// The pool's default size.
const POOL: u64 = 20;

/// `OUTRIGGER_TRANSACTIONS=100000` makes it long.
#[test]
fn fifty_clients_make_all_their_transactions_over_a_few_connections() {
    let count = std::env::var("OUTRIGGER_TRANSACTIONS").map_or(TRANSACTIONS, |count| count.parse().expect("a number"));
    let server = Server::start(Kind::Redis70);
    // Each look is a connection too.
    let received = || server.info_number("stats", "total_connections_received");
    let before = received() + 1;
    let proxy = Proxy::patient(&server, |_| {});
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = proxy.connect();
            scope.spawn(move || {
                for round in 1..=count / CLIENTS {
                    let reply = transact(&mut client, &[format!("INCR own{number}"), "INCR all".to_owned()]);
                    assert!(reply.starts_with(format!("*2\r\n:{round}\r\n:").as_bytes()), "{}", super::shown(&reply));
                }
            });
        }
    });
    let dialled = received() - before;
    let mut figures = Figures::of("transactions of fifty clients");
    figures.add("transactions", count);
    figures.add("seconds", format!("{:.1}", start.elapsed().as_secs_f64()));
    figures.add("connections", dialled);
    assert_eq!(server.connect().frame("GET all").as_text(), (count / CLIENTS * CLIENTS).to_string());
    if !is_direct() {
        assert!(dialled < POOL, "{dialled} connections");
    }
}

const MIB: u64 = 1 << 20;

/// How soon memory must have returned.
const RETURN: Duration = Duration::from_secs(10);

/// Queues most of what a transaction may hold, in the largest commands that are handled like small ones.
fn queue_much(client: &mut Client) {
    let value = "v".repeat(30_000);
    let mut requests = vec![words("MULTI")];
    requests.extend((0..30).map(|number| words(&format!("SET key{number} {value}"))));
    let replies = client.pipeline(&requests);
    assert_eq!(replies.concat(), [b"+OK\r\n".to_vec(), b"+QUEUED\r\n".repeat(30)].concat());
}

#[test]
fn alone_memory_of_transactions_that_are_not_ended_returns() {
    const AT_ONCE: usize = 60;
    let _alone = alone();
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let Some(pid) = proxy.pid() else { return };
    let mut clients: Vec<_> = (0..AT_ONCE).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("SET k v"), b"+OK\r\n"));
    let before = resident_bytes(pid);
    clients.iter_mut().for_each(queue_much);
    let queued = resident_bytes(pid);
    // A third each: discarded, spoilt, abandoned.
    for (number, client) in clients.iter_mut().enumerate() {
        match number % 3 {
            0 => assert_eq!(client.ask("DISCARD"), b"+OK\r\n"),
            1 => assert!(client.ask("GET").starts_with(b"-ERR wrong number")),
            _ => {}
        }
    }
    let mut number = 0;
    clients.retain(|_| {
        number += 1;
        number % 3 != 0
    });
    let bound = before + before / 5 + 8 * MIB;
    let start = Instant::now();
    wait_until("memory has returned", RETURN, || resident_bytes(pid) <= bound);
    let mut figures = Figures::of("60 open transactions of 900 KB");
    figures.add("before_kib", before / 1024);
    figures.add("queued_kib", queued / 1024);
    figures.add("returned_to_kib", resident_bytes(pid) / 1024);
    figures.add("within_ms", start.elapsed().as_millis());
    assert!(queued > before + 40 * MIB, "nothing was queued");
}

/// What is queued counts, and who holds most has to go when there is no more room.
#[test]
fn open_transactions_stay_within_the_memory_limit() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--memory-limit", "16MiB"]);
    });
    let mut neighbour = proxy.connect();
    let mut clients: Vec<_> = (0..40).map(|_| proxy.connect()).collect();
    let mut requests = vec![words("MULTI")];
    requests.extend((0..30).map(|number| words(&format!("SET key{number} {}", "v".repeat(30_000)))));
    let requests = requests.concat();
    for client in &mut clients {
        // It may be the one to go.
        if client.try_send(&requests).is_ok() {
            (0..31).take_while(|_| matches!(client.try_reply(), Ok(Some(_)))).for_each(drop);
        }
        assert_eq!(neighbour.ask("SET k v"), b"+OK\r\n");
    }
    let mut served = || clients.iter_mut().filter_map(|client| client.exchange(&words("PING")).ok().flatten()).count();
    wait_until("there is room for the rest", PATIENCE, || served() <= 20);
    let kept = served();
    Figures::of("40 transactions of 900 KB in 16 MiB").add("kept", kept);
    assert!(kept >= 5, "only {kept} were kept");
    assert!(proxy.logged("disconnecting the client that holds most of it") > 0);
    assert_eq!(neighbour.ask("GET k"), b"$1\r\nv\r\n");
    proxy.assert_running();
}
