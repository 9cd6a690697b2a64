//! The number of upstream connections and of clients.

use crate::support::{Client, Figures, Kind, Over, Proxy, Server, is_direct, others, wait_until, words};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a client may wait for the replies of one small pipeline.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

#[test]
fn the_pool_bound_holds_and_everyone_is_served() {
    const POOL: usize = 20;
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2", "--pool-size", &POOL.to_string()]);
    });
    let (most, longest) = thread::scope(|scope| {
        let (owner, over) = Over::flag();
        let watched = &server;
        let watcher = scope.spawn(move || most_connections(watched, &over));
        // Three clients of each database and protocol, so that both workers get some of most.
        let clients: Vec<_> = (0..96)
            .map(|number| {
                scope.spawn({
                    let proxy = &proxy;
                    move || longest_wait(proxy.connect(), number % 16, number / 16 % 2 == 1)
                })
            })
            .collect();
        let longest = clients.into_iter().map(|client| client.join().expect("every client is served")).max();
        drop(owner);
        (watcher.join().expect("the watcher does not fail"), longest.expect("there are clients"))
    });
    let mut figures = Figures::of("16 databases, 2 protocols, 2 workers");
    figures.add("connections_at_once", most);
    figures.add("connections_ever", server.info_number("stats", "total_connections_received"));
    figures.add("longest_wait_ms", longest.as_millis());
    assert!(most <= POOL || is_direct(), "{most} upstream connections at once");
    assert!(longest <= LONGEST_WAIT, "a client waited {longest:?}");
}

/// Watches the server until `over`, by a connection that does not count.
fn most_connections(server: &Server, over: &AtomicBool) -> usize {
    let mut admin = server.connect();
    let mut most = 0;
    while !over.load(Relaxed) {
        most = most.max(others(&mut admin).len());
    }
    most
}

/// A client that uses one database all the time; returns how long the slowest of its pipelines took.
fn longest_wait(mut client: Client, database: u32, resp3: bool) -> Duration {
    if resp3 {
        client.hello3();
    }
    client.select(database);
    let value = format!("database-{database}");
    let set = words(&format!("SET k {value}"));
    let requests: Vec<_> = [set, words("GET k")].iter().cycle().take(40).cloned().collect();
    let due = format!("+OK\r\n${}\r\n{value}\r\n", value.len()).repeat(20);
    let waits = (0..200).map(|_| {
        let start = Instant::now();
        assert_eq!(String::from_utf8_lossy(&client.pipeline(&requests).concat()), due);
        start.elapsed()
    });
    waits.max().expect("there are rounds")
}

#[test]
fn one_client_too_many_is_told_so() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--max-clients", "10"]);
    });
    let mut clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING"), b"+PONG\r\n");
    }
    for speaks in [false, true] {
        let mut one_more = proxy.connect();
        if speaks {
            one_more.send(&words("PING"));
        }
        let told = one_more.rest().expect("an orderly end");
        assert_eq!(
            told.escape_ascii().to_string(),
            "-ERR max number of clients reached\\r\\n",
            "speaks first: {speaks}"
        );
    }
    clients.pop();
    wait_until("the free place is given to another", Duration::from_secs(5), || {
        proxy.connect().exchange(b"PING\r\n").is_ok_and(|reply| reply.as_deref() == Some(b"+PONG\r\n"))
    });
    for client in &mut clients {
        assert_eq!(client.ask("PING"), b"+PONG\r\n");
    }
}
