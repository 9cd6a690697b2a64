//! Nothing comes between the commands of a transaction, and all of them run or none, whatever else the connection carries.

use super::transact;
use crate::support::{Client, Figures, Frame, Kind, Over, Proxy, Server, words};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

/// What both accounts hold together.
const SUM: i64 = 1_000;

/// Clients of each habit.
const CLIENTS: usize = 6;

/// Transactions of each client that makes some.
const EACH: usize = 400;

#[test]
fn transfers_keep_the_sum_that_every_transaction_sees() {
    for (kind, protocol) in [(Kind::Redis62, 2), (Kind::Redis70, 3), (Kind::Valkey91, 2)] {
        let server = Server::start(kind);
        let proxy = Proxy::patient(&server, |flags| {
            flags.args(["--workers", "1"]);
        });
        assert_eq!(proxy.connect().ask(&format!("MSET a {SUM} b 0")), b"+OK\r\n");
        thread::scope(|scope| {
            let (owner, over) = Over::flag();
            // Others share the connection: small requests one by one, and pipelines.
            let noise: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (mut client, over) = (proxy.connect(), over.clone());
                    scope.spawn(move || {
                        while !over.load(Relaxed) {
                            others(&mut client, number);
                        }
                    })
                })
                .collect();
            let transfers: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let mut client = client_of(&proxy, protocol);
                    scope.spawn(move || transfer(&mut client, number))
                })
                .collect();
            let readers: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let mut client = client_of(&proxy, protocol);
                    scope.spawn(move || (0..EACH).for_each(|_| look(&mut client)))
                })
                .collect();
            transfers.into_iter().chain(readers).for_each(|client| client.join().expect("it is right"));
            drop(owner);
            noise.into_iter().for_each(|client| client.join().expect("it is served"));
        });
        // Half of the transfers went the other way.
        let mut client = server.connect();
        let left = |client: &mut Client, key: &str| client.frame(&format!("GET {key}")).as_text().parse::<i64>();
        assert_eq!((left(&mut client, "a"), left(&mut client, "b")), (Ok(SUM), Ok(0)), "{}", kind.name());
        Figures::of(&format!("transfers on {}", kind.name())).add("transactions", 2 * CLIENTS * EACH);
    }
}

fn client_of(proxy: &Proxy, protocol: u8) -> Client {
    let mut client = proxy.connect();
    if protocol == 3 {
        client.hello3();
    }
    client
}

fn others(client: &mut Client, number: usize) {
    let (set, get) = (words(&format!("SET own{number} {number}")), words(&format!("GET own{number}")));
    let replies = client.pipeline(&[set, get, words("ECHO here")]).concat();
    assert_eq!(replies, format!("+OK\r\n$1\r\n{number}\r\n$4\r\nhere\r\n").into_bytes());
}

/// There and back; each transaction sees only itself between its first command and its last.
fn transfer(client: &mut Client, number: usize) {
    for round in 0..EACH {
        let (from, to) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        let mark = format!("{number}:{round}");
        let reply = transact(
            client,
            &[
                format!("SET mark {mark}"),
                format!("DECRBY {from} {number}"),
                "GET mark".to_owned(),
                format!("INCRBY {to} {number}"),
                "GET mark".to_owned(),
            ],
        );
        let reply = Frame::whole(&reply);
        assert_eq!((reply.items[2].as_text(), reply.items[4].as_text()), (mark.clone(), mark));
        let [left, right] = [1, 3].map(|at| reply.items[at].as_text().parse::<i64>().expect("a number"));
        assert_eq!(left + right, SUM);
    }
}

fn look(client: &mut Client) {
    let reply = Frame::whole(&transact(client, &["GET a", "GET b"]));
    let held = reply.items.iter().map(|item| item.as_text().parse::<i64>().expect("a number"));
    assert_eq!(held.sum::<i64>(), SUM);
}

/// Many transactions in one write, between other requests, of one client after the other.
#[test]
fn pipelined_transactions_stay_in_order() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let mut client = proxy.connect();
    let mut requests = Vec::new();
    let mut due = Vec::new();
    for number in 0..500 {
        requests.extend(["INCR n", "MULTI", "INCR n", "INCR n", "EXEC", "PING"].map(words));
        let counted = format!(":{}\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n", 3 * number + 1);
        due.extend(counted.into_bytes());
        due.extend(format!("*2\r\n:{}\r\n:{}\r\n+PONG\r\n", 3 * number + 2, 3 * number + 3).into_bytes());
    }
    let replies = client.pipeline(&requests).concat();
    assert!(replies == due, "{}", super::shown(&replies));
}

/// The largest that shares a connection, and replies far longer than what is held back.
#[test]
fn large_transactions_and_large_replies_arrive_whole() {
    let server = Server::start(Kind::Valkey91);
    let proxy = Proxy::patient(&server, |_| {});
    let mut client = proxy.connect();
    let value = "v".repeat(900);
    let commands: Vec<String> = (0..1_000).map(|number| format!("SET key{number} {value}")).collect();
    let reply = transact(&mut client, &commands);
    assert_eq!(reply, [b"*1000\r\n".to_vec(), b"+OK\r\n".repeat(1_000)].concat());
    let commands: Vec<String> = (0..1_000).map(|number| format!("GET key{number}")).collect();
    let reply = transact(&mut client, &commands);
    assert_eq!(reply, [b"*1000\r\n".to_vec(), format!("$900\r\n{value}\r\n").repeat(1_000).into_bytes()].concat());
    let large = "w".repeat(1_000_000);
    let reply = transact(&mut client, &[format!("SET large {large}"), "GET large".to_owned(), "GET large".to_owned()]);
    let each = format!("$1000000\r\n{large}\r\n");
    assert!(reply == format!("*3\r\n+OK\r\n{each}{each}").into_bytes(), "{} bytes", reply.len());
    assert_eq!(client.ask("PING"), b"+PONG\r\n");
}
