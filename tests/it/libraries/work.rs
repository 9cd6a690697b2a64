//! Libraries that live on transactions, blocking commands, publish and subscribe, or scripts, at their ordinary work:
//! several workers at once, while other clients send what is ordinary over the shared connections.
//!
//! Each has ten scenarios or more, with names, and what comes out of them through the proxy is what comes out directly.

mod fred;
mod redis_rs;

use super::corpus::Transcript;
use super::{SERVERS, run_between};
use crate::support::{Client, Kind, Over, Proxy, Server};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest that a scenario waits for one thing; a hundredth of it is usual.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two exchanges of a neighbour, which leaves the machine to those who work.
const NEIGHBOURS_PAUSE: Duration = Duration::from_millis(2);

#[test]
fn bullmq() {
    work("NODE", "bullmq_work.js");
}

#[test]
fn celery() {
    work("PYTHON", "celery_work.py");
}

#[test]
fn rq() {
    work("PYTHON", "rq_work.py");
}

#[test]
fn redis_py() {
    work("PYTHON", "redis_py_work.py");
}

#[test]
fn node_redis() {
    work("NODE", "node_redis_work.js");
}

#[test]
fn ioredis() {
    work("NODE", "ioredis_work.js");
}

#[test]
fn phpredis() {
    work("PHP", "phpredis_work.php");
}

#[test]
fn ruby_redis() {
    work("RUBY", "ruby_redis_work.rb");
}

#[test]
fn sidekiq() {
    work("RUBY", "sidekiq_work.rb");
}

/// Runs a script of `tests/clients` on every kind of server.
fn work(interpreter: &str, script: &str) {
    on_all_servers(|kind, direct, address| run_between(direct, address, kind, interpreter, script));
}

/// Runs a scenario of a Rust library on both sides, on every kind of server.
fn compare_work(library: &str, scenario: impl Fn(&str) -> Transcript + Sync) {
    on_all_servers(|kind, direct, address| {
        let [expected, seen] = [direct, address].map(|address| scenario(&format!("redis://{address}")));
        expected.assert_equal(&seen, &format!("{library} on {}", kind.name()));
    });
}

/// Calls `compare` with a kind of server, with the address of such a server, and with that of a proxy before another;
/// each side has neighbours.
///
/// The kinds come at once: much of the work is waiting.
fn on_all_servers(compare: impl Fn(Kind, &str, &str) + Sync) {
    thread::scope(|scope| {
        for kind in SERVERS {
            let compare = &compare;
            scope.spawn(move || {
                let (direct, behind) = (Server::start(kind), Server::start(kind));
                let mut proxy = Proxy::before(&behind);
                let addresses = [direct.address(), proxy.address().to_owned()];
                let neighbours = addresses.each_ref().map(|address| Neighbours::at(address));
                let [direct, through] = &addresses;
                compare(kind, direct, through);
                for neighbours in neighbours {
                    neighbours.assert_undisturbed();
                }
                proxy.assert_running();
            });
        }
    });
}

/// Clients that write and read on the connections that all share, and see what they have written.
struct Neighbours {
    over: Over,
    exchanges: Vec<JoinHandle<usize>>,
}

impl Neighbours {
    /// One of each protocol.
    fn at(address: &str) -> Self {
        let (over, is_over) = Over::flag();
        let exchanges = [2, 3].map(|protocol| {
            let (address, is_over) = (address.to_owned(), is_over.clone());
            thread::spawn(move || exchange(&address, protocol, &is_over))
        });
        Self { over, exchanges: exchanges.into() }
    }

    /// Ends them; fails if one of them had an error, or was hardly there.
    fn assert_undisturbed(self) {
        drop(self.over);
        for thread in self.exchanges {
            let count = thread.join().expect("a neighbour saw nothing but its own values");
            assert!(count >= 50, "a neighbour had only {count} exchanges");
        }
    }
}

/// Writes and reads until it is told to end; returns how often.
fn exchange(address: &str, protocol: u8, is_over: &AtomicBool) -> usize {
    let mut client = Client::connect(address);
    if protocol == 3 {
        client.hello3();
    }
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        assert_eq!(client.ask(&format!("SET neighbour:{protocol} {count:06}")), b"+OK\r\n");
        let value = client.ask(&format!("GET neighbour:{protocol}"));
        assert_eq!(value, format!("$6\r\n{count:06}\r\n").into_bytes(), "a neighbour's value");
        count += 1;
        thread::sleep(NEIGHBOURS_PAUSE);
    }
    count
}

/// Waits until `condition` holds; panics with `what` after a while.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Panics if the scenario has come to a standstill.
async fn within_limit(scenario: &str, running: impl Future<Output = ()>) {
    let ended = tokio::time::timeout(2 * PATIENCE, running).await;
    ended.unwrap_or_else(|_| panic!("the scenario {scenario} did not end within {:?}", 2 * PATIENCE));
}
